# SPDX-License-Identifier: GPL-2.0-only
"""What the last results of a case on a line say together.  Pure.

Only *decided* results (pass, expected failure, deviation, crash, no-boot) say something about a kernel; the others are
counted and shown, and decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from harness.history.record import DEVIATIONS, Line
from harness.run.verdict import Verdict

DECIDED: Final = DEVIATIONS | {Verdict.PASS, Verdict.XFAIL}
WINDOW: Final = 100
"""Results of a series that rates are told of, unless somebody asks for another number."""
_Z: Final = 1.959963984540054
"""Of the interval of 95 %."""


@dataclass(frozen=True)
class Result:
    """One result of a series, with what its run knows."""

    place: str
    """Orders results by time."""
    verdict: Verdict
    signature: str
    sentence: str
    reason: str
    seconds: float
    run: str
    """Identity of the run."""
    started: str
    release: str
    build: str
    commit: str
    folder: str
    evidence: str

    @property
    def deviates(self) -> bool:
        return self.verdict in DEVIATIONS

    @property
    def kernel(self) -> str:
        """The kernel for people: its commit if it has one, else its release and how its build's identity begins."""
        return self.commit[:12] if self.commit else f"{self.release} ({self.build[:8]})"


@dataclass(frozen=True)
class Rate:
    """How often a case deviated, and between which bounds the rate lies with a confidence of 95 %."""

    deviating: int
    of: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.deviating} of {self.of} ({self.low:.0%} to {self.high:.0%})" if self.of else "none decided"


@dataclass(frozen=True)
class Quarantine:
    """A deviation that somebody knows of: it is shown, and does not decide."""

    number: int
    case: str
    signature: str
    kernel: str
    branch: str
    host: str
    reason: str
    link: str
    until: date

    def covers(self, line: Line, case: str, signature: str) -> bool:
        """Whether it is about this deviation of this case on this line."""
        wanted = (self.case, self.signature, self.kernel or line.kernel, self.branch or line.branch)
        return wanted == (case, signature, line.kernel, line.branch) and self.host in ("", line.host)

    def expired(self, today: date) -> bool:
        return today > self.until


@dataclass(frozen=True)
class Spell:
    """The present deviation: results without a break that show the same."""

    first: Result
    last_good: Result | None
    """The newest result before it that passes; None when there is none."""


@dataclass(frozen=True)
class CaseStatus:
    """One case on one line."""

    line: Line
    case: str
    newest: Result
    decided: Result | None
    """The newest result that says something about the kernel; None when none does."""
    spell: Spell | None
    """None when it passes, or nothing was decided."""
    rate: Rate
    flaky: bool
    """One build of the kernel both passed and deviated."""
    undecided: int
    """Results in the window that decided nothing."""
    window: tuple[Verdict, ...]
    """Verdicts in the window, oldest first."""
    quarantine: Quarantine | None
    """The one that covers the present deviation."""
    expired: Quarantine | None
    """One that covered it and no longer counts."""

    @property
    def verdict(self) -> Verdict:
        """What the case says now: its newest decided result, else its newest."""
        return (self.decided or self.newest).verdict

    @property
    def deciding(self) -> tuple[Verdict, ...]:
        """Verdicts that decide: not that of a quarantined deviation, but that of a newer result that is undecided."""
        present = () if self.quarantine is not None else (self.verdict,)
        return present if self.newest is self.decided else (*present, self.newest.verdict)


def rate(results: Sequence[Result]) -> Rate:
    """Of the decided results; the interval is Wilson's, which holds for few results and for rates near 0 and 1.

    >>> str(rate([]))
    'none decided'
    """
    decided = [result for result in results if result.verdict in DECIDED]
    deviating, of = sum(result.deviates for result in decided), len(decided)
    if not of:
        return Rate(0, 0, 0.0, 1.0)
    share, square = deviating / of, _Z * _Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = _Z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return Rate(deviating, of, max(0.0, middle - half), min(1.0, middle + half))


def flaky(results: Sequence[Result]) -> bool:
    """Whether one build of the kernel both passed and deviated: two builds that differ are no flaky case."""
    seen: dict[str, set[bool]] = {}
    for result in results:
        if result.verdict in DECIDED:
            seen.setdefault(result.build, set()).add(result.deviates)
    return any(len(outcomes) == 2 for outcomes in seen.values())


def covering(
    known: Sequence[Quarantine], line: Line, case: str, signature: str, today: date
) -> tuple[Quarantine | None, Quarantine | None]:
    """The quarantine that covers a deviation today, and the latest that did and has expired."""
    about = [one for one in known if one.covers(line, case, signature)]
    valid = max((one for one in about if not one.expired(today)), key=lambda one: one.until, default=None)
    expired = max((one for one in about if one.expired(today)), key=lambda one: one.until, default=None)
    return valid, None if valid is not None else expired


def judge(
    line: Line,
    case: str,
    window: Sequence[Result],
    spell: Spell | None,
    known: Sequence[Quarantine],
    today: date,
) -> CaseStatus:
    """The status from the newest results, oldest first (at least one) and the present spell."""
    decided = next((result for result in reversed(window) if result.verdict in DECIDED), None)
    signature = decided.signature if decided is not None and decided.deviates else ""
    valid, expired = covering(known, line, case, signature, today) if signature else (None, None)
    return CaseStatus(
        line=line,
        case=case,
        newest=window[-1],
        decided=decided,
        spell=spell,
        rate=rate(window),
        flaky=flaky(window),
        undecided=sum(result.verdict not in DECIDED for result in window),
        window=tuple(result.verdict for result in window),
        quarantine=valid,
        expired=expired,
    )
