# SPDX-License-Identifier: GPL-2.0-only
"""KTAP as the kernel's own tools read it: a plan, and exactly one result line per case."""

from __future__ import annotations

import re

import pytest
from report_records import HOSTILE, case, finding, hostile_case, hostile_run, run_info, step

from harness.report.ktap import ktap
from harness.run.verdict import Verdict

RESULT = re.compile(r"(ok|not ok) (\d+) ([^#]*?)(?: # (SKIP|ERROR)\b(.*))?")


def results(text: str) -> list[tuple[str, ...]]:
    """Result lines; every other line must be the header, the plan or a diagnostic."""
    lines = text.splitlines()
    assert lines[0] == "KTAP version 1"
    found = []
    for line in lines[2:]:
        if line.startswith("# "):
            continue
        match = RESULT.fullmatch(line)
        assert match, line
        found.append(match.groups(default=""))
    assert lines[1].split(" #")[0] == f"1..{len(found)}"
    assert [int(number) for _, number, *_ in found] == list(range(1, len(found) + 1))
    return found


def test_verdicts() -> None:
    cases = [case("a"), case("b", Verdict.DEVIATES), case("c", Verdict.INFRA), case("d", Verdict.SKIP)]
    assert results(ktap(run_info(Verdict.DEVIATES), cases)) == [
        ("ok", "1", "conversions/a", "", ""),
        ("not ok", "2", "conversions/b", "", ""),
        ("not ok", "3", "conversions/c", "ERROR", " infra: sentence of c"),
        ("ok", "4", "conversions/d", "SKIP", " sentence of d"),
    ]


def test_facts_and_reasons_are_diagnostics() -> None:
    bad = step(0, finding("pgfree", 1, 0, verdict=Verdict.DEVIATES))
    text = ktap(run_info(Verdict.DEVIATES), [case("a", Verdict.DEVIATES, bad)])
    assert "# kernel: 7.3.4 #1 SMP PREEMPT_DYNAMIC [7.3]\n" in text
    assert "# guest: sw-protected (SNP stand-in): no memory is encrypted\n" in text
    assert "#   pgfree: predicted +1, observed +0 (noise 0): deviates\n" in text
    assert text.endswith("# verdict: deviates: sentence of the run\n")


def test_a_run_without_cases() -> None:
    assert "\n1..0 # SKIP nothing ran\n" in ktap(run_info(Verdict.NOTHING_RAN), [])
    ((word, _, name, directive, _),) = results(ktap(run_info(Verdict.NO_BOOT), []))
    assert (word, name, directive) == ("not ok", "gmem/run", "ERROR")


def test_a_repetition_is_no_directive() -> None:
    ((_, _, name, directive, _),) = results(ktap(run_info(), [case("a", repeat=2)]))
    assert (name, directive) == ("conversions/a no.2", "")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_makes_no_result_of_its_own(text: str) -> None:
    ((word, _, _, directive, _),) = results(ktap(hostile_run(text), [hostile_case(text)]))
    assert (word, directive) == ("not ok", "")


@pytest.mark.parametrize(
    "text",
    [
        "Kernel panic - not syncing: VFS: Unable to mount root fs",
        "reboot: System halted",
        "List of all partitions:",
    ],
)
def test_no_text_ends_the_list(text: str) -> None:
    """At these the kernel's own parser stops reading, wherever on a line they stand (KTAP_END of kunit_parser.py)."""
    told = ktap(hostile_run(text), [hostile_case(text), case("last")])
    assert text not in told
    assert len(results(told)) == 2


def test_no_suite_begins_a_nested_list() -> None:
    told = ktap(run_info(Verdict.DEVIATES), [hostile_case("Subtest: x")])
    assert not re.search(r"^\s*# Subtest: ", told, re.M)
