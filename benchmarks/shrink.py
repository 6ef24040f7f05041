# SPDX-License-Identifier: GPL-2.0-only
"""How often a kernel has to be asked until a scenario is as small as it can be: our shrinker beside Hypothesis's.

``python benchmarks/shrink.py``: a made-up fault that takes three steps on ranges that meet; no kernel is needed.
Hypothesis draws and shrinks from its own strategies, ours begins with the first scenario that Hypothesis found.
"""

from __future__ import annotations

import statistics
from random import Random

from hypothesis import HealthCheck, find, settings
from hypothesis import strategies as st

from harness.explore.shrink import shrink
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Convert, Fallocate, PageRange, Populate, PunchHole, Side, Step, Touch

SEEDS = range(20)
PAGES, COUNT = 4096, 512


@st.composite
def _range(draw: st.DrawFn) -> PageRange:
    start = draw(st.integers(0, PAGES - 1))
    count = draw(st.integers(1, min(COUNT, PAGES - start)))
    return PageRange(draw(st.sampled_from(("g0.r0", "g1.r0"))), start, count)


_STEP = st.one_of(
    st.builds(Convert, _range(), st.sampled_from((Side.SHARED, Side.PRIVATE)), st.sampled_from((512, 1, 7))),
    st.builds(Populate, _range()),
    st.builds(Touch, _range(), st.sampled_from((1, 7)), st.booleans()),
    st.builds(Fallocate, _range()),
    st.builds(PunchHole, _range()),
)


def _meets(one: Step, other: Step) -> bool:
    a, b = one.ranges()[0], other.ranges()[0]
    return a.region == b.region and a.start < b.end and b.start < a.end


def deviates(steps: tuple[Step, ...]) -> bool:
    """Converted to private, then filled where it was, then punched where it was filled."""
    return any(
        isinstance(first, Convert)
        and first.to is Side.PRIVATE
        and isinstance(second, Populate | Fallocate)
        and isinstance(third, PunchHole)
        and _meets(first, second)
        and _meets(second, third)
        for at, first in enumerate(steps)
        for then, second in enumerate(steps[at + 1 :], at + 1)
        for third in steps[then + 1 :]
    )


def main() -> None:
    """One line for each shrinker."""
    asked: dict[str, list[int]] = {"Hypothesis": [], "ours": []}
    left: dict[str, list[int]] = {"Hypothesis": [], "ours": []}
    for seed in SEEDS:
        answers: list[tuple[bool, tuple[Step, ...]]] = []

        def shown(steps: tuple[Step, ...], answers: list[tuple[bool, tuple[Step, ...]]] = answers) -> bool:
            answers.append((deviates(steps), steps))
            return answers[-1][0]

        quiet = settings(max_examples=50_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        smallest = find(st.lists(_STEP, min_size=1, max_size=8).map(tuple), shown, settings=quiet, random=Random(seed))
        first = next(index for index, (bad, _) in enumerate(answers) if bad)
        asked["Hypothesis"].append(len(answers) - first - 1)
        left["Hypothesis"].append(len(smallest))
        begin, answers[:] = Scenario("first", answers[first][1], guests=2), []
        ours = shrink(begin, lambda scenario: shown(scenario.steps))
        asked["ours"].append(len(answers))
        left["ours"].append(len(ours.steps))
    for name, counts in asked.items():
        middle, most = statistics.median(counts), max(counts)
        print(f"{name:<11} asks {middle:.0f} times (median), {most} at most; {max(left[name])} steps left at most")


if __name__ == "__main__":
    main()
