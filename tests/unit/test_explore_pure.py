# SPDX-License-Identifier: GPL-2.0-only
"""Exploration without machines: what is drawn, when two cases show the same, and how a scenario is made smaller."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from report_records import case, finding, step

from harness.errors import UsageError
from harness.explore.budget import Budget, seconds_of
from harness.explore.draw import STEPS, Shape, draw_scenario
from harness.explore.findings import replay_command
from harness.explore.shrink import OutOfBudget, shrink
from harness.explore.signature import Signature, signature
from harness.run.options import RunOptions
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    Close,
    Convert,
    Fallocate,
    PageRange,
    Pin,
    Place,
    Populate,
    Pressure,
    PunchHole,
    Side,
    Step,
    Touch,
)

SEEDS = range(400)
BAD = Verdict.DEVIATES


# -- drawing


def test_same_seed_same_scenario() -> None:
    shape = Shape(cpus=2, pins=True, pressure=True)
    assert [draw_scenario(seed, shape) for seed in SEEDS] == [draw_scenario(seed, shape) for seed in SEEDS]
    assert len({draw_scenario(seed, shape).steps for seed in SEEDS}) > 0.95 * len(SEEDS)


def test_drawn_scenarios_are_short_valid_and_of_their_shape() -> None:
    for shape in (Shape(), Shape(guests=1, chunks=2), Shape(cpus=2, pins=True, pressure=True)):
        drawn = [draw_scenario(seed, shape) for seed in SEEDS]
        for scenario in drawn:
            assert scenario == Scenario.from_yaml(scenario.to_yaml())
            assert 1 <= len(scenario.steps) <= STEPS[1]
            assert scenario.guests <= shape.guests
            assert scenario.chunks == shape.chunks
        kinds = {type(one) for scenario in drawn for one in scenario.steps}
        assert {Convert, Populate, Touch, Fallocate, PunchHole, Close} <= kinds
        assert (Place in kinds) == bool(shape.cpus)
        assert (Pin in kinds) == shape.pins
        assert (Pressure in kinds) == shape.pressure


def test_a_guest_may_end_anywhere_and_the_other_goes_on() -> None:
    drawn = [draw_scenario(seed, Shape()) for seed in range(2000)]
    ends = [
        (index, len(scenario.steps) - index - 1)
        for scenario in drawn
        for index, one in enumerate(scenario.steps)
        if isinstance(one, Close)
    ]
    assert {index for index, _ in ends} >= {0, 1, 2, 3, 4}
    assert max(behind for _, behind in ends) >= 3


# -- signatures


def test_what_passes_or_blames_the_testbed_shows_nothing() -> None:
    for verdict in Verdict:
        if verdict not in (BAD, Verdict.CRASH):
            assert signature(case("x", verdict, step(0, finding("F", 0, 1, verdict=BAD)))) is None


def test_a_deviation_is_its_most_telling_counter_the_side_and_the_rule() -> None:
    off = finding("gmem/g1", 0, 3, verdict=BAD, reasons=("punch: 3 pages of g1 leave", "slab: whatever"))
    shown = signature(case("x", BAD, step(0, finding("F", 0, -3, verdict=BAD), off, finding("pgfree", 0, 0))))
    assert shown == Signature("deviates", "gmem/gN too high", "punch")


def test_other_numbers_guests_and_steps_show_the_same() -> None:
    def at(guest: str, low: int, seen: int, *before: int) -> Signature | None:
        text = f"untouched (order0): nothing in this step (populate {guest}.r0[{seen}:8]) moves it"
        last = step(len(before), finding(f"gmem/{guest}", low, seen, verdict=BAD, reasons=(text,)))
        return signature(case("x", BAD, *(step(index) for index in before), last))

    assert at("g0", 0, 1) == at("g1", 5, 9, 0, 1) == Signature("deviates", "gmem/gN too high", "untouched")
    assert at("g0", 0, -1) != at("g0", 0, 1)


def test_a_crash_is_its_title_without_numbers() -> None:
    def crash(line: int, address: str) -> Signature | None:
        title = f"WARNING: CPU: 1 PID: {line} at mm/truncate.c:{line} truncate_folio+{address}/0x{line}"
        said = f"the host under test printed: {title} (line {line} of host-console.txt); guest g0 is silent"
        return signature(case("x", Verdict.CRASH, sentence=said))

    assert crash(71, "0xff") == crash(1912, "0x1f")
    shown = crash(71, "0xff")
    assert shown is not None
    assert "truncate_folio" in shown.what
    assert "console" not in shown.what
    assert crash(71, "0xff") != signature(case("x", Verdict.CRASH, sentence="printed: BUG: x (line 1 of a.txt)"))
    again = "printed: BUG: x (line 7 of a.txt) (measured 2 times; before: step 1: F +0/+2)"
    assert signature(case("x", Verdict.CRASH, sentence=again)) == Signature("crash", "BUG: x")


def test_a_message_is_what_it_is_about() -> None:
    def said(text: str) -> Signature | None:
        record = step(0, finding("F", 0, 9, verdict=BAD))
        return signature(case("x", BAD, type(record)(**{**_fields(record), "messages": (text,)})))

    first = said("contents: 3 of the 512 pages of g0.r0[0:512] hold zeroes")
    assert first == said("contents: 1 of the 7 pages of g1.r0[1:8] hold zeroes")
    assert first != said("references: 1 pages of g0 are held after the step, the model says 0")


def _fields(record: object) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__struct_fields__}  # type: ignore[attr-defined]


# -- shrinking


def private(start: int, count: int, by: int = 512, guest: int = 0) -> Convert:
    return Convert(PageRange(f"g{guest}.r0", start, count), Side.PRIVATE, by)


def shared(start: int, count: int, guest: int = 0) -> Convert:
    return Convert(PageRange(f"g{guest}.r0", start, count), Side.SHARED)


def scenario(*steps: Step, guests: int = 1) -> Scenario:
    return Scenario("found", steps, guests=guests)


class Kernel:
    """Shows it where ``rule`` says so; remembers what it was asked."""

    def __init__(self, rule: Callable[[tuple[Step, ...]], bool], most: int = 10_000) -> None:
        self.rule, self.most = rule, most
        self.asked: list[Scenario] = []

    def __call__(self, candidate: Scenario) -> bool:
        candidate.check()
        if len(self.asked) == self.most:
            raise OutOfBudget
        self.asked.append(candidate)
        return self.rule(candidate.steps)


def punched_beside(steps: tuple[Step, ...]) -> bool:
    """A page is punched right behind a range that was allocated before."""
    allocated = [one.range for one in steps if isinstance(one, Fallocate)]
    return any(
        pages.end == one.range.start and pages.region == one.range.region
        for one in steps
        if isinstance(one, PunchHole)
        for pages in allocated
    )


LONG = scenario(
    private(0, 512),
    Populate(PageRange("g0.r0", 3, 100)),
    Fallocate(PageRange("g1.r0", 1000, 90)),
    Touch(PageRange("g1.r0", 1000, 90), 7),
    shared(0, 100),
    private(1000, 200, 7, guest=1),
    PunchHole(PageRange("g1.r0", 1090, 64)),
    guests=2,
)


def test_the_smallest_has_the_steps_that_it_takes_and_nothing_else() -> None:
    kernel = Kernel(punched_beside)
    found = shrink(LONG, kernel)
    assert found.steps == (Fallocate(PageRange("g0.r0", 0, 1)), PunchHole(PageRange("g0.r0", 1, 1)))
    assert found.guests == 1
    assert len(kernel.asked) < 40
    assert len({(one.guests, one.steps) for one in kernel.asked}) == len(kernel.asked), "nothing is tried twice"


def test_steps_go_before_guests_before_what_makes_them_particular_before_ranges() -> None:
    kernel = Kernel(lambda steps: any(isinstance(one, Convert) and one.range.guest == "g1" for one in steps))
    kept: list[Scenario] = []
    found = shrink(LONG, kernel, keep=kept.append)
    assert found.steps == (private(0, 1, guest=1),)
    sizes = [len(one.steps) for one in kept]
    assert sizes == sorted(sizes, reverse=True)
    counts = [one.steps[0].ranges()[0].count for one in kept if len(one.steps) == 1]
    assert counts[0] == 200
    assert counts[-1] == 1
    first = next(index for index, one in enumerate(kernel.asked) if len(one.steps) == 1)
    assert all(len(one.steps) > 1 for one in kernel.asked[:first])


def test_ranges_keep_what_they_have_to_do_with_each_other() -> None:
    def halves(steps: tuple[Step, ...]) -> bool:
        """Converted in two parts, then taken back as one."""
        if len(steps) < 3 or not all(isinstance(one, Convert) for one in steps[-3:]):
            return False
        one, two, both = (step.ranges()[0] for step in steps[-3:])
        return one.end == two.start and both.start == one.start and both.end == two.end

    found = shrink(
        scenario(Touch(PageRange("g0.r0", 9, 9)), private(700, 60), private(760, 40), shared(700, 100)), Kernel(halves)
    )
    one, two, both = (step.ranges()[0] for step in found.steps)
    assert (one.count, two.count, both.count) == (1, 1, 2)


def test_what_needs_an_alignment_keeps_it() -> None:
    def whole(steps: tuple[Step, ...]) -> bool:
        return any(pages.start % 512 == 0 and pages.count >= 512 for one in steps for pages in one.ranges())

    found = shrink(scenario(private(1024, 512), shared(1024, 512)), Kernel(whole))
    assert [(one.ranges()[0].start, one.ranges()[0].count) for one in found.steps] == [(0, 512)]


def test_a_way_of_doing_it_that_matters_stays() -> None:
    found = shrink(scenario(private(0, 8, by=7)), Kernel(lambda steps: getattr(steps[-1], "by", 0) == 7))
    assert found.steps[0].by == 7  # type: ignore[union-attr]


def test_shrinking_is_the_same_every_time_and_gives_what_it_has_when_it_may_no_more() -> None:
    first, second = Kernel(punched_beside), Kernel(punched_beside)
    assert shrink(LONG, first) == shrink(LONG, second)
    assert first.asked == second.asked
    kept: list[Scenario] = []
    assert shrink(LONG, Kernel(punched_beside, most=8), keep=kept.append) == kept[-1]
    assert shrink(LONG, Kernel(punched_beside, most=0)) == LONG


def test_what_never_shows_again_stays_as_it_is() -> None:
    assert shrink(LONG, Kernel(lambda steps: False)) == LONG


# -- the budget


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5m", 30)])
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10 m", "m", "-3", "0", "0s", "3d"])
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError, match="--time"):
        seconds_of(text)


def test_the_budget_ends_by_time_cases_or_findings() -> None:
    now = [100.0]
    budget = Budget(seconds=10, cases=5, findings=2, clock=lambda: now[0])
    budget.start()
    assert not budget.spent(4, 1)
    assert budget.spent(5, 0)
    assert budget.spent(0, 2)
    assert not budget.half_spent(2)
    assert budget.half_spent(3)
    now[0] = 106
    assert budget.half_spent(0)
    now[0] = 110
    assert budget.spent(0, 0)


def test_a_command_names_what_is_not_usual_and_holds_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("found/a.yaml")
    assert replay_command(file, RunOptions(seed=3, keep=True)) == "gmem run found/a.yaml"
    options = RunOptions(
        kernel="6.12", patches=(Path("a fix.patch"), Path("b")), host="h.yaml", design="order0", guest="snp",
        command_line="-x y", deadline=600.0,
    )  # fmt: skip
    assert replay_command(file, options) == (
        f"gmem run found/a.yaml --host {tmp_path}/h.yaml --kernel 6.12 --patch '{tmp_path}/a fix.patch'"
        f" --patch {tmp_path}/b --guest snp --design order0 '--cmdline=-x y' --deadline=600"
    )
    (tmp_path / "linux").mkdir()
    (tmp_path / "6.12").mkdir()
    assert RunOptions(kernel="linux").words() == ("--kernel", f"{tmp_path}/linux")
    assert RunOptions(kernel="6.12", host="local").words() == ("--host", "local", "--kernel", "6.12")
