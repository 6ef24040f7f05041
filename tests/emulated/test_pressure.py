# SPDX-License-Identifier: GPL-2.0-only
"""Under memory pressure: a kernel that gives huge folios up although it has the blocks is caught, and where it does not
matter it passes."""

from __future__ import annotations

from harness.run.verdict import Verdict
from tests.emulated.conftest import Gmem
from tests.planted.faults import FAULTS

KERNEL = "7.3-thp-discard"
FAULT = FAULTS / "huge-only-where-memory-is-plenty.patch"


def test_blocks_that_are_not_used_are_missed_and_only_where_there_are_some(gmem_cli: Gmem) -> None:
    ended = gmem_cli.run("c11_pressure", "-k", "nobody_can_move", "--kernel", KERNEL, "--patch", str(FAULT))
    assert ended.code == Verdict.DEVIATES.exit_code, ended.stdout + ended.stderr
    verdicts = {case["case"]: case["verdict"] for case in ended.cases}
    assert verdicts["pieces_that_nobody_can_move[0]"] == "pass"
    assert verdicts["pieces_that_nobody_can_move[12]"] == "deviates"
    wrong = [finding for finding in ended.findings() if finding["counter"] == "nr_file_hugepages"]
    assert wrong, ended.said()
    assert {finding["observed"] for finding in wrong} == {0}
    assert not gmem_cli.left_behind()


def test_the_healthy_kernel_passes_with_all_kinds_of_pressure(gmem_cli: Gmem) -> None:
    ended = gmem_cli.run("c11_pressure", "--brief", "--kernel", KERNEL)
    assert ended.code == 0, ended.said()
    assert {case["verdict"] for case in ended.cases} == {"pass", "skip"}
