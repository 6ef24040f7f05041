# SPDX-License-Identifier: GPL-2.0-only
"""A planted fault is caught: each small change to the kernel gives the right exit code and names what it did.

The patches lie in ``faults/``; a kernel with one of them is built from the default kernel's tree, which costs the one
changed file.  A few cases are run on each, on one saved testbed: enough to see the fault, and to see that it is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.run.verdict import Verdict
from tests.emulated.conftest import Ended, Gmem

FAULTS = Path(__file__).parent / "faults"
CASES = (
    "one_page or one_chunk or (there_and_back and (odd or region)) or every_other or neighbours or punch_present "
    "or by_page"
)


@dataclass(frozen=True)
class Fault:
    """A patch, and what must be said about the kernel it makes."""

    patch: str
    counter: str
    """Regular expression for a counter that must be named with predicted and observed; '' when contents tell."""
    words: str
    """What the sentences must contain besides."""
    verdict: Verdict = Verdict.DEVIATES


FAULT_TABLE = (
    Fault("punch-keeps-single-page", r"nr_file_pages|gmem/g0", "of g0.r0 is present and should not be"),
    Fault("leaked-reference", r"nr_unevictable|pgfree", "leave the page cache"),
    Fault("movable-allocation", r"blocks/Unmovable|movable_balance", ""),
    Fault("not-zeroed", "", "do not hold zeroes"),
    Fault("second-page-leaked", r"unaccounted|F", "enter the page cache"),
    Fault("last-page-not-converted", r"nr_file_pages|gmem/g0|nr_anon_pages", ""),
    Fault("punch-one-page-too-many", r"nr_file_pages|gmem/g0", "the page cache"),
    Fault("warn-every-100th-conversion", "", "WARNING", Verdict.CRASH),
)


@pytest.mark.parametrize("fault", FAULT_TABLE, ids=[fault.patch for fault in FAULT_TABLE])
def test_a_planted_fault_is_caught_and_named(gmem_cli: Gmem, fault: Fault) -> None:
    patch = FAULTS / f"{fault.patch}.patch"
    ended = gmem_cli.run("smoke", "conversion", "-k", CASES, "--patch", str(patch))
    assert ended.code == fault.verdict.exit_code, ended.stdout + ended.stderr
    assert ended.info["kernel"]["patches"] == patch.name
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
    ended: Ended = gmem_cli.run("smoke", "conversion", "-k", CASES)
    assert ended.code == 0, ended.said()
    assert {case["verdict"] for case in ended.cases} == {"pass"}


def test_every_patch_in_the_folder_is_in_a_test() -> None:
    elsewhere = {"punch-hangs", "no-guest-memfd", "punch-frees-on-another-cpu", "huge-only-where-memory-is-plenty"}
    elsewhere |= {"held-folio-goes-whole", "held-folio-zeroed"}
    named = {fault.patch for fault in FAULT_TABLE} | elsewhere
    assert {path.stem for path in FAULTS.glob("*.patch")} == named
