# SPDX-License-Identifier: GPL-2.0-only
"""What a bisection makes of what it saw: one commit's verdict, and what is tried next.  Pure.

Two functions.  :func:`judge` takes everything that was seen of one candidate and says good, bad, skip, or how much is
still to be seen.  :func:`decide` takes the candidates that are left and the verdicts so far, and says which one to try,
that the first bad one is found, or that only skipped ones are left.

>>> judge([Word.INFRA, Word.PASS], Policy(passes=2)).missing
1
>>> decide([Candidate("c", 1), Candidate("b", 1), Candidate("d", 0)], "d", {})
Try(name='c')
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_DRAW = (1103515245, 12345, 1 << 31)
"""A linear congruential generator (that of the C standard's example): the same skips give the same choice again."""
MIDDLE = 1.5
"""Power of the draw behind skipped candidates, as in ``git bisect``: mostly near the middle, now and then far away."""


class Word(enum.Enum):
    """What one attempt at a candidate showed."""

    NOTHING = ""
    PASS = "pass"
    FAULT = "fault"
    """What is looked for: the same signature, or the quantity beyond its bound."""
    OTHER = "other"
    """The kernel did something wrong, but not that."""
    NO_BUILD = "no-build"
    NO_BOOT = "no-boot"
    ABSENT = "absent"
    """Nothing to judge: the case was skipped, or the counter is not there."""
    INFRA = "infra"
    INCONCLUSIVE = "inconclusive"


class Mark(enum.Enum):
    """The verdict on a candidate."""

    OPEN = "open"
    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"


_SKIPS: Mapping[Word, str] = {
    Word.NO_BUILD: "it does not build",
    Word.NO_BOOT: "it does not boot",
    Word.OTHER: "it deviates otherwise",
    Word.ABSENT: "it has nothing to judge",
}
"""One attempt suffices: these come from the candidate, not from the testbed."""
UNDECIDED = (Word.INFRA, Word.INCONCLUSIVE)
"""The testbed's trouble, or its noise: says nothing about the candidate."""


@dataclass(frozen=True)
class Policy:
    """How much has to be seen."""

    passes: int = 1
    """Passes that make a candidate good: more than one for a fault that does not always show."""
    undecided: int = 8
    """Runs without a verdict after which a candidate is skipped.  With one in five failing by bad luck, eight in a
    row happen once in 390,000 candidates; a testbed that fails always costs eight runs."""


@dataclass(frozen=True)
class Judgement:
    """The verdict on one candidate so far."""

    mark: Mark
    why: str
    missing: int = 0
    """Passes that are still to be seen, while it is open."""


def judge(words: Sequence[Word], policy: Policy) -> Judgement:
    """The verdict on a candidate of which ``words`` were seen, in any order.

    The fault makes it bad whatever else was seen.  Trouble of the testbed is neither good nor bad: it only counts
    towards giving up.
    """
    seen = Counter(words)
    if seen[Word.FAULT]:
        return Judgement(Mark.BAD, f"the fault showed in {seen[Word.FAULT]} of {_judged(seen)}")
    for word, why in _SKIPS.items():
        if seen[word]:
            return Judgement(Mark.SKIP, why)
    if seen[Word.PASS] >= policy.passes:
        return Judgement(Mark.GOOD, f"{seen[Word.PASS]} of {seen[Word.PASS]} pass")
    undecided = sum(seen[word] for word in UNDECIDED)
    if undecided >= policy.undecided:
        return Judgement(Mark.SKIP, f"{undecided} runs decided nothing")
    return Judgement(Mark.OPEN, "", policy.passes - seen[Word.PASS])


def _judged(seen: Counter[Word]) -> int:
    return seen[Word.PASS] + seen[Word.FAULT]


@dataclass(frozen=True)
class Candidate:
    """One that may be the first bad one."""

    name: str
    rules_out: int
    """How many candidates its verdict rules out at least, whichever it is."""


@dataclass(frozen=True)
class Try:
    """This one is to be judged next."""

    name: str


@dataclass(frozen=True)
class Found:
    """The first bad one."""

    name: str


@dataclass(frozen=True)
class Suspects:
    """The first bad one is among these, and all but the last were skipped."""

    names: tuple[str, ...]


def decide(candidates: Sequence[Candidate], bad: str, marks: Mapping[str, Mark]) -> Try | Found | Suspects:
    """What follows from the verdicts.

    ``candidates``: what may be the first bad one given all good and bad verdicts, the best to try first, ``bad`` (the
    earliest that is known to be bad) among them.  ``marks`` says which of them were skipped.
    """
    rest = [candidate for candidate in candidates if candidate.name != bad]
    if not rest:
        return Found(bad)
    open_ones = [candidate for candidate in rest if marks.get(candidate.name) is not Mark.SKIP]
    if not open_ones:
        return Suspects((*(candidate.name for candidate in rest), bad))
    if open_ones[0] is rest[0]:
        return Try(rest[0].name)
    return Try(_away(open_ones, skipped=len(rest) - len(open_ones)))


def _away(open_ones: Sequence[Candidate], skipped: int) -> str:
    """Not simply the best one left: that is beside what was skipped, and such commits are broken in a row."""
    factor, term, modulus = _DRAW
    drawn = (((len(open_ones) + skipped) * factor + term) % modulus) / modulus
    return open_ones[int(len(open_ones) * drawn**MIDDLE)].name


def in_a_row(names: Sequence[str], bad: str, goods: Collection[str]) -> list[Candidate]:
    """The candidates of an ordered list (no history, no merges), as :func:`decide` wants them."""
    last = names.index(bad)
    first = max((names.index(name) for name in goods if names.index(name) < last), default=-1) + 1
    some = names[first : last + 1]
    found = [Candidate(name, min(n + 1, len(some) - n - 1)) for n, name in enumerate(some)]
    return sorted(found, key=lambda candidate: -candidate.rules_out)
