# SPDX-License-Identifier: GPL-2.0-only
"""How sharp predictions are: widths against movements, counted over steps and cases."""

from __future__ import annotations

import msgspec
import pytest
from report_records import case, finding, run_info, step

from harness.run.result import CaseResult, CounterSharpness, RunInfo, StepResult, apart
from harness.run.sharpness import sharpness
from harness.run.verdict import Verdict

PASS = Verdict.PASS


def still(*counters: str) -> StepResult:
    return StepResult(index=0, text="x", seconds=0.1, findings=(), recorded={}, still={"because": counters})


def of(counter: str, *cases: CaseResult) -> CounterSharpness:
    return next(row for row in sharpness(cases).counters if row.counter == counter)


def test_of_nothing() -> None:
    told = sharpness([])
    assert (told.still, told.exact, told.intervals, told.counters) == (0, 0, 0, ())


def test_widths_are_set_against_what_the_counter_did_in_the_same_steps() -> None:
    """F: exact in one step, where it moved most; two intervals of width 4 and 8, around movements of 100 and 20."""
    cases = [
        case("a", PASS, step(0, finding("F", -500, -500)), step(1, finding("F", 98, 100, high=102))),
        case("b", PASS, step(0, finding("F", -26, -20, high=-18))),
    ]
    row = of("F", *cases)
    assert (row.exact, row.intervals) == (1, 2)
    assert (row.width_mean, row.width_max) == (6.0, 8)
    assert (row.effect_mean, row.effect_max) == (60.0, 500)
    assert row.ratio == pytest.approx(12 / 120)


def test_up_and_down_do_not_cancel() -> None:
    row = of("F", case("a", PASS, step(0, finding("F", 8, 10, high=10)), step(1, finding("F", -10, -10, high=-8))))
    assert (row.effect_mean, row.ratio) == (10.0, 0.2)


def test_an_interval_around_nothing_has_no_ratio_and_comes_first() -> None:
    told = sharpness(
        [
            case(
                "a",
                PASS,
                step(
                    0,
                    finding("exact", 5, 5),
                    finding("good", 98, 100, high=102),
                    finding("poor", 0, 1, high=9),
                    finding("useless", -2, 0, high=2),
                    finding("worse", -9, 0, high=9),
                ),
            )
        ]
    )
    assert [row.counter for row in told.counters] == ["worse", "useless", "poor", "good", "exact"]
    assert [row.ratio for row in told.counters] == [None, None, 9.0, 0.04, None]
    assert (told.exact, told.intervals, told.still) == (1, 4, 0)


def test_counters_that_stay_are_counted_and_listed_only_if_they_ever_move() -> None:
    told = sharpness([case("a", PASS, still("nr_shmem", "F"), step(1, finding("F", 7, 7), finding("pgfree", 0, 0)))])
    assert (told.still, told.exact) == (3, 1)
    assert [(row.counter, row.exact) for row in told.counters] == [("F", 2)]


def test_what_was_not_observed_says_nothing() -> None:
    told = sharpness([case("a", PASS, step(0, finding("F", 0, None, high=9, verdict=Verdict.SKIP)))])
    assert (told.intervals, told.counters) == (0, ())


def test_apart_keeps_whatever_is_not_plainly_still() -> None:
    plain = finding("plain", 0, 0, reasons=("r",))
    noisy = msgspec.structs.replace(finding("noisy", 0, 0, reasons=("r",)), noise=3)
    loud = (
        finding("moved", 0, 1, reasons=("r",), verdict=Verdict.DEVIATES),
        finding("two reasons", 0, 0, reasons=("up", "down")),
        finding("interval", 0, 0, high=1, reasons=("r",)),
        finding("not observed", 0, None, reasons=("r",), verdict=Verdict.SKIP),
        finding("moves", 2, 2, reasons=("r",)),
        noisy,
    )
    findings, stay = apart([plain, *loud])
    assert findings == loud
    assert stay == {"r": ("plain",)}


def test_a_step_counts_all_predictions_that_hold() -> None:
    told = StepResult(
        index=0, text="x", seconds=0.1, findings=(finding("F", 1, 1), finding("G", 1, 2, verdict=Verdict.DEVIATES)),
        recorded={}, still={"a": ("H", "I"), "b": ("J",)},
    )  # fmt: skip
    assert told.held == 4


def test_run_json_of_before_is_still_read() -> None:
    plain = msgspec.to_builtins(run_info())
    assert plain.pop("sharpness")
    assert msgspec.convert(plain, RunInfo).sharpness.counters == ()
