# SPDX-License-Identifier: GPL-2.0-only
"""C6: a huge folio of the shared side is migrated and split when the host wants it, unless somebody holds it.

The host has a second node, to which it moves what QEMU maps; where each page is afterwards is asked of the kernel.  A
split is asked for by itself (debugfs ``split_huge_pages``).  The references are plain ones, taken by splice() out of
the file that the guest's RAM is: to those who move and split folios they are as good as a long-term pin, since all that
counts for them is a number that nobody explains.  All cases end with a migration, so that they share their testbeds.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import Tell
from harness.scenario.region import G0
from harness.scenario.steps import Check, Convert, Migrate, Pin, Populate, Side, Split, Unpin

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED

pytestmark = pytest.mark.gmem(claim="C6", designs=["order0", "thp-discard", "thp-2m-truncate-noop"])

on_thp = pytest.mark.parametrize("backing", ["anon-thp", "shmem-thp"])

WINDOW = G0[512:1024]
PAGE = G0[700]


@on_thp
def test_migrate(gmem: Case, backing: str) -> None:
    """A huge folio moves to another node whole, keeps what is in it, and moves back."""
    gmem.run(
        Populate(WINDOW),
        Migrate(WINDOW),
        Check(WINDOW, "pattern"),
        Migrate(WINDOW, node=0),
        Check(WINDOW, "pattern"),
        Convert(WINDOW, PRIVATE),
        backing=backing,
        tells=[
            Tell(
                step=1,
                counter="thp_migration_success",
                format=f"{backing}: huge folios moved {{observed}} ({{predicted}})",
            ),
            Tell(step=1, counter="pgmigrate_success", format="pages {observed} ({predicted})"),
            Tell(step=1, counter="thp_split_page", format="split for it {observed} ({predicted})"),
        ],
    )


@on_thp
def test_split(gmem: Case, backing: str) -> None:
    """A huge folio is split when the host asks; from then on each page goes to private, and moves, by itself."""
    gmem.run(
        Populate(WINDOW),
        Split(WINDOW),
        Check(WINDOW, "pattern"),
        Convert(G0[701], PRIVATE),
        Convert(PAGE, PRIVATE),
        Convert(G0[700:702], SHARED),
        Populate(WINDOW),
        Migrate(WINDOW),
        Check(WINDOW, "pattern"),
        backing=backing,
        tells=[
            Tell(step=1, counter="thp_split_page", format=f"{backing}: huge folios split {{observed}} ({{predicted}})"),
            Tell(step=4, counter="F", format="then a page to private frees {observed} ({predicted})"),
            Tell(step=7, counter="pgmigrate_success", format="and pages move one by one {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
def test_split_gives_back_what_was_kept(gmem: Case) -> None:
    """What a partly mapped folio keeps for nothing comes free with its split."""
    gmem.run(
        Populate(WINDOW),
        Convert(G0[600:900], PRIVATE),
        Split(WINDOW),
        Check(G0[512:600], "pattern"),
        Migrate(WINDOW),
        backing="anon-thp",
        tells=[
            Tell(step=1, counter="unaccounted", format="kept for nothing {observed} ({predicted})"),
            Tell(step=2, counter="F", format="free after the split {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
def test_migration_of_a_partly_mapped_folio_splits_it(gmem: Case) -> None:
    """It is not moved as it is: it is split, what is mapped moves and the rest is freed."""
    gmem.run(
        Populate(WINDOW),
        Convert(G0[600:900], PRIVATE),
        Migrate(WINDOW),
        Check(G0[512:600], "pattern"),
        backing="anon-thp",
        tells=[
            Tell(step=2, counter="thp_migration_split", format="huge folios split to move {observed} ({predicted})"),
            Tell(step=2, counter="F", format="free afterwards {observed} ({predicted})"),
        ],
    )


def test_held_folio_stays(gmem: Case) -> None:
    """A reference on one of its pages keeps a huge folio where it is; without it, the folio moves."""
    gmem.run(
        Populate(WINDOW),
        Pin(PAGE),
        Migrate(WINDOW),
        Check(WINDOW, "pattern"),
        Unpin(PAGE),
        Migrate(WINDOW),
        Check(WINDOW, "pattern"),
        backing="shmem-thp",
        tells=[
            Tell(step=2, counter="thp_migration_fail", format="held: not moved {observed} ({predicted})"),
            Tell(step=2, counter="pgmigrate_success", format="pages moved {observed} ({predicted})"),
            Tell(step=5, counter="thp_migration_success", format="let go: moved {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
def test_held_folio_is_not_split(gmem: Case) -> None:
    """A reference keeps a huge folio whole, asked or by a conversion, and nothing of it is freed; then it is split."""
    gmem.run(
        Populate(WINDOW),
        Pin(PAGE),
        Split(WINDOW),
        Convert(G0[800], PRIVATE),
        Convert(G0[801], PRIVATE),
        Check(G0[512:800], "pattern"),
        Unpin(PAGE),
        Split(WINDOW),
        Check(G0[512:800], "pattern"),
        Migrate(WINDOW),
        backing="shmem-thp",
        tells=[
            Tell(step=2, counter="thp_split_page", format="held: split when asked {observed} ({predicted})"),
            Tell(step=4, counter="thp_split_page_failed", format="a conversion's split fails {observed} ({predicted})"),
            Tell(step=4, counter="F", format="and frees {observed} ({predicted})"),
            Tell(step=7, counter="thp_split_page", format="let go: split {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
def test_held_folio_outlives_its_conversion(gmem: Case) -> None:
    """The whole window goes to private under one reference: its memory comes back with the reference only."""
    gmem.run(
        Populate(WINDOW),
        Pin(PAGE),
        Convert(WINDOW, PRIVATE),
        Unpin(PAGE),
        Convert(WINDOW, SHARED),
        Populate(WINDOW),
        Migrate(WINDOW),
        backing="shmem-thp",
        tells=[
            Tell(step=2, counter="unaccounted", format="held: kept for nothing {observed} ({predicted})"),
            Tell(step=3, counter="F", format="let go: freed {observed} ({predicted})"),
        ],
    )
