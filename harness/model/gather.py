# SPDX-License-Identifier: GPL-2.0-only
"""The list that madvise(DONTNEED) makes of what it frees: how many pages it allocates for the list itself.

An order-0 page or a whole huge mapping takes one entry, neighbouring pages of one large folio take two: the page and
the number (mm/mmu_gather.c:__tlb_remove_folio_pages_size).  A list page is left when another two entries might not
fit.
"""

from __future__ import annotations

from harness.model import pages, physics
from harness.model.aligned import Blocks, spread

FIRST_ENTRIES = physics.GATHER_FIRST + 1
NEXT_ENTRIES = physics.GATHER_NEXT + 1
"""Entries that the list on the stack and each page after it have."""


def entries(singles: int, in_folios: int, folios: Blocks) -> list[tuple[int, int]]:
    """Entries for order-0 pages ``singles`` and pages ``in_folios`` of ``folios``, as (entries each, how many).

    In rising order of pages, as they are found; neighbours share entries within a folio only.
    """
    found = [(start, 1, count) for start, count in pages.runs(singles)]
    for order, starts in folios.touching(in_folios):
        for first, _ in pages.runs(starts):
            held = in_folios & spread(1 << first, order)
            found += [(start, min(2, count), 1) for start, count in pages.runs(held)]
    return [(each, count) for _, each, count in sorted(found)]


def list_pages(listed: list[tuple[int, int]]) -> int:
    """Pages that a list with these entries allocates and frees again; ``entries`` says what they are.

    >>> list_pages([(1, 6)]), list_pages([(1, 7)]), list_pages([(2, 4)]), list_pages([(1, 516)])
    (0, 1, 1, 2)
    """
    taken, used, room = 0, 0, FIRST_ENTRIES
    for each, count in listed:
        while count:
            fit = min(count, -(-(room - 1 - used) // each))
            used += fit * each
            count -= fit
            if used >= room - 1:
                taken, used, room = taken + 1, 0, NEXT_ENTRIES
    return min(physics.GATHER_MOST, taken)
