# SPDX-License-Identifier: GPL-2.0-only
"""JUnit XML as another program reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml, Skipped, TestSuite
from report_records import HOSTILE, case, finding, hostile_case, hostile_run, run_info, step

from harness.report.junit import junit_xml
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict


def read(info: RunInfo, cases: list[CaseResult]) -> list[TestSuite]:
    return list(JUnitXml.fromstring(junit_xml(info, cases).encode()))


@pytest.mark.parametrize(
    ("verdict", "element"),
    [
        (Verdict.DEVIATES, Failure),
        (Verdict.INFRA, Error),
        (Verdict.CRASH, Error),
        (Verdict.NO_BOOT, Error),
        (Verdict.INCONCLUSIVE, Error),
        (Verdict.INTERRUPTED, Error),
        (Verdict.USAGE, Error),
        (Verdict.SKIP, Skipped),
        (Verdict.NOTHING_RAN, Skipped),
    ],
)
def test_every_verdict_has_its_element_and_its_word(verdict: Verdict, element: type) -> None:
    (suite,) = read(run_info(verdict), [case("a", verdict)])
    ((result,),) = [list(member.result) for member in suite]
    assert type(result) is element
    assert (result.type, result.message) == (verdict.value, "sentence of a")


def test_a_case_that_passes_has_no_element() -> None:
    (suite,) = read(run_info(), [case("a")])
    (member,) = suite
    assert (member.name, member.classname, member.time, list(member.result)) == ("a", "conversions", 1.5, [])


def test_suites_numbers_and_properties() -> None:
    cases = [case("a"), case("b", Verdict.DEVIATES), case("c", Verdict.CRASH, suite="splits"), case("d", Verdict.SKIP)]
    first, second = read(run_info(Verdict.CRASH), cases)
    assert (first.name, first.tests, first.failures, first.errors, first.skipped) == ("conversions", 3, 1, 0, 1)
    assert (second.name, second.tests, second.failures, second.errors, second.skipped) == ("splits", 1, 0, 1, 0)
    assert {prop.name: prop.value for prop in first.properties()} == {
        "design": "order0",
        "guest": "sw-protected (SNP stand-in): no memory is encrypted",
        "host": "cpus=2, kind=emulated",
        "kernel": "7.3.4 #1 SMP PREEMPT_DYNAMIC [7.3]",
        "seed": "7",
        "verdict": "crash",
    }


def test_a_failure_tells_the_counters_and_the_reasons() -> None:
    bad = step(2, finding("pgfree", 1, 0, verdict=Verdict.DEVIATES, reasons=("punch: a page",)), finding("F", 7, 7))
    (suite,) = read(run_info(Verdict.DEVIATES), [case("a", Verdict.DEVIATES, bad, evidence="evidence/a")])
    ((result,),) = [list(member.result) for member in suite]
    assert "step 2: convert g0.r0[0:512] to shared" in result.text
    assert "pgfree: predicted +1, observed +0" in result.text
    assert "because punch: a page" in result.text
    assert "evidence: evidence/a" in result.text
    assert "F:" not in result.text


def test_a_kernel_that_did_not_boot_is_no_empty_green_file() -> None:
    (suite,) = read(run_info(Verdict.NO_BOOT), [])
    ((result,),) = [list(member.result) for member in suite]
    assert (type(result), result.type) == (Error, "no-boot")


def test_repetitions_do_not_share_a_name() -> None:
    (suite,) = read(run_info(), [case("a"), case("a", repeat=2)])
    assert [member.name for member in suite] == ["a", "a #2"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_text(text: str) -> None:
    (suite,) = read(hostile_run(text), [hostile_case(text)])
    (member,) = suite
    (result,) = member.result
    assert type(result) is Failure
    assert len(junit_xml(hostile_run(text), [hostile_case(text)])) < 100_000


@given(st.text(st.characters(exclude_categories=()), max_size=50))
def test_any_text_gives_well_formed_xml(text: str) -> None:
    (suite,) = read(hostile_run(text), [hostile_case(text)])
    assert suite.failures == 1
