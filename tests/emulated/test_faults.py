# SPDX-License-Identifier: GPL-2.0-only
"""A planted fault is caught: each small change to the kernel gives the right exit code and names what it did.

Every change is tested with one of each kind; ``python -m tests.planted`` runs all faults there are.
A kernel with one of them is built from the default kernel's tree, which costs the one changed file.  A few cases are
run on each, on one saved testbed: enough to see the fault, and to see that it is named.
"""

from __future__ import annotations

import re

import pytest

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


def test_the_healthy_kernel_passes_the_same_cases(gmem_cli: Gmem) -> None:
    same = " or ".join(f"({load(name).expression})" for name in NAMES)
    ended: Ended = gmem_cli.run("smoke", "conversion", "-k", same)
    assert ended.code == 0, ended.said()
    assert {case["verdict"] for case in ended.cases} == {"pass"}
