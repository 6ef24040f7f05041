# SPDX-License-Identifier: GPL-2.0-only
"""Two runs, case by case: verdicts that changed, counters that moved otherwise, steps that take longer.

What is exact must be the same in two runs of one kernel; what is an interval may differ.  Wall times are those of what
a step does, without settling and sampling.  They are compared in pairs, the same step of the same case in both runs, so
that a case which is slow by nature weighs nothing.  Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy

from harness.run.result import CaseResult, Finding, RunInfo, StepResult

RESAMPLES, SEED = 2000, 0
"""Of the bootstrap behind an interval of confidence; seeded, so that the same two runs give the same text."""
CONFIDENCE = 95.0
FEWEST_PAIRS = 5
"""Pairs of steps below which a ratio says nothing."""


class VerdictChange(msgspec.Struct, frozen=True, kw_only=True):
    """A case with another verdict, or one that only one of the runs has (its other verdict is then '')."""

    case: str
    a: str
    b: str
    sentence: str
    """Of the run in which it is worse off: the second, if both have the case."""


class CounterChange(msgspec.Struct, frozen=True, kw_only=True):
    """One counter over one step that moved by another amount in the second run."""

    case: str
    step: int
    text: str
    counter: str
    a: int | None
    b: int | None
    exact: bool
    """Whether both runs predicted one value."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Wall time of one kind of step: how many times as long it takes in the second run, and between which bounds."""

    kind: str
    pairs: int
    a: float
    b: float
    """Seconds of such a step, the median of each run."""
    ratio: float
    low: float
    high: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All that two runs have in common, and do not."""

    a: str
    b: str
    """What ran in each: kernel and design."""
    cases: int
    """Cases that both have."""
    verdicts: tuple[VerdictChange, ...]
    counters: tuple[CounterChange, ...]
    same_exact: int
    """Exact predictions whose counter moved by the same in both."""
    costs: tuple[Cost, ...]

    @property
    def exact(self) -> tuple[CounterChange, ...]:
        """The changes of counters that must not be."""
        return tuple(change for change in self.counters if change.exact)

    @property
    def same(self) -> bool:
        """Whether both runs came to the same: the same verdicts, and the same exact counters."""
        return not self.verdicts and not self.exact

    def slower_than(self, ratio: float) -> tuple[Cost, ...]:
        """Kinds of steps that surely take more than ``ratio`` times as long in the second run."""
        return tuple(cost for cost in self.costs if cost.low > ratio)


def label(info: RunInfo | None, folder: Path) -> str:
    """A run in a few words: its kernel, its design, its folder."""
    if info is None:
        return f"{folder} (never came to its end)"
    release = info.kernel.get("release", "")
    return f"{release} [{info.kernel.get('name', '?')}] as {info.design} ({folder})"


def compare(a: str, first: Sequence[CaseResult], b: str, second: Sequence[CaseResult]) -> Comparison:
    """``first`` against ``second``, which are called ``a`` and ``b``."""
    ours, theirs = _by_name(first), _by_name(second)
    both = [(name, ours[name], theirs[name]) for name in ours if name in theirs]
    verdicts = [
        VerdictChange(case=name, a=x.verdict.value, b=y.verdict.value, sentence=y.sentence)
        for name, x, y in both
        if x.verdict is not y.verdict
    ]
    verdicts += [_alone(name, x, "") for name, x in ours.items() if name not in theirs]
    verdicts += [_alone(name, None, y.verdict.value, y) for name, y in theirs.items() if name not in ours]
    changes: list[CounterChange] = []
    same = 0
    for name, x, y in both:
        for before, after in zip(x.steps, y.steps, strict=False):
            found, held = _counters(name, before, after)
            changes += found
            same += held
    return Comparison(
        a=a, b=b, cases=len(both), verdicts=tuple(verdicts), counters=tuple(changes), same_exact=same,
        costs=_costs(_pairs((x, y) for _, x, y in both)),
    )  # fmt: skip


def _by_name(cases: Iterable[CaseResult]) -> dict[str, CaseResult]:
    found: dict[str, CaseResult] = {}
    for case in cases:
        repeat = f" repeat {case.repeat}" if case.repeat > 1 else ""
        found[f"{case.suite}/{case.case}{repeat}"] = case
    return found


def _alone(name: str, a: CaseResult | None, b: str, theirs: CaseResult | None = None) -> VerdictChange:
    case = a or theirs
    assert case is not None, "a case that neither run has"
    return VerdictChange(case=name, a=a.verdict.value if a else "", b=b, sentence=case.sentence)


def _counters(case: str, before: StepResult, after: StepResult) -> tuple[list[CounterChange], int]:
    """Counters that both steps predicted and that moved by another amount; and how many exact ones moved the same."""
    if before.text != after.text:
        return [], 0
    ours, theirs = _findings(before), _findings(after)
    changes, same = [], 0
    for counter in sorted(ours.keys() & theirs.keys()):
        x, y = ours[counter], theirs[counter]
        exact = x.low == x.high and y.low == y.high
        if x.observed == y.observed:
            same += exact
        else:
            changes.append(
                CounterChange(
                    case=case, step=before.index, text=before.text, counter=counter, a=x.observed, b=y.observed,
                    exact=exact,
                )
            )  # fmt: skip
    return changes, same


def _findings(step: StepResult) -> Mapping[str, Finding]:
    return {finding.counter: finding for finding in (*step.findings, *step.stayed)}


def kind_of(text: str) -> str:
    """The kind of a step by its sentence: its first word, and to which side a conversion goes.

    >>> kind_of("convert g0.r0[0:512] to private by 1"), kind_of("punch hole g0.r0[7:8]")
    ('convert to private', 'punch')
    """
    word, *rest = text.split()
    side = next((f" to {side}" for side in ("private", "shared") if "to" in rest and side in rest), "")
    return f"{word}{side}" if word == "convert" else word


def _pairs(cases: Iterable[tuple[CaseResult, CaseResult]]) -> dict[str, list[tuple[float, float]]]:
    """Seconds of the same step in both runs, by the kind of the step."""
    found: dict[str, list[tuple[float, float]]] = {}
    for x, y in cases:
        for before, after in zip(x.steps, y.steps, strict=False):
            pair = before.act_seconds, after.act_seconds
            if not all(pair):  # of a run that did not measure it
                pair = before.seconds, after.seconds
            if before.text == after.text and all(pair):
                found.setdefault(kind_of(before.text), []).append(pair)
    return found


def _costs(pairs: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[Cost, ...]:
    counted = Counter({kind: len(values) for kind, values in pairs.items()})
    return tuple(_cost(kind, pairs[kind]) for kind in sorted(counted) if counted[kind] >= FEWEST_PAIRS)


def _cost(kind: str, pairs: Sequence[tuple[float, float]]) -> Cost:
    """The median ratio of pairs, with its bootstrapped bounds: one slow step moves neither."""
    ratios = numpy.log([b / a for a, b in pairs])
    drawn = numpy.random.default_rng(SEED).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = numpy.percentile(numpy.median(drawn, axis=1), [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    a, b = (float(numpy.median(side)) for side in zip(*pairs, strict=True))
    return Cost(
        kind=kind, pairs=len(pairs), a=a, b=b, ratio=round(math.exp(float(numpy.median(ratios))), 4),
        low=round(math.exp(float(low)), 4), high=round(math.exp(float(high)), 4),
    )  # fmt: skip
