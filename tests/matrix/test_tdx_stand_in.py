# SPDX-License-Identifier: GPL-2.0-only
"""Guests on QEMU's own tdx-guest path, of a QEMU that has KVM populate what it converts: real counters, and a fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.run.verdict import Verdict
from tests.emulated import test_faults
from tests.emulated.conftest import RUN_SECONDS, Gmem

pytestmark = pytest.mark.timeout(RUN_SECONDS)
CASES = "one_page or one_chunk or (there_and_back and odd) or read_before or reconversion or two_guests or close"
WORDS = ("smoke", "conversion", "--guest", "tdx-stand-in", "-k", CASES)


def test_conversions_are_predicted(gmem_cli: Gmem) -> None:
    ended = gmem_cli.run(*WORDS)
    assert ended.code == Verdict.PASS.exit_code, ended.stdout + ended.stderr
    assert ended.info["guest_kind"] == "sw-protected (TDX stand-in)"
    line = next(ended.out.rglob("g0-qemu.txt")).read_text()
    assert "tdx-guest,id=cgs0" in line
    assert "kernel-irqchip=split" in line


def test_a_planted_fault_is_caught(gmem_cli: Gmem) -> None:
    """A hole that leaves one page: as with the other stand-in."""
    patch: Path = test_faults.FAULTS / "punch-keeps-single-page.patch"
    ended = gmem_cli.run(*WORDS, "--patch", str(patch))
    assert ended.code == Verdict.DEVIATES.exit_code, ended.stdout + ended.stderr
    assert "of g0.r0 is present and should not be" in ended.said()
