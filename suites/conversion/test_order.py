# SPDX-License-Identifier: GPL-2.0-only
"""Conversion, order of events: repeated, early and late conversions cost what they must and nothing else."""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.scenario.region import G0
from harness.scenario.steps import Check, Convert, Populate, Side, Touch

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED

pytestmark = pytest.mark.gmem(designs=["order0"])


def test_idempotent_private(gmem: Case) -> None:
    """Making private pages private again frees nothing and loses nothing."""
    chunk = G0[0:512]
    gmem.run(Convert(chunk, PRIVATE), Populate(chunk), Convert(chunk, PRIVATE), Check(chunk, "pattern"))


def test_idempotent_shared(gmem: Case) -> None:
    """Making shared pages shared again frees nothing and loses nothing."""
    chunk = G0[0:512]
    gmem.run(Populate(chunk), Convert(chunk, SHARED), Check(chunk, "pattern"))


def test_before_first_touch(gmem: Case) -> None:
    """A range converted twice before it was touched comes up zeroed on the side it ends on."""
    chunk = G0[0:512]
    gmem.run(Convert(chunk, PRIVATE), Convert(chunk, SHARED), Convert(chunk, PRIVATE), Check(chunk, "zero"))


def test_reconversion(gmem: Case) -> None:
    """A page that goes to shared and back is a new, zeroed page; the 511 others are the old ones."""
    chunk = G0[0:512]
    gmem.run(
        Convert(chunk, PRIVATE),
        Populate(chunk),
        Convert(G0[33], SHARED),
        Touch(G0[33]),
        Convert(G0[33], PRIVATE),
        Check(G0[33], "zero"),
        Check(G0[0:33], "pattern"),
        Check(G0[34:512], "pattern"),
    )


def test_three_rounds(gmem: Case) -> None:
    """Three rounds of private and shared take and return the same number of pages each."""
    there = G0[300:812]
    gmem.run(
        *(step for _ in range(3) for step in (Convert(there, PRIVATE), Populate(there), Convert(there, SHARED))),
        Check(there, "zero"),
    )


def test_shared_side_is_discarded(gmem: Case) -> None:
    """Pages written on the shared side go back to the host when the range becomes private."""
    gmem.run(Populate(G0[0:600]), Convert(G0[0:600], PRIVATE), Populate(G0[0:600]), Check(G0[0:600], "pattern"))


def test_read_before_write(gmem: Case) -> None:
    """Reading a private page that nobody wrote allocates it zeroed; writing it later allocates nothing more."""
    chunk = G0[0:512]
    gmem.run(Convert(chunk, PRIVATE), Touch(chunk, write=False), Populate(chunk), Check(chunk, "pattern"))


def test_page_by_page(gmem: Case) -> None:
    """128 pages converted with one request each end like 128 pages converted with one request."""
    there = G0[640:768]
    gmem.run(
        Convert(there, PRIVATE, by=1),
        Populate(there),
        Convert(there, SHARED, by=1),
        Populate(there),
        Convert(there, PRIVATE, by=1),
        Check(there, "zero"),
    )
