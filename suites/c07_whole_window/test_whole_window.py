# SPDX-License-Identifier: GPL-2.0-only
"""C7: after one partial conversion with discard the huge folio never comes back until the whole window is given up.

Only a window of which no page is present gets a folio of 2 MiB.  As long as one page of it stays, whatever the guest
converts and touches comes in single pages.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import Tell
from harness.scenario.region import G0
from harness.scenario.steps import Check, Convert, Fallocate, Populate, PunchHole, Side, Step, Touch

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED
HUGE = "nr_file_hugepages"

pytestmark = pytest.mark.gmem(claim="C7", designs=["thp-discard"])

WINDOW = G0[0:512]
BEGIN = (Convert(WINDOW, PRIVATE), Populate(WINDOW))
"""A private window, present as one folio of 2 MiB."""


def round_trip(first: int, end: int) -> tuple[Step, ...]:
    """Pages go to shared, come back, and all of the window is touched again."""
    there = G0[first:end]
    return Convert(there, SHARED), Convert(there, PRIVATE), Populate(WINDOW)


@pytest.mark.parametrize("page", [0, 255, 511], ids=["first", "middle", "last"])
def test_one_page(gmem: Case, page: int) -> None:
    """One page goes and comes back: its window has no huge folio any more."""
    gmem.run(
        *BEGIN,
        *round_trip(page, page + 1),
        tells=[Tell(step=4, first=2, counter=HUGE, format="huge folios {observed} (predicted {predicted})")],
    )


@pytest.mark.parametrize("stays", [0, 511], ids=["first", "last"])
def test_all_but_one_page(gmem: Case, stays: int) -> None:
    """511 pages given up at once bring no huge folio back either, while the last one stays."""
    first, end = (1, 512) if stays == 0 else (0, 511)
    gmem.run(
        *BEGIN,
        *round_trip(first, end),
        Check(G0[stays], "pattern"),
        tells=[Tell(step=4, counter=HUGE, format="huge folios with 511 pages given up {observed} ({predicted})")],
    )


def test_whole_window(gmem: Case) -> None:
    """Broken by one page, then given up whole: the next touch brings a huge folio again."""
    gmem.run(
        *BEGIN,
        *round_trip(77, 78),
        *round_trip(0, 512),
        tells=[
            Tell(step=4, first=2, counter=HUGE, format="huge folios after one page {observed} ({predicted})"),
            Tell(step=7, counter=HUGE, format="after the whole window {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
def test_given_up_in_pieces(gmem: Case) -> None:
    """It does not matter how the window is given up: the touch after its last page went brings a huge folio."""
    gmem.run(
        *BEGIN,
        Convert(G0[100:101], SHARED),
        Convert(G0[0:100], SHARED),
        Convert(G0[256:512], SHARED),
        Convert(G0[101:256], SHARED),
        Convert(WINDOW, PRIVATE),
        Touch(G0[33]),
        tells=[Tell(step=7, counter=HUGE, format="huge folios, given up in pieces {observed} ({predicted})")],
    )


def test_allocated_ahead(gmem: Case) -> None:
    """A window that the host allocates ahead is huge, goes whole and comes back like any other."""
    gmem.run(
        Convert(WINDOW, PRIVATE),
        Fallocate(WINDOW),
        Populate(WINDOW),
        Convert(WINDOW, SHARED),
        Convert(WINDOW, PRIVATE),
        Fallocate(WINDOW),
        tells=[
            Tell(step=3, first=1, counter="nr_unevictable", format="allocated ahead, kept {observed} ({predicted})"),
            Tell(step=5, counter=HUGE, format="huge folios, allocated again {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
def test_holes_of_the_host(gmem: Case) -> None:
    """The same for holes that the host punches into a window that stays private."""
    gmem.run(
        *BEGIN,
        PunchHole(G0[8:16]),
        Fallocate(WINDOW),
        PunchHole(WINDOW),
        Populate(WINDOW),
    )


@pytest.mark.gmem(brief=False)
def test_one_window_of_three(gmem: Case) -> None:
    """A window that was broken says nothing about its neighbours, which stay huge."""
    three = G0[0:1536]
    gmem.run(
        Convert(three, PRIVATE),
        Populate(three),
        Convert(G0[700], SHARED),
        Convert(G0[512:1024], SHARED),
        Convert(G0[512:1024], PRIVATE),
        Populate(three),
        Check(three, "pattern"),
    )
