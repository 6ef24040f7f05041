# SPDX-License-Identifier: GPL-2.0-only
"""How many pageblocks a demand claims when only numbers are known; exact or as an interval with its rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.model.allocator.interval import Interval
from harness.model.allocator.migratetype import (
    BLOCK_PAGES,
    COSTLY_ORDER,
    FALLBACKS,
    MAX_ORDER,
    ORDERS,
    PAGEBLOCK_ORDER,
)
from harness.model.allocator.pcp import PcpLimits

CLAIM_PAGES = 1 << MAX_ORDER
CLAIM_BLOCKS = 1 << (MAX_ORDER - PAGEBLOCK_ORDER)


def overshoot(limits: PcpLimits, order: int = 0) -> int:
    """Most pages a refill takes beyond the one wanted, per CPU and list (nr_pcp_alloc)."""
    if limits.high_max < limits.batch or limits.batch == 1:
        return 0
    if order:
        return (max(limits.batch >> order, 2) - 1) << order if order <= COSTLY_ORDER or order == PAGEBLOCK_ORDER else 0
    return limits.largest_refill - 1


def take_smallest(free: Sequence[int], order: int, wanted: int) -> tuple[tuple[int, ...], int]:
    """Free blocks by order after taking ``wanted`` blocks of ``order``, and how many of them are missing.

    The smallest block is split first, and what is left of a block is one piece per bit (__rmqueue_smallest, expand).
    """
    counts = list(free)
    for size in range(order, ORDERS):
        pieces = 1 << (size - order)
        used = min(counts[size], -(-wanted // pieces))
        counts[size] -= used
        left = used * pieces - wanted
        if left >= 0:
            for bit in range(size - order):
                counts[order + bit] += left >> bit & 1
            return tuple(counts), 0
        wanted -= used * pieces
    return tuple(counts), wanted


@dataclass(frozen=True)
class Claimed:
    """Whole free blocks that changed type, and what then could not be served without looking into pageblocks."""

    blocks: Mapping[int, int]
    """Pageblocks by the migratetype that lost them."""
    own: tuple[int, ...]
    """Free blocks of the type by order afterwards."""
    others: Mapping[int, tuple[int, ...]]
    """Free blocks of the other two types by order afterwards."""
    missing: int
    """Blocks of the order wanted that whole free blocks could not give."""

    @property
    def total(self) -> int:
        """Pageblocks gained."""
        return sum(self.blocks.values())


def draw(free: Mapping[int, Sequence[int]], migratetype: int, order: int, wanted: int) -> Claimed:
    """Takes from the free lists as the kernel does while whole blocks last (__rmqueue with ALLOC_NOFRAGMENT); exact.

    ``free``: free blocks by migratetype and order.  No page is left on a per-CPU list.
    """
    own, missing = take_smallest(free[migratetype], order, wanted)
    others = {other: list(free[other]) for other in FALLBACKS[migratetype]}
    lost = dict.fromkeys(others, 0)
    for size in (MAX_ORDER, PAGEBLOCK_ORDER):
        for other in FALLBACKS[migratetype]:
            if not missing or size < order:
                break
            claimed = min(others[other][size], -(-missing // (1 << (size - order))))
            others[other][size] -= claimed
            lost[other] += claimed << (size - PAGEBLOCK_ORDER)
            gained = [0] * ORDERS
            gained[size] = claimed
            given, missing = take_smallest(gained, order, missing)
            own = tuple(a + b for a, b in zip(own, given, strict=True))
    return Claimed(lost, own, {other: tuple(counts) for other, counts in others.items()}, missing)


def claims_interval(
    *,
    demand: tuple[int, int],
    own: tuple[int, int],
    spare: int,
    whole: int,
    elsewhere: int = 0,
) -> Interval | None:
    """Pageblocks that an order-0 demand gains by claims; None when whole order-10 blocks may run out.

    All in pages and for the zone that is asked first:
    ``demand`` (least, most);
    ``own``: free pages of the type on the zone's free lists, at least, and with every per-CPU list at most;
    ``spare``: most that refills take beyond the demand, ``overshoot()`` for each CPU that takes part;
    ``whole``: pages in free order-10 blocks of the two fallback types, at least;
    ``elsewhere``: free pages of the type in zones asked later.  They are not used before a claim, because
    ALLOC_NOFRAGMENT forbids only claims smaller than a pageblock: a lower zone counts for neither bound, and the
    argument is here to be seen in the reason.
    """
    surely, perhaps = max(0, demand[0] - own[1]), max(0, demand[1] + spare - own[0]) if demand[1] else 0
    least, most = (-(-pages // CLAIM_PAGES) * CLAIM_BLOCKS for pages in (surely, perhaps))
    if most * BLOCK_PAGES > whole:
        return None
    text = f"{demand[0]} to {demand[1]} pages wanted, {own[0]} to {own[1]} free of the type in the zone asked first"
    if spare:
        text += f", refills take up to {spare} more"
    if elsewhere:
        text += f"; {elsewhere} free in later zones are not used before a claim"
    return Interval(least, most, f"{text}; every claim takes an order-10 block while {whole} pages of them last")


def completed_blocks(freed: int, free_after: int) -> int:
    """Most pageblocks whose last held page is among ``freed`` pages: each needs one of them and 512 free pages.

    ``free_after``: free pages of the type afterwards, per-CPU lists included.  ``freed`` has to include what per-CPU
    lists held before, because a free may push it out.
    """
    return min(freed, free_after // BLOCK_PAGES)


def merged_blocks(freed: int, free_after: int, nines_elsewhere: int) -> int:
    """Most pageblocks that take the type of ``freed`` pages by merging, without any event (__free_one_page).

    A completed pageblock gives its type to a free buddy of order 9; ``nines_elsewhere``: free order-9 blocks of the
    other types, those that the same frees may complete included.
    """
    return min(completed_blocks(freed, free_after), nines_elsewhere)
