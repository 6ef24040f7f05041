# SPDX-License-Identifier: GPL-2.0-only
"""What the tracepoint kmem:mm_page_alloc_extfrag prints, and every change of a pageblock's type with its cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from harness.model.allocator.migratetype import PAGEBLOCK_ORDER


@dataclass(frozen=True)
class ExtFrag:
    """One allocation from a list of another migratetype (include/trace/events/kmem.h)."""

    pfn: int
    order: int
    fallback_order: int
    migratetype: int
    fallback_migratetype: int
    change_ownership: bool
    """Whether the page's block has the wanted type afterwards: a claim, not a steal."""

    @property
    def fragmenting(self) -> bool:
        """The kernel's word for a fallback block smaller than a pageblock."""
        return self.fallback_order < PAGEBLOCK_ORDER

    @property
    def blocks(self) -> int:
        """Pageblocks that changed type: 2**(fallback_order - 9) for whole blocks, 1 for a smaller claim, 0 to steal."""
        if not self.change_ownership:
            return 0
        return 1 << max(0, self.fallback_order - PAGEBLOCK_ORDER)


def blocks_moved(events: Iterable[ExtFrag]) -> int:
    """Pageblocks that changed type in these events."""
    return sum(event.blocks for event in events)


class Cause(Enum):
    """Why a pageblock's type changed; only a claim has a tracepoint."""

    NOTHING = 0
    CLAIM = 1
    """try_to_claim_block."""
    MERGE = 2
    """__free_one_page: a free block of order 9 or more takes the type of the one that merges with it."""
    ISOLATE = 3
    """__isolate_free_page: compaction or free page reporting took a free block; its pageblocks become Movable."""
    RESERVE = 4
    """reserve_highatomic_pageblock and its opposite."""
