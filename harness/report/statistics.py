# SPDX-License-Identifier: GPL-2.0-only
"""Many runs of the same cases: how often a verdict was a false alarm, and how much of each bound is ever used.

Runs are added one after the other and forgotten; what stays grows with the cases, not with the runs.  Kernels that
differ in name, release or design are kept apart.  Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from harness.run.result import CaseResult, Finding, RunInfo
from harness.run.verdict import Verdict

CONFIDENCE = 0.95
WIDEST = 12
"""Counters of a kernel that are listed, those with the widest bounds first."""


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """One counter with interval predictions, over all steps and runs of a kernel."""

    counter: str
    steps: int
    """Steps of the cases in which it has an interval."""
    width: int
    """Highest less lowest value of its widest interval."""
    spread: int
    """The most that two runs of one step were apart."""
    used: float
    """Mean over the steps of spread to width: 1 where every bound is reached at both ends."""


class Slow(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one case over all runs."""

    case: str
    median: float
    most: float


class KernelStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """All runs of one kernel as one design."""

    kernel: str
    design: str
    runs: int
    cases: int
    """Cases that were run, skips not among them."""
    verdicts: dict[str, int]
    """How often each verdict was given to a case."""
    again: int
    """Cases that passed after they had been measured again."""
    judged: int
    """Predictions that were held against an observation."""
    exact: int
    """Those of one value."""
    not_whole: int
    """Runs that never came to their end."""
    bounds: tuple[Bound, ...]
    slow: tuple[Slow, ...]

    @property
    def alarms(self) -> int:
        """Cases that did not pass, whatever the verdict."""
        return sum(count for verdict, count in self.verdicts.items() if verdict not in _QUIET)

    @property
    def alarm_rate_below(self) -> float:
        """Upper bound of the share of cases that raise a false alarm, at the confidence of ``CONFIDENCE``."""
        return upper_bound(self.alarms, self.cases)


_QUIET = frozenset({Verdict.PASS.value, Verdict.XFAIL.value, Verdict.SKIP.value})


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """What was found over all runs."""

    kernels: tuple[KernelStatistics, ...]

    @property
    def runs(self) -> int:
        """All of them, those that never came to their end among them."""
        return sum(kernel.runs + kernel.not_whole for kernel in self.kernels)

    @property
    def quiet(self) -> bool:
        """Whether every case of every run passed, and every run came to its end."""
        return not any(kernel.alarms or kernel.not_whole for kernel in self.kernels)


def upper_bound(hits: int, tries: int, confidence: float = CONFIDENCE) -> float:
    """The one-sided Clopper-Pearson bound of a rate, by bisection of the binomial distribution.

    >>> round(upper_bound(0, 300), 4)
    0.0099
    >>> upper_bound(3, 3)
    1.0
    """
    if hits >= tries:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(hits, tries, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(hits: int, tries: int, rate: float) -> float:
    """Probability of that many hits or fewer."""
    if rate in (0.0, 1.0):
        return 1.0 - rate
    total = 0.0
    for k in range(hits + 1):
        ways = math.lgamma(tries + 1) - math.lgamma(k + 1) - math.lgamma(tries - k + 1)
        total += math.exp(ways + k * math.log(rate) + (tries - k) * math.log1p(-rate))
    return total


@dataclass
class _Step:
    """One counter in one step of one case."""

    low: int
    high: int
    least: int
    most: int

    def see(self, finding: Finding, observed: int) -> None:
        self.low, self.high = min(self.low, finding.low), max(self.high, finding.high)
        self.least, self.most = min(self.least, observed), max(self.most, observed)


@dataclass
class _Kernel:
    runs: int = 0
    not_whole: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    again: int = 0
    judged: int = 0
    exact: int = 0
    steps: dict[tuple[str, int, str], _Step] = field(default_factory=dict)
    """By counter, then step and case."""
    seconds: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Collector:
    """Adds runs up; :meth:`statistics` at any time."""

    kernels: dict[tuple[str, str], _Kernel] = field(default_factory=dict)

    def add(self, info: RunInfo | None, cases: Sequence[CaseResult]) -> None:
        """One run; without ``info`` it is one that never came to its end, of the kernel that its cases name."""
        kernel = self.kernels.setdefault(_which(info, cases), _Kernel())
        if info is None:
            kernel.not_whole += 1
        else:
            kernel.runs += 1
        for case in cases:
            name = f"{case.suite}/{case.case}" + (f" repeat {case.repeat}" if case.repeat > 1 else "")
            kernel.verdicts[case.verdict.value] += 1
            kernel.again += case.verdict is Verdict.PASS and case.again
            if case.verdict is not Verdict.SKIP:
                kernel.seconds.setdefault(name, []).append(case.seconds)
            for step in case.steps:
                kernel.judged += sum(map(len, step.still.values()))
                kernel.exact += sum(map(len, step.still.values()))
                for finding in step.findings:
                    _see(kernel, name, step.index, finding)

    def statistics(self) -> Statistics:
        """What was found so far, kernels in the order in which they were first met."""
        return Statistics(kernels=tuple(_sum_up(*key, kernel) for key, kernel in self.kernels.items()))


def _which(info: RunInfo | None, cases: Sequence[CaseResult]) -> tuple[str, str]:
    if info is not None:
        patches = info.kernel.get("patches", "")
        name = info.kernel.get("name", "?") + (f" + {patches}" if patches else "")
        return f"{info.kernel.get('release', '?')} [{name}]", info.design
    named = next((case for case in cases if case.kernel), None)
    return (named.kernel, named.design) if named else ("unknown", "unknown")


def _see(kernel: _Kernel, case: str, index: int, finding: Finding) -> None:
    if finding.observed is None:
        return
    kernel.judged += 1
    kernel.exact += finding.low == finding.high
    key = finding.counter, index, case
    seen = kernel.steps.get(key)
    if seen is None:
        kernel.steps[key] = _Step(finding.low, finding.high, finding.observed, finding.observed)
    else:
        seen.see(finding, finding.observed)


def _sum_up(name: str, design: str, kernel: _Kernel) -> KernelStatistics:
    by_counter: dict[str, list[_Step]] = {}
    for (counter, _, _), step in kernel.steps.items():
        if step.high > step.low:
            by_counter.setdefault(counter, []).append(step)
    bounds = sorted((_bound(*item) for item in by_counter.items()), key=lambda one: (-one.width, one.counter))
    ran = {verdict: count for verdict, count in kernel.verdicts.items() if verdict != Verdict.SKIP.value}
    return KernelStatistics(
        kernel=name, design=design, runs=kernel.runs, cases=sum(ran.values()), verdicts=dict(kernel.verdicts),
        again=kernel.again, judged=kernel.judged, exact=kernel.exact, not_whole=kernel.not_whole,
        bounds=tuple(bounds), slow=_slowest(kernel.seconds),
    )  # fmt: skip


def _bound(counter: str, steps: Sequence[_Step]) -> Bound:
    return Bound(
        counter=counter,
        steps=len(steps),
        width=max(step.high - step.low for step in steps),
        spread=max(step.most - step.least for step in steps),
        used=sum((step.most - step.least) / (step.high - step.low) for step in steps) / len(steps),
    )


def _slowest(seconds: dict[str, list[float]]) -> tuple[Slow, ...]:
    found = (Slow(case=case, median=_median(times), most=max(times)) for case, times in seconds.items())
    return tuple(sorted(found, key=lambda one: (-one.median, one.case))[:WIDEST])


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
