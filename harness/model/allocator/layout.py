# SPDX-License-Identifier: GPL-2.0-only
"""Zones with every frame known: from arrays of a host whose frames were read, or laid out to match given numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.model.allocator.buddy import FREE, HOLE, held
from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.migratetype import (
    BLOCK_PAGES,
    MAX_ORDER,
    PAGEBLOCK_ORDER,
    PCPTYPES,
    PRINTED,
    Migratetype,
)


def from_frames(
    zone: FrameZone,
    free: NDArray[np.bool_],
    lru: NDArray[np.bool_],
    types: Sequence[int],
    hole: NDArray[np.bool_] | None = None,
) -> FrameZone:
    """Fills an empty zone from what /proc/kpageflags says of each of its frames; returns it.

    ``free``: KPF_BUDDY, which is set on every page of a free block; ``lru``: KPF_LRU; ``hole``: KPF_NOPAGE or
    KPF_RESERVED; each as long as the zone.  ``types``: migratetype by pageblock (page_owner prints it).
    The orders follow: free buddies are always merged.  What the flags do not say: the order within a free list (here
    rising addresses) and which pages are on per-CPU lists (they count as held).  So numbers are exact, and which frame
    comes next is not.  Raises UsageError for arrays of the wrong length.
    """
    frames = zone.end - zone.start
    first, last = ((pfn - zone.base) >> PAGEBLOCK_ORDER for pfn in (zone.start, zone.end - 1))
    lengths = {len(free), len(lru), len(hole) if hole is not None else len(free)}
    if lengths != {frames} or len(types) != last - first + 1:
        raise UsageError(
            f"zone {zone.name} has {frames} frames in {last - first + 1} pageblocks, but there are"
            f" {', '.join(str(length) for length in sorted(lengths))} flags and {len(types)} types"
        )
    zone.types[first : last + 1] = bytes(types)
    codes = np.array([held(kind if kind < PCPTYPES else Migratetype.MOVABLE, False) for kind in Migratetype], np.uint8)
    blocks = ((np.arange(frames) + (zone.start - zone.base)) >> PAGEBLOCK_ORDER) - first
    use = codes[np.asarray(types, np.intp)[blocks]] | lru.astype(np.uint8)
    if hole is not None:
        use[hole] = HOLE
    use[free] = FREE
    at = zone.start - zone.base
    zone.use[at : at + frames] = use.tobytes()
    edges = np.flatnonzero(np.diff(np.concatenate(([False], free, [False])).astype(np.int8)))
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        _list_run(zone, zone.start + begin, zone.start + end)
    return zone


def _list_run(zone: FrameZone, start: int, end: int) -> None:
    """A run of free frames as the blocks it must consist of."""
    while start < end:
        order = min(MAX_ORDER, (start & -start).bit_length() - 1) if start else MAX_ORDER
        while start + (1 << order) > end or (order > PAGEBLOCK_ORDER and _mixed(zone, start, order)):
            order -= 1
        zone.add(start, order, zone.type_of(start), tail=True)
        start += 1 << order


def _mixed(zone: FrameZone, start: int, order: int) -> bool:
    """Whether a block spans pageblocks of different types: such buddies did not merge."""
    return len({zone.type_of(pfn) for pfn in range(start, start + (1 << order), BLOCK_PAGES)}) > 1


def lay_out(
    zone: FrameZone,
    free: Mapping[int, Sequence[int]],
    blocks: Mapping[int, int],
    rng: random.Random | None = None,
    *,
    lru: bool = False,
) -> FrameZone:
    """Fills an empty zone so that its free lists and pageblocks have the given numbers; returns it.

    ``free``: free blocks by migratetype and order; ``blocks``: pageblocks by migratetype, which fill the zone.  The
    rest is held, on LRU lists or not.  ``rng`` shuffles pageblocks and lists; without it they rise.
    Raises UsageError when the numbers do not fit.
    """
    frames = zone.end - zone.start
    if zone.start & (BLOCK_PAGES - 1) or sum(blocks.values()) * BLOCK_PAGES != frames:
        raise UsageError(f"{sum(blocks.values())} pageblocks do not fill zone {zone.name} of {frames} frames")
    places = _Places(zone, rng)
    parts: dict[tuple[int, int], list[int]] = {}
    left = dict(blocks)
    for migratetype in sorted(free):
        for order in (MAX_ORDER, PAGEBLOCK_ORDER):
            starts = [places.free(order) for _ in range(free[migratetype][order])]
            parts[order, migratetype] = starts
            left[migratetype] = left.get(migratetype, 0) - (len(starts) << (order - PAGEBLOCK_ORDER))
            for start in starts:
                zone.set_types(start, 1 << (order - PAGEBLOCK_ORDER), migratetype)
    for migratetype, count in sorted(left.items()):
        wanted = list(free.get(migratetype, ())[:PAGEBLOCK_ORDER])
        starts = [places.held() for _ in range(max(0, count))]
        for start in starts:
            zone.set_types(start, 1, migratetype)
            zone.adopt(range(start, start + BLOCK_PAGES), held(migratetype if migratetype < PCPTYPES else 1, lru))
            if any(wanted):
                _carve(start, PAGEBLOCK_ORDER, wanted, migratetype, parts)
        if count < 0 or any(wanted):
            raise UsageError(
                f"zone {zone.name}: {blocks.get(migratetype, 0)} {PRINTED[migratetype]} pageblocks cannot hold free"
                f" blocks {list(free.get(migratetype, ()))} by order"
            )
    for (order, migratetype), starts in parts.items():
        if rng:
            rng.shuffle(starts)
        for start in starts:
            zone.add(start, order, migratetype, tail=True)
            at = start - zone.base
            zone.use[at : at + (1 << order)] = bytes((FREE,)) * (1 << order)
    return zone


def _carve(
    start: int, order: int, wanted: list[int], migratetype: int, parts: dict[tuple[int, int], list[int]]
) -> None:
    """Free blocks in a part of a pageblock that is not free as a whole, the largest first; one page stays held."""
    if not order or not any(wanted[:order]):
        return
    half = 1 << (order - 1)
    if wanted[order - 1]:
        wanted[order - 1] -= 1
        parts.setdefault((order - 1, migratetype), []).append(start)
    else:
        _carve(start, order - 1, wanted, migratetype, parts)
    _carve(start + half, order - 1, wanted, migratetype, parts)


class _Places:
    """Hands out pageblocks, so that no two free order-9 blocks are buddies."""

    def __init__(self, zone: FrameZone, rng: random.Random | None) -> None:
        self.name = zone.name
        first = -(-zone.start >> MAX_ORDER)
        pairs = [pair << MAX_ORDER for pair in range(first, zone.end >> MAX_ORDER)]
        edges = [zone.start] if zone.start & ((1 << MAX_ORDER) - 1) else []
        if zone.end & ((1 << MAX_ORDER) - 1) and zone.end - BLOCK_PAGES >= zone.start:
            edges.append(zone.end - BLOCK_PAGES)
        if rng:
            rng.shuffle(pairs)
        self.pairs = pairs[::-1]
        self.singles = sorted(set(edges))
        self.buddies: list[int] = []
        """Other halves of free order-9 blocks: they must not be wholly free."""

    def free(self, order: int) -> int:
        """A place for a free block of order 9 or 10."""
        if order < MAX_ORDER and self.singles:
            return self.singles.pop()
        if not self.pairs:
            raise UsageError(f"zone {self.name} has no room for so many free blocks of order {order}")
        pair = self.pairs.pop()
        if order < MAX_ORDER:
            self.buddies.append(pair + BLOCK_PAGES)
        return pair

    def held(self) -> int:
        """A place for a pageblock that is not wholly free."""
        for places in (self.buddies, self.singles):
            if places:
                return places.pop()
        if not self.pairs:
            raise UsageError(f"zone {self.name} has too few pageblocks for these numbers")
        pair = self.pairs.pop()
        self.singles.append(pair + BLOCK_PAGES)
        return pair
