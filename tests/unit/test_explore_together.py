# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios that share a restored testbed: what is joined, and which of them is told what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations

import pytest
from report_records import case, finding, step

from harness.explore.budget import Budget
from harness.explore.case import CaseReport, Met
from harness.explore.draw import Shape, draw_scenario
from harness.explore.exploration import Exploration
from harness.explore.together import fits, join, last, run_together, together_at_most
from harness.run.result import CaseResult
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Close, Convert, PageRange, Populate, Pressure, PunchHole, Side, Step

ROOM = 4
PAGES = 8 * 512


def scenario(name: str, *steps: Step, guests: int = 1, chunks: int = 8) -> Scenario:
    return Scenario(name, steps, guests=guests, chunks=chunks)


def at(start: int, count: int = 1, guest: int = 0) -> PageRange:
    return PageRange(f"g{guest}.r0", start, count)


def private(start: int, count: int = 1) -> Convert:
    return Convert(at(start, count), Side.PRIVATE)


# -- what is joined


def test_each_has_chunks_of_its_own() -> None:
    whole = join(
        [
            scenario("a", private(0, 512), Populate(at(3))),
            scenario("b", PunchHole(at(4095))),
            scenario("c", Close("g0")),
        ],
        ROOM,
    )
    assert whole == Scenario(
        "a+b+c",
        (private(0, 512), Populate(at(3)), PunchHole(at(PAGES + 4095)), Close("g0")),
        chunks=ROOM * 8,
    )
    whole.check()


def test_drawn_scenarios_stay_apart() -> None:
    drawn = [draw_scenario(seed, Shape(cpus=2, pins=True)) for seed in range(200)]
    for first in range(0, 200, 4):
        parts: list[Scenario] = []
        for one in drawn[first : first + 4]:
            parts += [one] if fits(one, parts) else []
        whole = join(sorted(parts, key=last), ROOM)
        whole.check()
        number = {name: place for place, name in enumerate(whole.name.split("+"))}
        assert sorted(number) == sorted(part.name for part in parts)
        ends = [pages.end for one in whole.steps for pages in one.ranges()]
        assert max(ends, default=0) <= ROOM * PAGES
        at_step = 0
        for part in sorted(parts, key=last):
            for _ in part.steps:
                for pages in whole.steps[at_step].ranges():
                    assert pages.start // PAGES == (pages.end - 1) // PAGES == number[part.name]
                at_step += 1


def test_what_fits_together() -> None:
    plain, ends = scenario("plain", private(0)), scenario("ends", private(0), Close("g0"))
    assert fits(ends, [])
    assert fits(ends, [plain, plain])
    assert fits(plain, [ends])
    assert not fits(ends, [plain, ends])
    assert not fits(scenario("two", private(0), guests=2), [plain])
    assert not fits(scenario("large", private(0), chunks=16), [plain])
    assert not fits(Scenario("other", (private(0),), backing="anon-thp"), [plain])
    assert not fits(Scenario("watched", (private(0),), frames=True), [plain])
    pressed = scenario("pressed", Pressure("fragment", percent=95))
    assert not fits(pressed, [plain])
    assert not fits(plain, [pressed])


def test_a_testbed_has_32_chunks_at_most() -> None:
    assert [together_at_most(4, chunks) for chunks in (2, 8, 16, 17, 32, 33, 64, 65)] == [4, 4, 2, 1, 1, 1, 1, 1]
    assert together_at_most(100, 8) == 4


# -- who is told what


@dataclass
class Kernel:
    """Runs scenarios on paper: ``bad`` says which step deviates, of all that were walked up to it on that testbed."""

    bad: Callable[[tuple[Step, ...]], bool] = lambda steps: False
    counter: Callable[[tuple[Step, ...]], str] = lambda steps: "gmem/g0"
    ends: Callable[[Scenario], Verdict | None] = lambda scenario: None
    """A verdict that ends a whole scenario before its first step."""
    crashes: Callable[[Step], bool] = lambda step: False
    ended: bool = True
    """Whether a step that crashes the kernel comes to its end."""
    asked: list[Scenario] = field(default_factory=list)
    chained: list[str] = field(default_factory=list)
    """Which of them it was asked to run the cheaper way."""
    again: bool = False
    """Whether all are measured twice."""
    dropped: list[str] = field(default_factory=list)

    def run(self, scenario: Scenario, *, chained: bool = False) -> tuple[CaseResult, Met]:
        scenario.check()
        self.asked.append(scenario)
        self.chained += [scenario.name] * chained
        walked = []
        verdict = self.ends(scenario) or Verdict.PASS
        if verdict is Verdict.PASS:
            for index in range(len(scenario.steps)):
                off = self.bad(scenario.steps[: index + 1])
                kind = Verdict.DEVIATES if off else Verdict.PASS
                if self.crashes(scenario.steps[index]):
                    walked += [step(index)] if self.ended else []
                    verdict = Verdict.CRASH
                    break
                counter = self.counter(scenario.steps[: index + 1])
                walked.append(step(index, finding(counter, 0, 1 if off else 0, verdict=kind)))
                if off:
                    verdict = Verdict.DEVIATES
                    break
        met = tuple(frozenset({f"rule-{type(one).__name__}"}) for one in scenario.steps[: len(walked)])
        sentence = "printed: BUG: somewhere (line 1 of x)" + " (measured 2 times; before: F)" * self.again
        return case(scenario.name, verdict, *walked, sentence=sentence), met

    def drop(self, result: CaseResult) -> None:
        self.dropped.append(result.case)

    def close(self) -> None:
        pass


def told(reports: list[CaseReport]) -> dict[str, str]:
    return {report.scenario.name: report.result.verdict.value for report in reports}


A, B, C = (
    scenario("a", private(0), Populate(at(0))),
    scenario("b", private(7)),
    scenario("c", PunchHole(at(9)), private(1)),
)
END = scenario("end", private(3), Close("g0"))


def test_all_pass_on_one_testbed() -> None:
    kernel = Kernel()
    reports = list(run_together(kernel, [END, A, B, C], ROOM))
    assert [one.name for one in kernel.asked] == ["a+b+c+end"], "who ends the guest goes last"
    assert kernel.chained == ["a+b+c+end"]
    assert [report.scenario for report in reports] == [A, B, C, END]
    assert [len(report.result.steps) for report in reports] == [2, 1, 2, 2]
    assert [report.rules for report in reports][:2] == [("rule-Convert", "rule-Populate"), ("rule-Convert",)]
    for report in reports:
        assert report.result.verdict is Verdict.PASS
        assert report.result.case == report.scenario.name
        assert [one.index for one in report.result.steps] == list(range(len(report.scenario.steps)))
        assert report.signature is None
        assert not report.result.evidence


def test_what_deviates_is_run_by_itself_and_the_others_wait() -> None:
    kernel = Kernel(bad=lambda steps: isinstance(steps[-1], Populate))
    reports = list(run_together(kernel, [B, A, C, END], ROOM))
    assert [one.name for one in kernel.asked] == ["b+a+c+end", "a"]
    assert told(reports) == {"b": "pass", "a": "deviates"}, "whoever asked decides whether it goes on"
    shown = reports[1]
    assert shown.scenario == A
    assert shown.result.case == "a", "what counts was seen on a testbed of its own"
    assert shown.signature is not None
    assert shown.behind is None
    assert kernel.dropped == ["b+a+c+end"]
    assert kernel.chained == ["b+a+c+end"], "what counts is measured as by gmem run"


def test_one_that_has_a_testbed_to_itself_is_chained_too() -> None:
    kernel = Kernel()
    list(run_together(kernel, [A, B], 1))
    assert kernel.chained == ["a", "b"]


def test_what_was_measured_again_is_told_once_for_a_testbed() -> None:
    kernel = Kernel(again=True)
    assert [report.again for report in run_together(kernel, [A, B, C], ROOM)] == [True, False, False]
    assert [report.again for report in run_together(kernel, [A, B], 1)] == [True, True]


def third(steps: tuple[Step, ...]) -> bool:
    return sum(isinstance(one, Convert) for one in steps) == 3


def test_what_shows_only_behind_others_is_kept_with_them() -> None:
    kernel = Kernel(bad=third)
    reports = list(run_together(kernel, [A, B, C, END], ROOM))
    assert [one.name for one in kernel.asked] == ["a+b+c+end", "c"]
    assert told(reports) == {"a": "pass", "b": "pass", "c": "pass"}
    behind = reports[2].behind
    assert behind is not None
    assert behind.scenario.name == "a+b+c"
    assert third(behind.scenario.steps), "up to the step that showed it"
    assert len(behind.scenario.steps) == 5
    behind.scenario.check()
    assert behind.result.verdict is Verdict.DEVIATES
    assert reports[2].rules == ("rule-Convert", "rule-PunchHole"), "its own, not those of the others"
    assert kernel.dropped == []


def test_another_thing_behind_others_is_a_finding_of_its_own() -> None:
    kernel = Kernel(
        bad=lambda steps: third(steps) or (isinstance(steps[-1], PunchHole) and len(steps) == 1),
        counter=lambda steps: "gmem/g0" if third(steps) else "nr_unevictable",
    )
    report = list(run_together(kernel, [A, B, C], ROOM))[-1]
    assert report.scenario == C
    assert report.behind is not None
    assert report.signature is not None
    assert (report.signature.what, report.behind.signature.what) == ("nr_unevictable too high", "gmem/gN too high")


@pytest.mark.parametrize("kind", [Verdict.INFRA, Verdict.INCONCLUSIVE, Verdict.SKIP])
def test_trouble_of_the_shared_testbed_is_nobodys_fault(kind: Verdict) -> None:
    kernel = Kernel(ends=lambda one: kind if "+" in one.name else None)
    reports = list(run_together(kernel, [A, B, C], ROOM))
    assert told(reports) == {"a": "pass", "b": "pass", "c": "pass"}
    assert [one.name for one in kernel.asked] == ["a+b+c", "a", "b+c", "b", "c"]
    assert [report.runs for report in reports] == ([2, 2, 1] if kind is Verdict.INFRA else [1, 1, 1])
    assert all(report.signature is None for report in reports)


PUNCHES = scenario("punches", private(0), PunchHole(at(0)))


@pytest.mark.parametrize("ended", [True, False], ids=["goes-on", "stops"])
def test_a_crash_is_whose_step_it_was(ended: bool) -> None:
    """A kernel that goes on has ended its step; the last step of a scenario is not the next one's."""
    kernel = Kernel(crashes=lambda step: isinstance(step, PunchHole), ended=ended)
    reports = list(run_together(kernel, [B, PUNCHES, A], ROOM))
    assert told(reports)["punches"] == "crash"
    assert told(reports)["b"] == "pass"
    assert all(report.behind is None for report in reports)
    assert [report.scenario for report in reports if report.signature] == [PUNCHES]


def test_a_crash_that_only_others_bring_about_is_kept_with_them() -> None:
    kernel = Kernel(crashes=lambda step: isinstance(step, PunchHole) and step.range.start >= PAGES)
    reports = list(run_together(kernel, [B, PUNCHES, A], ROOM))
    assert told(reports) == {"b": "pass", "punches": "pass", "a": "pass"}
    [behind] = [report.behind for report in reports if report.behind]
    assert behind.result.verdict is Verdict.CRASH
    assert any(isinstance(one, PunchHole) for one in behind.scenario.steps)


def test_nobody_is_lost_or_told_twice() -> None:
    """Whichever of them deviates, by itself or behind others, in whatever order they come."""
    for order in permutations([A, B, C, END]):
        for wanted in (1, 2, 3, 4):
            for bad in range(1, 8):
                kernel = Kernel(bad=lambda steps, bad=bad: len(steps) == bad)
                left, names = list(order), []
                while left:
                    reports = list(run_together(kernel, left, wanted))
                    names += [report.scenario.name for report in reports]
                    left = [one for one in left if one.name not in names]
                assert sorted(names) == ["a", "b", "c", "end"]
                assert max(one.name.count("+") for one in kernel.asked) < wanted


def test_none_begins_once_it_is_over() -> None:
    kernel = Kernel()
    reports = list(run_together(kernel, [A, B, C, END], 2, lambda: True))
    assert told(reports) == {"a": "pass", "b": "pass"}


def test_one_that_is_left_has_the_same_testbed() -> None:
    kernel = Kernel()
    list(run_together(kernel, [A], ROOM))
    assert kernel.asked[0].chunks == ROOM * 8, "another size would have to be booted"
    list(run_together(kernel, [scenario("large", private(0), chunks=32)], ROOM))
    assert kernel.asked[1].chunks == 32
    list(run_together(kernel, [scenario("pressed", Pressure("fragment"))], ROOM))
    assert kernel.asked[2].chunks == 8, "how much memory there is decides what pressure does"


# -- who is put together


def batches(exploration: Exploration, source: Iterator[Scenario], number: int) -> list[tuple[Scenario, ...]]:
    made = []
    for _ in range(number):
        made.append(exploration._batch(source))
        exploration.given += len(made[-1])
    return made


def test_who_does_not_fit_waits_and_comes_first() -> None:
    exploration = Exploration(
        Shape(), Budget(), 0, None, None, None, None, together=ROOM,  # type: ignore[arg-type]
    )  # fmt: skip
    source = (draw_scenario(seed, Shape()) for seed in range(10_000))
    made = batches(exploration, source, 100)
    seeds = [one.seed for batch in made for one in batch]
    assert len(seeds) == len(set(seeds))
    assert sum(len(batch) == ROOM for batch in made) > 90
    for batch in made:
        assert all(fits(one, batch[:place]) for place, one in enumerate(batch))
    waited = max(batch for batch, seed in ((n, one.seed) for n, b in enumerate(made) for one in b) if seed < 50)
    assert waited < 40, "nobody waits for ever"


def test_no_more_are_drawn_than_may_be_run() -> None:
    for cases in (1, 2, 3, 7, 30):
        exploration = Exploration(
            Shape(), Budget(cases=cases), 0, None, None, None, None, together=ROOM,  # type: ignore[arg-type]
        )  # fmt: skip
        source = (draw_scenario(seed, Shape()) for seed in range(10_000))
        made = []
        while exploration.given < cases:
            made += batches(exploration, source, 1)
        assert sorted(one.seed for batch in made for one in batch if one.seed is not None) == list(range(cases))
        assert not exploration.waiting
