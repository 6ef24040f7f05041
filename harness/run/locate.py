# SPDX-License-Identifier: GPL-2.0-only
"""Which pages of a guest_memfd are not where the model says: found by halving ranges with cachestat(2).

A count that is off by three says that something is wrong; the pages say what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.model import pages
from harness.model.state import RegionState
from harness.scenario.steps import CHUNK_PAGES, PageRange

SHOWN = 8
"""Runs of pages that a sentence names; the rest is counted."""

Count = Callable[[PageRange], int]
"""Present pages of a range that lies within one chunk."""


def present_pages(region: str, chunks: int, count: Count, expected: int) -> int:
    """The set of present pages of a region, halving only chunks whose number differs from ``expected``'s.

    A chunk with as many pages as expected, though others, counts as it was expected: numbers say no more, and what is
    looked for is a page too many or too few.
    """
    found = 0
    for first in range(0, chunks * CHUNK_PAGES, CHUNK_PAGES):
        wanted = expected & pages.span(first, CHUNK_PAGES)
        seen = count(PageRange(region, first, CHUNK_PAGES))
        found |= wanted if seen == wanted.bit_count() else _halve(PageRange(region, first, CHUNK_PAGES), count, seen)
    return found


def _halve(where: PageRange, count: Count, seen: int) -> int:
    if seen == 0:
        return 0
    if seen >= where.count:
        return pages.span(where.start, where.count)
    half = where.count // 2
    left = PageRange(where.region, where.start, half)
    right = PageRange(where.region, where.start + half, where.count - half)
    inside = count(left)
    return _halve(left, count, inside) | _halve(right, count, seen - inside)


def misplaced(guest: str, regions: Mapping[str, RegionState], count: Count) -> str:
    """A sentence on the pages of a guest's regions that are present and should not be, or the reverse; '' for none."""
    said = []
    for name, region in sorted(regions.items()):
        if name.partition(".")[0] != guest:
            continue
        present = present_pages(name, region.chunks, count, region.private)
        for what, wrong in (("present and should not be", present & ~region.private),
                            ("absent and should be present", region.private & ~present)):  # fmt: skip
            if wrong:
                said.append(f"{_named(name, wrong)} {'are' if wrong.bit_count() > 1 else 'is'} {what}")
    return "; ".join(said)


def _named(region: str, wrong: int) -> str:
    """``page 7 of g0.r0``, ``pages 7, 64-127 of g0.r0``, the runs beyond SHOWN as a number."""
    found = pages.runs(wrong)
    words = [str(start) if count == 1 else f"{start}-{start + count - 1}" for start, count in found[:SHOWN]]
    rest = sum(count for _, count in found[SHOWN:])
    more = f" and {rest} more" if rest else ""
    return f"page{'s' if wrong.bit_count() > 1 else ''} {', '.join(words)}{more} of {region}"
