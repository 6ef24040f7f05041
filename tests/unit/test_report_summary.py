# SPDX-License-Identifier: GPL-2.0-only
"""The few counters that stand for a case, and the words that all reports share."""

from __future__ import annotations

import pytest
from report_records import case, finding, run_info, step

from harness.report.summary import case_name, guest_kind_text, kernel_text, run_problem, sharpness_text, summarize
from harness.run.result import StepResult
from harness.run.sharpness import sharpness
from harness.run.verdict import Verdict

STAND_IN = "sw-protected (SNP stand-in): no memory is encrypted"


def test_the_last_step_that_was_predicted_to_move_counters_is_shown() -> None:
    populate = step(0, finding("pgfree", 0, 0), finding("nr_file_pages", 512, 512))
    convert = step(1, finding("pgfree", 512, 512), finding("nr_file_pages", -512, -512), finding("nr_shmem", 0, 0))
    settle = step(2, finding("nr_file_pages", 0, 0))
    summary = summarize(case("a", Verdict.PASS, populate, convert, settle))
    assert str(summary) == "step 1: nr_file_pages -512/-512  pgfree +512/+512"


def test_an_interval_may_move() -> None:
    summary = summarize(case("a", Verdict.PASS, step(0, finding("F", -2, 0, high=0))))
    assert str(summary) == "step 0: F -2..+0/+0"


def test_the_first_step_outside_its_prediction_wins_over_later_movement() -> None:
    good = step(0, finding("nr_file_pages", 512, 512))
    bad = step(1, finding("nr_file_pages", -1, -1), finding("pgfree", 1, 0, verdict=Verdict.DEVIATES))
    later = step(2, finding("nr_file_pages", 9, 9))
    summary = summarize(case("a", Verdict.DEVIATES, good, bad, later))
    assert str(summary) == "step 1: !pgfree +1/+0"


def test_counters_predicted_to_stay_are_shown_when_nothing_else_is() -> None:
    summary = summarize(case("a", Verdict.PASS, step(0, finding("nr_file_pages", 0, 0)), step(1)))
    assert str(summary) == "step 0: nr_file_pages +0/+0"
    assert str(summarize(case("a", Verdict.SKIP))) == ""


def test_at_most_the_limit_is_shown_the_important_ones_first() -> None:
    names = [f"numa_{number:02}" for number in range(20)] + ["kvm/g0/pages_4k", "gmem/g0", "nr_file_pages"]
    summary = summarize(case("a", Verdict.PASS, step(0, *(finding(name, 1, 1) for name in names))), limit=4)
    assert [counter.counter for counter in summary.counters] == [
        "nr_file_pages",
        "gmem/g0",
        "kvm/g0/pages_4k",
        "numa_00",
    ]
    assert str(summary).endswith(" … 19 more")


def test_a_counter_the_kernel_does_not_report_is_unknown_and_not_zero() -> None:
    summary = summarize(case("a", Verdict.PASS, step(0, finding("nr_hugetlb", 4, None, verdict=Verdict.SKIP))))
    assert str(summary) == "step 0: nr_hugetlb +4/?"


@pytest.mark.parametrize("kind", ["sw-protected", "sw-protected (SNP stand-in)"])
def test_the_stand_in_is_never_called_snp(kind: str) -> None:
    assert guest_kind_text(kind) == STAND_IN


def test_another_way_to_a_software_protected_guest_is_not_encrypted_either() -> None:
    assert guest_kind_text("sw-protected (another way)") == "sw-protected (another way): no memory is encrypted"


def test_real_kinds_are_not_called_unencrypted() -> None:
    assert "no memory is encrypted" not in guest_kind_text("snp") + guest_kind_text("tdx")
    assert "no memory is encrypted" in guest_kind_text("plain")
    assert guest_kind_text("something new") == "something new"


def test_the_kernel_is_named_exactly() -> None:
    assert kernel_text(run_info()) == "7.3.4 #1 SMP PREEMPT_DYNAMIC [7.3]"
    assert kernel_text(run_info(kernel={})) == "unknown (it did not say)"


def test_repetitions_have_names_of_their_own() -> None:
    assert case_name(case("a")) == "conversions/a"
    assert case_name(case("a", repeat=3)) == "conversions/a #3"


def test_a_verdict_that_no_case_has_becomes_a_case() -> None:
    problem = run_problem(run_info(Verdict.NO_BOOT), [])
    assert problem is not None
    assert (problem.verdict, problem.sentence) == (Verdict.NO_BOOT, "sentence of the run")
    assert run_problem(run_info(Verdict.INFRA), [case("a")]) is not None
    assert run_problem(run_info(Verdict.INFRA), [case("a", Verdict.INFRA)]) is None
    assert run_problem(run_info(Verdict.PASS), [case("a")]) is None
    assert run_problem(run_info(Verdict.NOTHING_RAN), []) is None


def test_sharpness_on_a_line() -> None:
    cases = [case("a", Verdict.PASS, step(0, finding("F", 98, 100, high=102), finding("pgfree", 3, 3)))]
    assert sharpness_text(sharpness(cases)) == "0 of no movement, 1 exact, 1 intervals; width to effect: F 0.04"
    assert sharpness_text(sharpness([])) == ""


def test_a_case_of_counters_that_all_stayed_still_has_a_summary() -> None:
    quiet = StepResult(index=2, text="x", seconds=0.1, findings=(), recorded={}, still={"because": ("F", "nr_shmem")})
    assert str(summarize(case("a", Verdict.PASS, quiet))) == "step 2: F +0/+0  nr_shmem +0/+0"
