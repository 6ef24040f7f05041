# SPDX-License-Identifier: GPL-2.0-only
"""The buddy system of one zone with every frame known (mm/page_alloc.c); pages in, pages out, one by one.

The free lists keep the kernel's order, so that which page comes next is exact.  Shuffling (page_alloc.shuffle) is off.
Each list is an OrderedDict of first frames whose *last* key is the kernel's list head: putting at the head, the common
case, is a plain insertion, and taking out of the middle is O(1).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Final

from harness.model.allocator.extfrag import Cause, ExtFrag
from harness.model.allocator.migratetype import (
    BLOCK_PAGES,
    MAX_ORDER,
    ORDERS,
    PAGEBLOCK_ORDER,
    PCPTYPES,
    TYPES,
    Migratetype,
)

HOLE: Final = 0
"""A frame the zone does not manage: memory hole, kernel image, memory map."""
FREE: Final = 1
"""On a free list, in a block of any order."""
PCP: Final = 2
"""On a per-CPU list."""
TAKEN: Final = 3
"""Outside all lists for a moment, or for good: a page that compaction or page reporting isolated."""
HELD: Final = 16
"""Allocated: HELD | migratetype of the allocation << 1 | whether it is on an LRU list."""
_LRU_CODES: Final = tuple(HELD | migratetype << 1 | 1 for migratetype in range(PCPTYPES))


def held(migratetype: int, lru: bool) -> int:
    """The code of an allocated frame.  guest_memfd pages are on the (unevictable) LRU list: ``lru`` is true."""
    return HELD | migratetype << 1 | lru


class Buddy:
    """Free lists and pageblocks of one zone.  Frames are page frame numbers of the machine.

    ``use`` has one byte per frame from ``base``, which is aligned to the largest block; ``types`` one per pageblock.
    """

    def __init__(self, start: int, frames: int) -> None:
        """A zone that spans ``frames`` from ``start``, all held by nobody (holes) until seeded or freed."""
        if start < 0 or frames < 1:
            raise ValueError(f"a zone of {frames} frames from {start}")
        largest = 1 << MAX_ORDER
        self.start = start
        self.end = start + frames
        self.base = start & -largest
        span = -(-(self.end - self.base) // largest) * largest
        self.use = bytearray(span)
        self.types = bytearray([Migratetype.MOVABLE]) * (span >> PAGEBLOCK_ORDER)
        self.order_of: dict[int, int] = {}
        """First frame of each free block to its order (PageBuddy and buddy_order)."""
        self.lists: list[list[OrderedDict[int, None]]] = [[OrderedDict() for _ in range(TYPES)] for _ in range(ORDERS)]
        """By order, then migratetype."""
        self.free_by_type = [0] * TYPES
        """Free pages by migratetype."""
        self.events: list[ExtFrag] = []
        self.retyped: Counter[tuple[Cause, int, int]] = Counter()
        """Pageblocks by (cause, old type, new type)."""

    # Types of pageblocks.

    def type_of(self, pfn: int) -> int:
        """Migratetype of the pageblock of a frame (get_pfnblock_migratetype)."""
        return self.types[(pfn - self.base) >> PAGEBLOCK_ORDER]

    def retype(self, pfn: int, order: int, new: int, cause: Cause) -> None:
        """Pageblocks of a block of order 9 or more change type (change_pageblock_range)."""
        first = (pfn - self.base) >> PAGEBLOCK_ORDER
        for block in range(first, first + (1 << max(0, order - PAGEBLOCK_ORDER))):
            old = self.types[block]
            if old != new:
                self.retyped[cause, old, new] += 1
                self.types[block] = new

    # Lists.

    def add(self, pfn: int, order: int, migratetype: int, *, tail: bool = False) -> None:
        """Puts a block on its free list and counts it; the frames' use is the caller's (__add_to_free_list)."""
        self.order_of[pfn] = order
        chain = self.lists[order][migratetype]
        chain[pfn] = None
        if tail:
            chain.move_to_end(pfn, last=False)
        self.free_by_type[migratetype] += 1 << order

    def remove(self, pfn: int, order: int, migratetype: int) -> None:
        """Takes a block off its free list and uncounts it (del_page_from_free_list)."""
        del self.lists[order][migratetype][pfn]
        del self.order_of[pfn]
        self.free_by_type[migratetype] -= 1 << order

    def first(self, order: int, migratetype: int) -> int:
        """Head of a free list that is not empty."""
        return next(reversed(self.lists[order][migratetype]))

    def in_order(self, order: int, migratetype: int) -> Iterator[int]:
        """First frames of a free list from head to tail."""
        return reversed(self.lists[order][migratetype])

    # Freeing.

    def free_one(self, pfn: int, order: int, migratetype: int, *, tail: bool = False) -> None:
        """Frees a block and merges it with its buddies (__free_one_page); within one pageblock or whole blocks."""
        order_of, lists = self.order_of, self.lists
        if order:
            self.use[pfn - self.base : pfn - self.base + (1 << order)] = bytes((FREE,)) * (1 << order)
        else:
            self.use[pfn - self.base] = FREE
        self.free_by_type[migratetype] += 1 << order
        buddy = pfn
        while order < MAX_ORDER:
            buddy = pfn ^ (1 << order)
            if order_of.get(buddy) != order:
                break
            other = migratetype
            if order >= PAGEBLOCK_ORDER:
                other = self.type_of(buddy)
                if other != migratetype and (migratetype >= PCPTYPES or other >= PCPTYPES):
                    break
            del lists[order][other][buddy]
            del order_of[buddy]
            if other != migratetype:
                self.free_by_type[other] -= 1 << order
                self.free_by_type[migratetype] += 1 << order
                self.retype(buddy, order, migratetype, Cause.MERGE)
            pfn &= buddy
            order += 1
        order_of[pfn] = order
        chain = lists[order][migratetype]
        chain[pfn] = None
        if tail or (order < MAX_ORDER - 1 and order_of.get((pfn & buddy) ^ (2 << order)) == order + 1):
            # buddy_merge_likely: the next larger buddy is free, so this one is better left to merge.
            chain.move_to_end(pfn, last=False)

    def free_large(self, pfn: int, order: int, *, tail: bool = False) -> None:
        """Frees a block of any order, pageblock by pageblock (split_large_buddy)."""
        piece = min(order, PAGEBLOCK_ORDER)
        for part in range(pfn, pfn + (1 << order), 1 << piece):
            self.free_one(part, piece, self.type_of(part), tail=tail)

    # Taking.

    def expand(self, pfn: int, low: int, high: int, migratetype: int) -> None:
        """Gives back what a block of order ``high`` has beyond its first 2**low pages (expand)."""
        order_of, lists = self.order_of, self.lists
        while high > low:
            high -= 1
            part = pfn + (1 << high)
            lists[high][migratetype][part] = None
            order_of[part] = high

    def take_smallest(self, order: int, migratetype: int) -> int | None:
        """The head of the smallest list of this type that has a block (__rmqueue_smallest)."""
        lists = self.lists
        for current in range(order, ORDERS):
            chain = lists[current][migratetype]
            if chain:
                pfn = chain.popitem()[0]
                del self.order_of[pfn]
                if current > order:
                    self.expand(pfn, order, current, migratetype)
                self.free_by_type[migratetype] -= 1 << order
                self._taken(pfn, order)
                return pfn
        return None

    def take(self, pfn: int, order: int, current: int, migratetype: int) -> int:
        """A part of a given free block (page_del_and_expand)."""
        self.remove(pfn, current, migratetype)
        self.expand(pfn, order, current, migratetype)
        self.free_by_type[migratetype] += (1 << current) - (1 << order)
        self._taken(pfn, order)
        return pfn

    def _taken(self, pfn: int, order: int) -> None:
        at = pfn - self.base
        if order:
            self.use[at : at + (1 << order)] = bytes((TAKEN,)) * (1 << order)
        else:
            self.use[at] = TAKEN

    # Whole pageblocks.

    def block_of(self, pfn: int) -> int | None:
        """First frame of the pageblock of a frame; None when the block reaches beyond the zone."""
        start = pfn & -BLOCK_PAGES
        return start if self.start <= start and start + BLOCK_PAGES <= self.end else None

    def contents(self, start: int) -> tuple[int, int]:
        """(free pages, pages on an LRU list) of a pageblock (prep_move_freepages_block)."""
        part = self.use[start - self.base : start - self.base + BLOCK_PAGES]
        return part.count(FREE), sum(part.count(code) for code in _LRU_CODES)

    def move_block(self, start: int, old: int, new: int, cause: Cause) -> None:
        """Free blocks inside a pageblock move to the tails of another type's lists (move_freepages_block)."""
        pfn = start
        while pfn < start + BLOCK_PAGES:
            order = self.order_of.get(pfn)
            if order is None:
                pfn += 1
                continue
            self.remove(pfn, order, old)
            self.add(pfn, order, new, tail=True)
            pfn += 1 << order
        self.retype(start, PAGEBLOCK_ORDER, new, cause)

    def isolate(self, pfn: int) -> int:
        """Takes a free block off its list as compaction and free page reporting do; returns its order.

        Blocks of order 8 and more make their pageblocks Movable, and no tracepoint tells (__isolate_free_page).
        """
        order = self.order_of[pfn]
        self.remove(pfn, order, self.type_of(pfn))
        self._taken(pfn, order)
        if order >= PAGEBLOCK_ORDER - 1:
            for part in range(pfn, pfn + (1 << order), BLOCK_PAGES):
                old, start = self.type_of(part), self.block_of(part)
                if old < PCPTYPES and start is not None:
                    self.move_block(start, old, Migratetype.MOVABLE, Cause.ISOLATE)
        return order

    def put_back(self, pfn: int, order: int) -> None:
        """Returns an isolated block to the tail of its list (__putback_isolated_page)."""
        self.free_one(pfn, order, self.type_of(pfn), tail=True)

    @property
    def nr_free(self) -> int:
        """NR_FREE_PAGES: all free lists but Isolate."""
        return sum(self.free_by_type) - self.free_by_type[Migratetype.ISOLATE]
