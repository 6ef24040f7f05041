# SPDX-License-Identifier: GPL-2.0-only
"""How bad fragmentation is, in the kernel's own numbers and in those the claims of the project are about.

``free`` is always the number of free blocks by order, all migratetypes together (free_area[order].nr_free, a line of
/proc/buddyinfo).  Indices are in thousandths, as debugfs extfrag/ prints them with a point (mm/vmstat.c).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.model.allocator.buddy import FREE, HELD, PCP
from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.migratetype import BLOCK_PAGES, PAGEBLOCK_ORDER, Migratetype

WOULD_SUCCEED: Final = -1000
"""fragmentation_index when a block of the order is free: the index says nothing then."""


class Contiguous(NamedTuple):
    """struct contig_page_info."""

    pages: int
    blocks: int
    suitable: int
    """Blocks of the order asked for that the free blocks contain."""


def contiguous(free: Sequence[int], order: int) -> Contiguous:
    """fill_contig_page_info."""
    pages = sum(count << size for size, count in enumerate(free))
    suitable = sum(count << (size - order) for size, count in enumerate(free) if size >= order)
    return Contiguous(pages, sum(free), suitable)


def unusable_pages(free: Sequence[int], order: int = PAGEBLOCK_ORDER) -> int:
    """Free pages in blocks too small for an allocation of this order."""
    info = contiguous(free, order)
    return info.pages - (info.suitable << order)


def unusable_free_index(free: Sequence[int], order: int = PAGEBLOCK_ORDER) -> int:
    """Share of the free pages that cannot serve this order; 1000 when nothing is free (unusable_free_index)."""
    info = contiguous(free, order)
    return unusable_pages(free, order) * 1000 // info.pages if info.pages else 1000


def fragmentation_index(free: Sequence[int], order: int = PAGEBLOCK_ORDER) -> int:
    """Why an allocation would fail: towards 0 for lack of memory, towards 1000 for fragmentation, -1000 if it would not
    fail at all (__fragmentation_index)."""
    info = contiguous(free, order)
    if not info.blocks:
        return 0
    if info.suitable:
        return WOULD_SUCCEED
    return 1000 - (1000 + info.pages * 1000 // (1 << order)) // info.blocks


def unusable_percent(free: Sequence[int], order: int = PAGEBLOCK_ORDER) -> int:
    """What proactive compaction looks at; 0 when nothing is free (extfrag_for_order)."""
    info = contiguous(free, order)
    return unusable_pages(free, order) * 100 // info.pages if info.pages else 0


def free_blocks(zone: FrameZone) -> list[int]:
    """Free blocks of a zone by order."""
    return [sum(len(chain) for chain in by_type) for by_type in zone.lists]


def pinned_blocks(zone: FrameZone, frames: Sequence[int] | NDArray[np.int64]) -> int:
    """Pageblocks with at least one of these frames (a guest_memfd's) and at least one free page.

    The free page may be on a per-CPU list.  guest_memfd pages are never migrated, so the rest of such a block cannot
    become a huge page (mm/compaction.c, mm/migrate.c: mapping_inaccessible).
    """
    found = np.asarray(frames, dtype=np.int64)
    inside = found[(found >= zone.start) & (found < zone.end)] - zone.base
    blocks = np.unique(inside >> PAGEBLOCK_ORDER)
    use = _by_block(zone)[blocks]
    return int(((use == FREE) | (use == PCP)).any(axis=1).sum())


def mixed_blocks(zone: FrameZone) -> list[int]:
    """Pageblocks by migratetype that hold an allocation of another type (pagetypeinfo_showmixedcount_print).

    The kernel prints it with page_owner=on; a CMA block counts as Movable there.
    """
    use = _by_block(zone)
    types = np.frombuffer(bytes(zone.types), dtype=np.uint8)
    other = (use >= HELD) & ((use >> 1 & 7) != types[:, None])
    counts = np.bincount(types[other.any(axis=1)], minlength=6)
    counts[Migratetype.MOVABLE] += counts[Migratetype.CMA]
    counts[Migratetype.CMA] = 0
    return [int(count) for count in counts]


def _by_block(zone: FrameZone) -> NDArray[np.uint8]:
    """Use of each frame, a row per pageblock; a copy, because a view would forbid the zone to grow."""
    return np.frombuffer(bytes(zone.use), dtype=np.uint8).reshape(-1, BLOCK_PAGES)
