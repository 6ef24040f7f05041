# SPDX-License-Identifier: GPL-2.0-only
"""C5: a private huge folio is split where nobody refers to it; with a reference that nobody expects the split fails.

What happens then depends on the design.  Where conversion discards, the hole succeeds all the same: a folio that the
guest ever touched stays whole with all its contents, one that it never touched goes whole.  Where conversion is done in
place it is refused, and nothing has changed.  The references are taken by a hook of the host (docs/kernels.md); a
kernel without it is skipped.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import MESSAGES, Tell
from harness.scenario.region import G0
from harness.scenario.steps import Check, Convert, Fallocate, Pin, Populate, PunchHole, Side, Touch, Unpin

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED
PAGES, HUGE = "nr_file_pages", "nr_file_hugepages"
SPLIT, FAILED, STAYS = "thp_split_page", "thp_split_page_failed", "unaccounted"
WRONG = "pages with other contents {observed} ({predicted})"

WINDOW = G0[0:512]
PAGE, HELD = G0[7], G0[100]
BEGIN = (Convert(WINDOW, PRIVATE), Populate(WINDOW))
"""A private window, present as one folio of 2 MiB."""

DISCARD = pytest.mark.gmem(claim="C5", designs=["thp-discard"])
IN_PLACE = pytest.mark.gmem(claim="C5", designs=["inplace-thp", "inplace-thp-noop"])
EVERY = pytest.mark.gmem(claim="C5", designs=["thp-discard", "inplace-thp", "inplace-thp-noop"])


@EVERY
def test_nobody_refers_to_it(gmem: Case) -> None:
    """Without a reference the split succeeds: also with one on the neighbour, and with one that was given back."""
    gmem.run(
        *BEGIN,
        Convert(G0[512:1024], PRIVATE),
        Populate(G0[512:1024]),
        Pin(G0[600]),
        Pin(HELD),
        Unpin(HELD),
        Convert(PAGE, SHARED),
        Check(G0[8:512], "pattern"),
        tells=[
            Tell(7, SPLIT, "without a reference: splits {observed} ({predicted})"),
            Tell(7, FAILED, "failed splits {observed} ({predicted})"),
        ],
    )


@DISCARD
@pytest.mark.parametrize("write", [True, False], ids=["written", "read"])
def test_a_folio_that_was_touched_stays_whole(gmem: Case, write: bool) -> None:
    """A touched folio is dirty: the hole frees nothing of it, and the page that comes back shows what it held."""
    gmem.run(
        Convert(WINDOW, PRIVATE),
        Touch(WINDOW, write=write),
        Pin(HELD),
        Convert(PAGE, SHARED),
        Convert(PAGE, PRIVATE),
        Check(WINDOW, "pattern" if write else "zero"),
        tells=[
            Tell(3, FAILED, "held and touched: failed splits {observed} ({predicted})"),
            Tell(3, PAGES, "pages given up {observed} ({predicted})"),
            Tell(5, MESSAGES, WRONG),
        ],
    )


@DISCARD
@pytest.mark.parametrize("page", [0, 100, 511], ids=["first", "held", "last"])
def test_it_splits_once_nobody_refers_to_it(gmem: Case, page: int) -> None:
    """The next conversion after the reference was given back splits the folio, and only its page goes."""
    gmem.run(
        *BEGIN,
        Pin(HELD),
        Convert(G0[page], SHARED),
        Convert(G0[page], PRIVATE),
        Unpin(HELD),
        Convert(G0[page], SHARED),
        Convert(G0[page], PRIVATE),
        Check(G0[page], "zero"),
        Check(G0[101:511], "pattern"),
        tells=[
            Tell(6, SPLIT, "given back: splits {observed} ({predicted})"),
            Tell(6, PAGES, "pages given up {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
@DISCARD
def test_a_folio_that_was_never_touched_goes_whole(gmem: Case) -> None:
    """A folio that only the host allocated is clean: one page becomes shared, and all 512 leave the guest_memfd."""
    gmem.run(
        Convert(WINDOW, PRIVATE),
        Fallocate(WINDOW),
        Pin(HELD),
        Convert(PAGE, SHARED),
        Check(G0[8:512], "zero"),
        Unpin(HELD),
        tells=[
            Tell(3, FAILED, "held and clean: failed splits {observed} ({predicted})"),
            Tell(3, PAGES, "pages given up for one {observed} ({predicted})"),
            Tell(3, STAYS, "of which nobody knows any more {observed} ({predicted})"),
            Tell(5, STAYS, "once given back {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
@DISCARD
def test_what_leaves_under_a_reference_stays_allocated(gmem: Case) -> None:
    """A held folio that goes as a whole leaves the guest_memfd, and its memory comes free with the reference."""
    gmem.run(
        *BEGIN,
        Pin(HELD),
        Convert(WINDOW, SHARED),
        Convert(WINDOW, PRIVATE),
        Populate(WINDOW),
        Unpin(G0[0:256]),
        Check(WINDOW, "pattern"),
        tells=[
            Tell(3, PAGES, "whole window: pages given up {observed} ({predicted})"),
            Tell(3, STAYS, "that stay allocated {observed} ({predicted})"),
            Tell(6, STAYS, "once given back {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
@DISCARD
def test_a_remainder(gmem: Case) -> None:
    """The same holds for what a split left: on 7.3 a folio of 1 MiB that cannot be split, on 6.12 single pages."""
    gmem.run(
        *BEGIN,
        Convert(PAGE, SHARED),
        Pin(G0[300:302]),
        PunchHole(G0[320]),
        Convert(G0[300], SHARED),
        Unpin(G0[301]),
        Convert(G0[301], SHARED),
        Unpin(G0[300]),
        Convert(G0[302], SHARED),
        tells=[
            Tell(5, PAGES, "held remainder: pages given up {observed} ({predicted})"),
            Tell(9, PAGES, "given back {observed} ({predicted})"),
        ],
    )


@IN_PLACE
def test_a_conversion_to_shared_is_refused(gmem: Case) -> None:
    """A held folio refuses to become shared with EAGAIN at the page asked for, and all of it stays private."""
    gmem.run(
        *BEGIN,
        Pin(HELD),
        Convert(G0[7:9], SHARED),
        Check(WINDOW, "pattern"),
        Unpin(HELD),
        Convert(G0[7:9], SHARED),
        Convert(G0[7:9], PRIVATE),
        Check(WINDOW, "pattern"),
        tells=[
            Tell(3, MESSAGES, "refused as predicted, but for {observed} findings ({predicted})"),
            Tell(3, FAILED, "failed splits {observed} ({predicted})"),
            Tell(3, HUGE, "huge folios {observed} ({predicted})"),
            Tell(6, SPLIT, "given back: splits {observed} ({predicted})"),
            Tell(8, MESSAGES, WRONG),
        ],
    )


@pytest.mark.gmem(brief=False)
@IN_PLACE
def test_a_later_window_refuses(gmem: Case) -> None:
    """Windows are converted one after the other by the guest: those before the held one are, those after it not."""
    three = G0[0:1536]
    gmem.run(
        Convert(three, PRIVATE),
        Populate(three),
        Pin(G0[600]),
        Convert(three, SHARED),
        Check(three, "pattern"),
        Unpin(G0[600]),
        Convert(three, SHARED),
        Check(three, "pattern"),
        tells=[
            Tell(3, SPLIT, "of three windows split {observed} ({predicted})"),
            Tell(3, FAILED, "refused {observed} ({predicted})"),
        ],
    )


@IN_PLACE
def test_a_conversion_to_private_is_refused(gmem: Case) -> None:
    """A held shared page refuses to become private with EAGAIN at that page, and none of the range does."""
    gmem.run(
        *BEGIN,
        Convert(G0[0:16], SHARED),
        Populate(G0[0:16]),
        Pin(PAGE),
        Convert(G0[0:16], PRIVATE),
        Check(G0[0:16], "pattern"),
        Unpin(PAGE),
        Convert(G0[0:16], PRIVATE),
        Check(WINDOW, "pattern"),
        tells=[
            Tell(5, MESSAGES, "to private: refused as predicted, but for {observed} findings ({predicted})"),
            Tell(8, HUGE, "given back: huge folios {observed} ({predicted})"),
        ],
    )


@IN_PLACE
def test_no_window_comes_together_around_a_reference(gmem: Case) -> None:
    """A window that is all private again stays in pieces while one page of it is held, and comes together later."""
    gmem.run(
        *BEGIN,
        Convert(PAGE, SHARED),
        Pin(HELD),
        Convert(PAGE, PRIVATE),
        Unpin(HELD),
        Convert(G0[8], SHARED),
        Convert(G0[8], PRIVATE),
        Check(WINDOW, "pattern"),
        tells=[
            Tell(4, HUGE, "held: huge folios {observed} ({predicted})"),
            Tell(7, HUGE, "given back: huge folios {observed} ({predicted})"),
        ],
    )
