# SPDX-License-Identifier: GPL-2.0-only
"""What an allocation does when its own migratetype has no page: claim whole blocks, then steal (mm/page_alloc.c)."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from harness.model.allocator.buddy import Buddy
from harness.model.allocator.extfrag import Cause, ExtFrag
from harness.model.allocator.migratetype import (
    BLOCK_PAGES,
    FALLBACKS,
    MAX_ORDER,
    ORDERS,
    PAGEBLOCK_ORDER,
    Migratetype,
)


class Mode(Enum):
    """Where the last page of a refill was found, so that the next one starts there (enum rmqueue_mode)."""

    NORMAL = 0
    CMA = 1
    CLAIM = 2
    STEAL = 3


Boost = Callable[[], None]
"""Raises the zone's watermarks: a fallback smaller than a pageblock is about to mix types."""


def rmqueue(
    zone: Buddy, order: int, migratetype: int, *, nofragment: bool, cma: bool, mode: Mode, boost: Boost
) -> tuple[int | None, Mode]:
    """One block off the free lists, and the mode for the next (__rmqueue)."""
    free = zone.free_by_type
    if cma and free[Migratetype.CMA] * 2 > zone.nr_free:
        pfn = zone.take_smallest(order, Migratetype.CMA)
        if pfn is not None:
            return pfn, mode
    if mode is Mode.NORMAL:
        pfn = zone.take_smallest(order, migratetype)
        if pfn is not None:
            return pfn, mode
    if mode in (Mode.NORMAL, Mode.CMA) and cma:
        pfn = zone.take_smallest(order, Migratetype.CMA)
        if pfn is not None:
            return pfn, Mode.CMA
    if mode is not Mode.STEAL:
        pfn = claim(zone, order, migratetype, nofragment=nofragment, boost=boost)
        if pfn is not None:
            return pfn, Mode.NORMAL
    if not nofragment:
        pfn = steal(zone, order, migratetype)
        if pfn is not None:
            return pfn, Mode.STEAL
    return None, mode


def claimable(order: int, migratetype: int) -> bool:
    """Whether a fallback block of this order may be claimed with its pageblock (should_try_claim_block)."""
    return order >= PAGEBLOCK_ORDER // 2 or migratetype in (Migratetype.RECLAIMABLE, Migratetype.UNMOVABLE)


def fallback_type(zone: Buddy, order: int, migratetype: int) -> int | None:
    """The type to fall back to at this order: the first of two with a free block (find_suitable_fallback)."""
    lists = zone.lists[order]
    return next((other for other in FALLBACKS[migratetype] if lists[other]), None)


def claim(zone: Buddy, order: int, migratetype: int, *, nofragment: bool, boost: Boost) -> int | None:
    """A page of a pageblock that changes hands; the largest fallback block is tried first (__rmqueue_claim).

    ``nofragment``: only blocks of whole pageblocks.
    """
    least = PAGEBLOCK_ORDER if nofragment and order < PAGEBLOCK_ORDER else order
    for current in range(MAX_ORDER, least - 1, -1):
        if not claimable(current, migratetype):
            break
        other = fallback_type(zone, current, migratetype)
        if other is None:
            continue
        pfn = zone.first(current, other)
        found = _claim_block(zone, pfn, current, order, migratetype, other, boost)
        if found is not None:
            owned = zone.type_of(found) == migratetype
            zone.events.append(ExtFrag(found, order, current, migratetype, other, owned))
            return found
    return None


def _claim_block(
    zone: Buddy, pfn: int, current: int, order: int, migratetype: int, other: int, boost: Boost
) -> int | None:
    """Takes ownership of the block, or of its pageblock when half of that is free or alike (try_to_claim_block)."""
    if current >= PAGEBLOCK_ORDER:
        zone.remove(pfn, current, other)
        zone.retype(pfn, current, migratetype, Cause.CLAIM)
        zone.add(pfn, current, migratetype)
        return zone.take(pfn, order, current, migratetype)
    boost()
    start = zone.block_of(pfn)
    if start is None:
        return None
    free, movable = zone.contents(start)
    if migratetype == Migratetype.MOVABLE:
        alike = movable
    elif other == Migratetype.MOVABLE:
        alike = BLOCK_PAGES - free - movable
    else:
        alike = 0
    if free + alike < BLOCK_PAGES // 2:
        return None
    zone.move_block(start, other, migratetype, Cause.CLAIM)
    return zone.take_smallest(order, migratetype)


def steal(zone: Buddy, order: int, migratetype: int) -> int | None:
    """A page of the smallest fallback block; its pageblock keeps its type (__rmqueue_steal)."""
    for current in range(order, ORDERS):
        other = fallback_type(zone, current, migratetype)
        if other is not None:
            pfn = zone.take(zone.first(current, other), order, current, other)
            zone.events.append(ExtFrag(pfn, order, current, migratetype, other, zone.type_of(pfn) == migratetype))
            return pfn
    return None
