# SPDX-License-Identifier: GPL-2.0-only
"""C8: truncation in units of 2 MiB only, conversion still in units of 4 KiB.

A conversion of less than a window frees no private page: the window keeps its memory and its huge folio.  The shared
copy of the page is a second one, and what comes back to private is the old page with its old contents.  Only a window
that is given up whole returns its memory.

These are about the variant that narrows holes.  Where the kernel refuses them instead (``gmem_2m_punch_strict``), the
conversions that a guest makes before its first case, of one page, fail, and its testbed does not come up.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import Tell
from harness.scenario.region import G0
from harness.scenario.steps import Check, Convert, Populate, PunchHole, Side, Touch

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED
PAGES, HUGE = "nr_file_pages", "nr_file_hugepages"

WINDOW = G0[0:512]
BEGIN = (Convert(WINDOW, PRIVATE), Populate(WINDOW))

NOOP = pytest.mark.gmem(claim="C8", designs=["thp-2m-truncate-noop"])
EVERY_NOOP = pytest.mark.gmem(claim="C8", designs=["thp-2m-truncate-noop", "inplace-thp-noop"])


@NOOP
@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (300, 301), (1, 512), (256, 512)], ids=["first", "one", "all-but-one", "half"]
)
def test_part_of_a_window(gmem: Case, start: int, end: int) -> None:
    """Pages converted to shared stay in the guest_memfd, shared copies come on top, and the old ones come back."""
    there = G0[start:end]
    gmem.run(
        *BEGIN,
        Convert(there, SHARED),
        Touch(there),
        Convert(there, PRIVATE),
        Check(WINDOW, "pattern"),
        tells=[
            Tell(step=2, counter=PAGES, format="private pages {observed} ({predicted})"),
            Tell(step=2, counter=HUGE, format="huge folios {observed} ({predicted})"),
            Tell(step=3, counter="nr_anon_pages", format="shared copies {observed} ({predicted})"),
        ],
    )


@NOOP
def test_whole_window(gmem: Case) -> None:
    """A window that is converted whole goes back to the host, and comes back as a huge folio of zeroes."""
    gmem.run(
        *BEGIN,
        Convert(WINDOW, SHARED),
        Convert(WINDOW, PRIVATE),
        Check(WINDOW, "zero"),
        tells=[
            Tell(step=2, counter=PAGES, format="whole window: pages {observed} ({predicted})"),
            Tell(step=2, counter=HUGE, format="huge folios {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
@NOOP
def test_window_given_up_in_halves(gmem: Case) -> None:
    """Halves that are converted one after the other free nothing: no single request covers the window."""
    gmem.run(
        *BEGIN,
        Convert(G0[0:256], SHARED),
        Convert(G0[256:512], SHARED),
        Convert(WINDOW, PRIVATE),
        Check(WINDOW, "pattern"),
        tells=[Tell(step=3, first=2, counter=PAGES, format="in halves: pages {observed} ({predicted})")],
    )


@EVERY_NOOP
def test_holes_of_the_host(gmem: Case) -> None:
    """A hole is narrowed to the whole windows in it: of 1000 pages from the middle of a window on, 512 go."""
    three = G0[0:1536]
    gmem.run(
        Convert(three, PRIVATE),
        Populate(three),
        PunchHole(G0[100:200]),
        PunchHole(G0[400:1400]),
        Check(G0[0:512], "pattern"),
        Check(G0[1024:1536], "pattern"),
        Check(G0[512:1024], "zero"),
        tells=[
            Tell(step=2, counter=PAGES, format="hole of 100 pages {observed} ({predicted})"),
            Tell(step=3, counter=PAGES, format="hole over a window {observed} ({predicted})"),
        ],
    )
