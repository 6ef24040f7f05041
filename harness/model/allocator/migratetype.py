# SPDX-License-Identifier: GPL-2.0-only
"""Migratetypes, orders and fallbacks as the kernel numbers them (include/linux/mmzone.h, mm/page_alloc.c)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

MAX_ORDER: Final = 10
"""MAX_PAGE_ORDER: the largest free block is 2**10 pages (4 MiB)."""
ORDERS: Final = MAX_ORDER + 1
PAGEBLOCK_ORDER: Final = 9
BLOCK_PAGES: Final = 1 << PAGEBLOCK_ORDER
COSTLY_ORDER: Final = 3
"""PAGE_ALLOC_COSTLY_ORDER: per-CPU lists hold orders 0 to 3, and order 9 with THP (pcp_allowed_order)."""


class Migratetype(IntEnum):
    """The kernel's numbers, because they index its lists and order its printed rows; 0 is a real type there.

    The first three (MIGRATE_PCPTYPES) have per-CPU lists, fall back to each other and merge with each other.
    """

    UNMOVABLE = 0
    MOVABLE = 1
    RECLAIMABLE = 2
    HIGHATOMIC = 3
    CMA = 4
    ISOLATE = 5

    @property
    def printed(self) -> str:
        """The name in /proc/pagetypeinfo (migratetype_names)."""
        return PRINTED[self]


PRINTED: Final = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "CMA", "Isolate")
BY_NAME: Final = {name: Migratetype(number) for number, name in enumerate(PRINTED)}
TYPES: Final = len(PRINTED)
PCPTYPES: Final = 3
"""MIGRATE_PCPTYPES; also the test of migratetype_is_mergeable."""

FALLBACKS: Final = ((2, 1), (2, 0), (0, 1))
"""For each of the first three types, the other two in the order tried (mm/page_alloc.c: fallbacks[])."""


def pcp_index(migratetype: int, order: int) -> int:
    """Number of the per-CPU list (order_to_pindex): orders 0 to 3 by type, then order 9: not Movable, Movable."""
    if order > COSTLY_ORDER:
        return PCPTYPES * (COSTLY_ORDER + 1) + (migratetype == Migratetype.MOVABLE)
    return PCPTYPES * order + migratetype


PCP_LISTS: Final = PCPTYPES * (COSTLY_ORDER + 1) + 2
PCP_ORDER: Final = tuple(
    PAGEBLOCK_ORDER if index >= PCPTYPES * (COSTLY_ORDER + 1) else index // PCPTYPES for index in range(PCP_LISTS)
)
"""Order of the pages on each per-CPU list (pindex_to_order)."""


def pcp_allowed(order: int) -> bool:
    """Whether pages of this order pass through the per-CPU lists (pcp_allowed_order, THP configured)."""
    return order <= COSTLY_ORDER or order == PAGEBLOCK_ORDER
