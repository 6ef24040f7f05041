# SPDX-License-Identifier: GPL-2.0-only
"""Planted faults in demonstrators that only the matrix builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.run.verdict import Verdict
from tests.emulated.conftest import RUN_SECONDS, Gmem
from tests.planted.faults import FAULTS

SUITES = Path(__file__).parents[2] / "suites"

pytestmark = pytest.mark.timeout(RUN_SECONDS)


def test_private_memory_that_the_host_can_read(gmem_cli: Gmem) -> None:
    patch = FAULTS / "private-memory-faulted-in.patch"
    ended = gmem_cli.run(
        str(SUITES / "integrity"), "-k", "private_pages", "--kernel", "7.3-inplace", "--patch", str(patch)
    )
    assert ended.code == Verdict.DEVIATES.exit_code, ended.stdout + ended.stderr
    assert "host view: 200 pages of g0.r0[100:300] are not as predicted: page 100 shows the host" in ended.said()


def test_a_kernel_on_which_no_testbed_can_be_prepared(gmem_cli: Gmem) -> None:
    patch = FAULTS / "collapse-keeps-a-reference.patch"
    ended = gmem_cli.run("smoke", "-k", "rest", "--kernel", "7.3-inplace-thp", "--patch", str(patch))
    assert ended.code == Verdict.NO_BOOT.exit_code, ended.stdout + ended.stderr
    assert "no testbed can be prepared on it: g0: the conversion of" in ended.said()
    assert "is refused: EAGAIN" in ended.said()
