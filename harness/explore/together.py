# SPDX-License-Identifier: GPL-2.0-only
"""Several scenarios one after another on one restored testbed, each on chunks of its own.

Restoring a testbed costs more than walking a short scenario: QEMU translates all code anew.  So a few are joined to one
scenario, in which the first one uses the first chunks of each region, the next one those behind; the model follows the
whole of it like any other.  What does not pass there is run again by itself, on a testbed of its own, and that is what
counts; a fault that shows only behind the others is kept as the joined scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise

import msgspec

from harness.explore.case import Behind, CaseReport, Met, Runner, all_of, run_case
from harness.explore.shrink import moved
from harness.explore.signature import signature
from harness.run.outcome import outcome
from harness.run.result import CaseResult
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import CHUNK_PAGES, Close, Pressure

CHUNKS_MOST = 32
"""Chunks of a guest's region at most, for all scenarios together: half of what its memory has (``LaunchRecord``), for
its kernel lies there too."""


def together_at_most(wanted: int, chunks: int) -> int:
    """How many scenarios of ``chunks`` chunks may share a testbed where ``wanted`` should."""
    return max(1, min(wanted, CHUNKS_MOST // chunks))


def alone(scenario: Scenario) -> bool:
    """Whether it changes the host for whatever comes behind it: memory that pressure took is not given back."""
    return any(isinstance(step, Pressure) for step in scenario.steps)


def last(scenario: Scenario) -> bool:
    """Whether none can follow it, for a guest is gone."""
    return any(isinstance(step, Close) for step in scenario.steps)


def fits(scenario: Scenario, others: Sequence[Scenario]) -> bool:
    """Whether a scenario can be run together with others: on a testbed like theirs, and one at most ends a guest."""
    if not others:
        return True
    if alone(scenario) or any(map(alone, others)) or _needs(scenario) != _needs(others[0]):
        return False
    return not (last(scenario) and any(map(last, others)))


def _needs(scenario: Scenario) -> tuple[Scenario, int]:
    """What a scenario needs of a testbed, as something to be compared."""
    return msgspec.structs.replace(scenario, name="any", steps=(), seed=None), scenario.nodes


def join(scenarios: Sequence[Scenario], room: int) -> Scenario:
    """One scenario of several that fit together, in the order given; its testbed has room for ``room`` of them.

    The one that ends a guest has to be the last one.
    """
    first = scenarios[0]
    steps = [
        step
        for number, scenario in enumerate(scenarios)
        for step in _behind(scenario, number * first.chunks * CHUNK_PAGES).steps
    ]
    name = "+".join(scenario.name for scenario in scenarios)
    return msgspec.structs.replace(first, name=name, steps=tuple(steps), chunks=room * first.chunks, seed=None)


def _behind(scenario: Scenario, pages: int) -> Scenario:
    """The scenario with every range ``pages`` pages further up."""
    return moved(scenario, lambda page: page + pages)


def run_together(
    runner: Runner, scenarios: Sequence[Scenario], wanted: int, over: Callable[[], bool] = lambda: False
) -> Iterator[CaseReport]:
    """The report of each of some scenarios that fit together, ``wanted`` at most on a testbed; in any order.

    It ends early, without the others, behind one that shows something, and once ``over`` says so; but not before the
    first testbed.
    """
    left = sorted(scenarios, key=last)
    room = together_at_most(wanted, left[0].chunks) if left else 1
    while left and (len(left) == len(scenarios) or not over()):
        if room == 1 or alone(left[0]):
            reports = iter([run_case(runner, left[0], chained=True)])
        else:
            reports = _run_joined(runner, left[:room], room)
        for report in reports:
            yield report
            left.remove(report.scenario)
            if report.signature or report.behind:
                return


def _run_joined(runner: Runner, scenarios: list[Scenario], room: int) -> Iterator[CaseReport]:
    """The reports of the scenarios that were walked when they were run as one."""
    result, met = runner.run(join(scenarios, room), chained=True)
    ends = list(accumulate(len(scenario.steps) for scenario in scenarios))
    suspects = _suspects(result, ends)
    for number, (scenario, end) in enumerate(zip(scenarios[: suspects.start], ends, strict=False)):
        yield msgspec.structs.replace(_passed(scenario, result, met, end), again=result.again and number == 0)
    reports = [run_case(runner, scenarios[number]) for number in suspects]
    guilty = next((place for place, report in enumerate(reports) if report.signature), len(reports) - 1)
    for place, (number, report) in enumerate(zip(suspects, reports, strict=True)):
        shown = signature(result) if place == guilty else None
        if shown is not None and shown != report.signature:
            whole = join(scenarios[: number + 1], room)
            if result.verdict is Verdict.DEVIATES:
                whole = msgspec.structs.replace(whole, steps=whole.steps[: len(result.steps)])
            yield msgspec.structs.replace(report, behind=Behind(whole, result, shown))
            continue
        if place == guilty:
            runner.drop(result)
        yield msgspec.structs.replace(report, runs=report.runs + (result.verdict is Verdict.INFRA))


def _suspects(result: CaseResult, ends: Sequence[int]) -> range:
    """Which of the joined scenarios may be why the whole did not pass, by the numbers of steps up to the end of each.

    A step that deviates is in the result.  One in which the kernel crashed or the testbed failed is there or not: a
    kernel that prints a crash and goes on has ended its step.  Between two scenarios it may have been either.
    """
    if result.verdict is Verdict.PASS:
        return range(len(ends), len(ends))
    bounds = list(pairwise((0, *ends)))
    for number, (start, end) in enumerate(bounds):
        own = list(result.steps[start:end])
        if outcome(own)[0] is not Verdict.PASS:
            return range(number, number + 1)
        if len(result.steps) == end:
            return range(number, min(number + 2, len(ends)))
        if len(result.steps) < end:
            return range(number, number + 1)
    return range(len(ends) - 1, len(ends))


def _passed(scenario: Scenario, result: CaseResult, met: Met, end: int) -> CaseReport:
    """The report of a scenario whose steps, the last ``len(scenario.steps)`` before ``end``, all held."""
    own = slice(end - len(scenario.steps), end)
    steps = [msgspec.structs.replace(step, index=index) for index, step in enumerate(result.steps[own])]
    verdict, sentence = outcome(steps)
    seconds = result.seconds * len(steps) / max(1, len(result.steps))
    one = msgspec.structs.replace(
        result, case=scenario.name, verdict=verdict, sentence=sentence, seconds=seconds, steps=tuple(steps), evidence=""
    )
    return CaseReport(scenario, one, all_of(met[own]), None, 1)
