# SPDX-License-Identifier: GPL-2.0-only
"""How sharp the predictions of a run were: a bound that every observation fits says nothing.

An interval is worth what its width is beside what the counter does: 0..+4 for a counter that moves by 512 is nearly
exact, the same for one that never moves is no statement.  So each counter's widths are set against its movements in the
same steps.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.run.result import CaseResult, CounterSharpness, Finding, Sharpness


@dataclass
class _Sum:
    """One counter, summed over the steps."""

    exact: int = 0
    intervals: int = 0
    width: int = 0
    width_max: int = 0
    effect: int = 0
    """Movement in the steps with an interval."""
    effect_max: int = 0

    def add(self, finding: Finding) -> None:
        moved = abs(finding.observed or 0)
        self.effect_max = max(self.effect_max, moved)
        width = finding.high - finding.low
        if not width:
            self.exact += 1
            return
        self.intervals += 1
        self.width += width
        self.width_max = max(self.width_max, width)
        self.effect += moved

    def told(self, counter: str) -> CounterSharpness:
        steps = max(1, self.intervals)
        return CounterSharpness(
            counter=counter,
            exact=self.exact,
            intervals=self.intervals,
            width_mean=round(self.width / steps, 2),
            width_max=self.width_max,
            effect_mean=round(self.effect / steps, 2),
            effect_max=self.effect_max,
            ratio=round(self.width / self.effect, 3) if self.intervals and self.effect else None,
        )


def sharpness(cases: Iterable[CaseResult]) -> Sharpness:
    """Over every step of every case; predictions of counters that could not be observed are left out."""
    sums: dict[str, _Sum] = {}
    still = exact = 0
    for case in cases:
        for step in case.steps:
            for counters in step.still.values():
                still += len(counters)
                for counter in counters:
                    sums.setdefault(counter, _Sum()).exact += 1
            for finding in step.findings:
                if finding.observed is None:
                    continue
                sums.setdefault(finding.counter, _Sum()).add(finding)
                still += finding.low == finding.high == 0
                exact += finding.low == finding.high != 0
    told = [held.told(counter) for counter, held in sums.items() if held.intervals or held.effect_max]
    return Sharpness(
        still=still,
        exact=exact,
        intervals=sum(counter.intervals for counter in told),
        counters=tuple(sorted(told, key=_least_sharp_first)),
    )


def _least_sharp_first(counter: CounterSharpness) -> tuple[int, float, str]:
    """Intervals around nothing, then the widest beside their effect, then what is always exact."""
    if not counter.intervals:
        return 2, 0.0, counter.counter
    return (0, -counter.width_mean, counter.counter) if counter.ratio is None else (1, -counter.ratio, counter.counter)
