# SPDX-License-Identifier: GPL-2.0-only
"""A planted fault is caught: each small change to the kernel gives the right exit code and names what it did.

Every change is tested with one of each kind; ``python -m tests.planted`` runs all faults there are.
A kernel with one of them is built from the default kernel's tree, which costs the one changed file.  A few cases are
run on each, on one saved testbed: enough to see the fault, and to see that it is named.
"""

from __future__ import annotations

import json
import re

import pytest

from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from tests.emulated.conftest import Ended, Gmem
from tests.planted.faults import load

NAMES = (
    "second-page-leaked",  # a number
    "movable-allocation",  # a place
    "not-zeroed",  # what the guest finds in it
    "warn-every-100th-conversion",  # a console
)


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_fault_is_caught_and_named(gmem_cli: Gmem, name: str) -> None:
    fault = load(name)
    ended = gmem_cli.run(*fault.cases_words, "--patch", str(fault.patch))
    assert ended.code == fault.verdict.exit_code, ended.stdout + ended.stderr
    assert ended.info["kernel"]["patches"] == fault.patch.name
    assert fault.words in ended.said()
    if fault.counter:
        named = [finding for finding in ended.findings() if re.fullmatch(fault.counter, finding["counter"])]
        assert named, ended.said()
        for finding in named:
            assert finding["observed"] is not None
            assert not finding["low"] <= finding["observed"] <= finding["high"]
            assert all(finding["reasons"])
    assert not gmem_cli.left_behind()


def test_a_deviation_is_made_small(gmem_cli: Gmem) -> None:
    """Down to the step and the page that show it, on that kernel."""
    patch = load("second-page-leaked").patch
    seen = gmem_cli.run("smoke", "-k", "one_page", "--patch", str(patch))
    [case] = seen.cases
    assert "smaller: gmem shrink " in seen.stdout
    ended = gmem_cli.run(str(seen.out / case["evidence"]), "--patch", str(patch), command="shrink")
    assert ended.code == Verdict.DEVIATES.exit_code, ended.stdout + ended.stderr
    found = json.loads((ended.out / "shrink.json").read_text())["found"]
    assert (found["what"], found["shown_again"], found["unfinished"]) == ("unaccounted too high", True, ""), found
    scenario = Scenario.from_yaml((ended.out / found["file"]).read_text())
    assert len(scenario.steps) == found["steps"] < found["steps_first"]
    assert {pages.count for step in scenario.steps for pages in step.ranges()} == {1}
    assert not gmem_cli.left_behind()


def test_the_healthy_kernel_passes_the_same_cases(gmem_cli: Gmem) -> None:
    same = " or ".join(f"({load(name).expression})" for name in NAMES)
    ended: Ended = gmem_cli.run("smoke", "conversion", "-k", same)
    assert ended.code == 0, ended.said()
    assert {case["verdict"] for case in ended.cases} == {"pass"}
