# SPDX-License-Identifier: GPL-2.0-only
"""What the shared side of a region costs, and how much of it is for nothing."""

from __future__ import annotations

from harness.model.aligned import Blocks
from harness.model.state import RegionState


def shared_frames(region: RegionState) -> int:
    """Pages of memory that the shared backing of the region occupies: order-0 pages, large folios, what pins keep."""
    singles = (region.shared & ~region.shared_in_folio).bit_count()
    folios = sum(starts.bit_count() << order for order, starts in region.shared_folios)
    return singles + folios + region.shared_parked.frames()


def partly_mapped(region: RegionState) -> Blocks:
    """Large folios of the shared side that have lost a part of their mapping and keep its memory."""
    return region.shared_folios.without(region.shared_folios.inside(region.shared_in_folio))


def extra_pages(region: RegionState) -> int:
    """Pages that the shared backing occupies and that no page which the guest sees as shared needs.

    In each chunk of anonymous huge pages up to 511 while any page of it is shared, and 512 when the last one goes to
    private without the others' being discarded again; 512 in each private chunk of hugetlb; 0 for backings of 4 KiB
    pages without pins.
    """
    return shared_frames(region) - (region.shared & ~region.attr_private).bit_count()
