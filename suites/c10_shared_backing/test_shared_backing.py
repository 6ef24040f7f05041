# SPDX-License-Identifier: GPL-2.0-only
"""C10: a shared side of 4 KiB pages needs no split on the way to private; one of 2 MiB folios costs pages for nothing.

The same conversions on each kind of memory that QEMU can give a guest.  ``unaccounted`` shows what a huge folio keeps
although nothing maps it any more, ``nr_hugetlb`` what a pool page keeps, and F what all of it costs the host.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import Tell
from harness.scenario.region import G0
from harness.scenario.steps import Check, Convert, Populate, Side, Touch

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED

pytestmark = pytest.mark.gmem(claim="C10", designs=["order0", "thp-discard", "thp-2m-truncate-noop"])

BACKINGS = ["anon-thp", "anon-4k", "memfd-4k", "shmem-thp", "hugetlb"]
"""A brief run takes the first: the one that keeps pages for nothing."""
on_each = pytest.mark.parametrize("backing", BACKINGS)

WINDOW = G0[512:1024]
PAGE, NEXT = G0[519], G0[520]
REST = G0[513:1024]
"""All of the window but its first page."""


@on_each
def test_one_page(gmem: Case, backing: str) -> None:
    """One page of a shared window goes to private, then its neighbour; both are used and come back."""
    gmem.run(
        Populate(WINDOW),
        Convert(PAGE, PRIVATE),
        Convert(NEXT, PRIVATE),  # the tree of attributes needs no node for it: F is the page itself
        Populate(G0[519:521]),
        Check(WINDOW, "pattern"),
        Convert(G0[519:521], SHARED),
        Populate(G0[519:521]),
        Check(WINDOW, "pattern"),
        backing=backing,
        tells=[
            Tell(step=2, counter="F", format=f"{backing}: one page to private frees {{observed}} ({{predicted}})"),
            Tell(step=2, counter="unaccounted", format="kept for nothing {observed} ({predicted})"),
            Tell(step=1, counter="thp_split_pmd", format="mappings split {observed} ({predicted})"),
            Tell(step=1, counter="thp_split_page", format="folios split {observed} ({predicted})"),
        ],
    )


@on_each
def test_whole_window(gmem: Case, backing: str) -> None:
    """A whole shared window goes to private, is used, and comes back: huge folios go as they came."""
    gmem.run(
        Populate(WINDOW),
        Convert(WINDOW, PRIVATE),
        Populate(WINDOW),
        Convert(WINDOW, SHARED),
        Check(PAGE, "either"),  # zeroes, or what it held before where nobody discarded it
        Populate(WINDOW),
        Check(WINDOW, "pattern"),
        backing=backing,
        tells=[
            Tell(step=1, counter="F", format=f"{backing}: 512 pages to private free {{observed}} ({{predicted}})"),
            Tell(step=2, first=1, counter="F", format="and used there, the host has {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
@on_each
def test_all_but_one_page(gmem: Case, backing: str) -> None:
    """511 pages of a shared window are private and used; then the last one goes too."""
    gmem.run(
        Populate(WINDOW),
        Convert(REST, PRIVATE),
        Populate(REST),
        Convert(G0[512], PRIVATE),
        Check(REST, "pattern"),
        Convert(WINDOW, SHARED),
        Populate(WINDOW),
        backing=backing,
        tells=[
            Tell(step=1, counter="F", format=f"{backing}: 511 pages to private free {{observed}} ({{predicted}})"),
            Tell(step=1, counter="unaccounted", format="kept for nothing {observed} ({predicted})"),
            Tell(step=2, first=1, counter="F", format="and used there, the host has {observed} ({predicted})"),
            Tell(step=3, counter="F", format="the last page frees {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
@on_each
def test_page_by_page(gmem: Case, backing: str) -> None:
    """Sixteen pages of a shared window go to private one by one, come back, and are used again."""
    some = G0[600:616]
    gmem.run(
        Populate(WINDOW),
        Convert(some, PRIVATE, by=1),
        Populate(some),
        Convert(some, SHARED, by=1),
        Populate(some),
        backing=backing,
        tells=[
            Tell(step=1, counter="F", format=f"{backing}: 16 pages to private free {{observed}} ({{predicted}})"),
            Tell(step=4, first=1, counter="F", format="there and back, the host has {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
@on_each
def test_read_before_written(gmem: Case, backing: str) -> None:
    """What the guest only reads, then writes, and what it shares a window with."""
    gmem.run(
        Touch(PAGE, write=False),
        Convert(G0[800:900], PRIVATE),
        Populate(G0[800:900]),
        Populate(PAGE),
        Convert(PAGE, PRIVATE),
        Check(G0[800:900], "pattern"),
        backing=backing,
        tells=[
            Tell(step=0, counter="F", format=f"{backing}: one page read costs {{observed}} ({{predicted}})"),
            Tell(step=3, counter="F", format="written, beside private pages, {observed} ({predicted})"),
        ],
    )
