# SPDX-License-Identifier: GPL-2.0-only
"""C3: in-place conversion moves no counter and no page: every frame stays where it is.

Each case watches which frames the guest_memfds of the host are.  The last one converts in the same way on a kernel that
discards, where the same counters do move.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import Tell
from harness.scenario.region import G0, G1
from harness.scenario.steps import Check, Convert, Place, Populate, Side

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED

GONE = "{observed} frames given up by conversions (predicted {predicted})"
"""Of the steps from the first conversion of pages that are present on."""

IN_PLACE = pytest.mark.gmem(claim="C3", designs=["inplace", "inplace-thp", "inplace-thp-noop"])


@IN_PLACE
@pytest.mark.parametrize("count", [1, 63, 512, 1024])
def test_there_and_back(gmem: Case, count: int) -> None:
    """Pages that become shared and private again stay on their frames, with what is in them."""
    there = G0[0:count]
    gmem.run(
        Convert(there, PRIVATE),
        Populate(there),
        Convert(there, SHARED),
        Convert(there, PRIVATE),
        Check(there, "pattern"),
        frames=True,
        tells=[Tell(-1, "frames/gone", GONE, first=2)],
    )


@pytest.mark.gmem(brief=False)
@IN_PLACE
def test_touched_on_both_sides(gmem: Case) -> None:
    """Pages that are written on either side, on either CPU, take a frame once."""
    chunk, some = G0[0:512], G0[100:300]
    gmem.run(
        Place("g0", 0),
        Convert(chunk, PRIVATE),
        Populate(chunk),
        Convert(some, SHARED),
        Place("g0", 1),
        Populate(some),
        Convert(some, PRIVATE),
        Populate(some),
        frames=True,
        tells=[Tell(-1, "frames/gone", GONE, first=2)],
    )


@pytest.mark.gmem(brief=False)
@IN_PLACE
def test_page_by_page(gmem: Case) -> None:
    """128 pages converted with one request each move no more than with one request for all."""
    there = G0[640:768]
    gmem.run(
        Convert(G0[512:1024], PRIVATE),
        Populate(G0[512:1024]),
        Convert(there, SHARED, by=1),
        Convert(there, PRIVATE, by=1),
        frames=True,
        tells=[Tell(-1, "frames/gone", GONE, first=2)],
    )


@IN_PLACE
def test_beside_another_guest(gmem: Case) -> None:
    """What one guest converts moves no frame of another's."""
    gmem.run(
        Convert(G0[0:512], PRIVATE),
        Populate(G0[0:512]),
        Convert(G1[0:512], PRIVATE),
        Populate(G1[0:512]),
        Convert(G0[0:512], SHARED),
        Convert(G1[7], SHARED),
        Convert(G0[0:512], PRIVATE),
        guests=2,
        frames=True,
        tells=[Tell(-1, "frames/gone", GONE, first=2)],
    )


@pytest.mark.gmem(claim="C3", designs=["order0"])
@pytest.mark.parametrize("count", [1, 48])
def test_a_discard_does_move_pages(gmem: Case, count: int) -> None:
    """Where a conversion discards, each page that becomes shared loses its frame, and takes one when it comes back."""
    there = G0[8 : 8 + count]
    gmem.run(
        Place("g0", 0),
        Convert(G0[0:512], PRIVATE),
        Populate(G0[0:512]),
        Convert(there, SHARED),
        Convert(there, PRIVATE),
        Populate(there),
        Check(there, "pattern"),
        frames=True,
        pcp_room=True,
        tells=[Tell(-1, "frames/gone", GONE, first=3)],
    )
