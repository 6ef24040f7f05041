# SPDX-License-Identifier: GPL-2.0-only
"""Conversion, host side: fallocate on the guest_memfd itself, and guests side by side."""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.scenario.region import G0, G1
from harness.scenario.steps import Check, Close, Convert, Fallocate, Populate, PunchHole, Side

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED

pytestmark = pytest.mark.gmem(designs=["order0"])


def test_punch_of_holes(gmem: Case) -> None:
    """Punching where nothing is present frees nothing."""
    gmem.run(Convert(G0[0:512], PRIVATE), PunchHole(G0[0:4096]), PunchHole(G0[5:6]))


def test_punch_present(gmem: Case) -> None:
    """Punching present pages frees exactly those; the guest finds zeroes there and its data elsewhere."""
    gmem.run(
        Convert(G0[0:512], PRIVATE),
        Populate(G0[0:512]),
        PunchHole(G0[64:65]),
        PunchHole(G0[128:192]),
        Check(G0[0:64], "pattern"),
        Check(G0[64:65], "zero"),
        Check(G0[192:512], "pattern"),
    )


def test_fallocate(gmem: Case) -> None:
    """Pages allocated ahead are the ones the guest uses: its first touch takes none."""
    gmem.run(
        Convert(G0[0:512], PRIVATE), Fallocate(G0[0:512]), Fallocate(G0[0:512]), Populate(G0[0:512]),
        Check(G0[0:512], "pattern"),
    )  # fmt: skip


def test_fallocate_gives_zeroes(gmem: Case) -> None:
    """Pages that a guest wrote to, gave back, and gets again by an allocation ahead come up zeroed."""
    chunk = G0[0:512]
    gmem.run(
        Convert(chunk, PRIVATE), Populate(chunk), Convert(chunk, SHARED), Convert(chunk, PRIVATE), Fallocate(chunk),
        Check(chunk, "zero"),
    )  # fmt: skip


def test_fallocate_over_present(gmem: Case) -> None:
    """An allocation over pages that are there and beyond takes those beyond alone, and all can be given back."""
    gmem.run(
        Convert(G0[0:512], PRIVATE),
        Populate(G0[0:100]),
        Fallocate(G0[50:300]),
        PunchHole(G0[100:300]),
        Check(G0[0:100], "pattern"),
        PunchHole(G0[0:100]),
    )


def test_two_guests(gmem: Case) -> None:
    """What one guest converts moves no page of another guest."""
    gmem.run(
        Convert(G0[0:512], PRIVATE),
        Convert(G1[0:512], PRIVATE),
        Populate(G0[0:512]),
        Populate(G1[0:512]),
        Convert(G0[0:512], SHARED),
        Check(G1[0:512], "pattern"),
        guests=2,
    )


def test_close_beside_another(gmem: Case) -> None:
    """A guest that ends gives its pages back and leaves the other guest's alone."""
    gmem.run(
        Convert(G0[0:512], PRIVATE),
        Populate(G0[0:512]),
        Convert(G1[0:100], PRIVATE),
        Populate(G1[0:100]),
        Close("g0"),
        Check(G1[0:100], "pattern"),
        guests=2,
    )
