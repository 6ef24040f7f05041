# SPDX-License-Identifier: GPL-2.0-only
"""The edges of per-CPU lists, watermarks and free lists: the numbers at which the kernel's comparisons change sides.

Worked out by hand from mm/page_alloc.c of 7.3; the function is named at each table.
"""

from __future__ import annotations

import pytest

from harness.model.allocator.buddy import FREE, held
from harness.model.allocator.extfrag import Cause, ExtFrag
from harness.model.allocator.fallback import claim, claimable, steal
from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.machine import KERNEL, Gfp, Machine
from harness.model.allocator.migratetype import (
    BLOCK_PAGES,
    COSTLY_ORDER,
    FALLBACKS,
    MAX_ORDER,
    ORDERS,
    PAGEBLOCK_ORDER,
    PCP_LISTS,
    PCP_ORDER,
    TYPES,
    Migratetype,
    pcp_allowed,
    pcp_index,
)
from harness.model.allocator.pcp import PcpLimits
from harness.model.allocator.watermarks import Marks, boosted, usable_free

U, M, R = Migratetype.UNMOVABLE, Migratetype.MOVABLE, Migratetype.RECLAIMABLE
CAP = PcpLimits(63, 252, 252)
START = 1 << 20


def zone(pages: int = 4096, **more: object) -> FrameZone:
    made = FrameZone("Normal", START, pages, **more)  # type: ignore[arg-type]
    made.populate(START, pages)
    return made


class TestHolds:
    def test_frames_beyond_the_zone_are_nobodys(self) -> None:
        made = zone(512)
        for _ in range(512):
            assert made.rmqueue(0, M, 0, nofragment=False, lru=True) is not None
        assert made.holds(START)
        assert made.holds(START + 511)
        assert made.holds(START, 9)
        assert not made.holds(START - 1)
        assert not made.holds(START + 512)
        assert not made.holds(START + 511, 1)
        made.free(START + 3, 0, 0)
        assert not made.holds(START + 1024)
        assert not made.holds(START + 4096, 9)
        assert not made.holds(START, 2)
        assert made.holds(START, 1)


class TestFreeLists:
    def test_a_free_buddy_above_matters_up_to_order_eight_only(self) -> None:
        """buddy_merge_likely: "order >= MAX_PAGE_ORDER - 1" answers no without a look."""
        made = zone(4096)
        for order, start in ((9, START), (9, START + 512), (9, START + 1024)):
            made.take(start, order, 10, M) if not start % 1024 else made.take(start, order, 9, M)
        made.free_one(START + 1024, 9, M)  # its buddy is free: order 10
        assert made.order_of[START + 1024] == 10
        made.take(START + 2048, 9, 10, M)
        made.remove(START + 2560, 9, M)
        made.free_one(START, 9, M)  # 512 is held; 1024..2047 is free, as order 10, and does not count
        assert list(made.in_order(9, M)) == [START]
        made.add(START + 2560, 9, M)
        assert list(made.in_order(9, M)) == [START + 2560, START]
        made.take(START, 9, 9, M)
        made.free_one(START, 9, M)
        assert list(made.in_order(9, M)) == [START, START + 2560]

    def test_the_larger_buddy_may_lie_before(self) -> None:
        made = zone(1024)
        for _ in range(8):
            made.take_smallest(0, M)
        made.free_one(START + 6, 0, M)  # 4..5 are held
        made.free_one(START + 1, 0, M)
        made.free_one(START + 0, 0, M)  # an order-1 block at 0
        made.free_one(START + 2, 0, M)  # 3 is held, but 0..1 is free
        assert list(made.in_order(0, M)) == [START + 6, START + 2]

    @pytest.mark.parametrize(("start", "frames"), [(-1, 5), (0, 0), (-1, 0)])
    def test_a_zone_that_cannot_be(self, start: int, frames: int) -> None:
        with pytest.raises(ValueError, match=f"a zone of {frames} frames from {start}"):
            FrameZone("DMA32", start, frames)
        made = FrameZone("DMA32", 0, 1)
        assert (made.end, len(made.pcps), made.pcps[0].limits) == (1, 1, PcpLimits(1, 0, 0))

    def test_order_eight_waits_for_a_free_block_of_order_nine(self) -> None:
        made = zone(1024)
        for _ in range(3):
            made.take_smallest(8, M)  # 0, 256, 512; 768 stays free
        made.free_one(START + 512, 8, M)
        assert made.order_of == {START + 512: 9}
        made.add(START + 4096, 8, M)
        made.free_one(START, 8, M)
        assert list(made.in_order(8, M)) == [START + 4096, START]


class TestNumbers:
    def test_the_kernels_numbers(self) -> None:
        """enum migratetype and fallbacks of mm/page_alloc.c; MIGRATE_PCPTYPES, MAX_PAGE_ORDER, pageblock_order."""
        assert [(kind.name, int(kind), kind.printed) for kind in Migratetype] == [
            ("UNMOVABLE", 0, "Unmovable"), ("MOVABLE", 1, "Movable"), ("RECLAIMABLE", 2, "Reclaimable"),
            ("HIGHATOMIC", 3, "HighAtomic"), ("CMA", 4, "CMA"), ("ISOLATE", 5, "Isolate"),
        ]  # fmt: skip
        assert FALLBACKS == ((R, M), (R, U), (U, M))
        assert (MAX_ORDER, ORDERS, PAGEBLOCK_ORDER, BLOCK_PAGES, COSTLY_ORDER, TYPES) == (10, 11, 9, 512, 3, 6)

    def test_lists_of_a_cpu(self) -> None:
        """order_to_pindex, pindex_to_order: three types of each order from 0 to 3, then order 9, not Movable first."""
        assert [pcp_index(kind, order) for order in range(4) for kind in (U, M, R)] == list(range(12))
        assert [pcp_index(kind, 9) for kind in (U, M, R)] == [12, 13, 12]
        assert PCP_ORDER == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 9, 9)
        assert PCP_LISTS == 14
        assert [order for order in range(11) if pcp_allowed(order)] == [0, 1, 2, 3, 9]


class TestClaims:
    """try_to_claim_block, __rmqueue_claim, __rmqueue_steal."""

    @staticmethod
    def dma(pages: int = 512, high: int = 100) -> FrameZone:
        made = FrameZone("DMA32", 0, pages, marks=Marks(1, 2, high))
        made.populate(0, pages)
        return made

    def test_whole_pageblocks_change_hands_without_a_boost(self) -> None:
        for pages in (512, 1024):
            made = self.dma(pages)
            assert claim(made, 0, U, nofragment=False, boost=made._raise_watermarks) == 0
            assert (made.boost, made.boosts, made.kswapd_due) == (0, 0, False)
            assert made.block_counts()[:2] == [pages // 512, 0]

    def test_a_part_of_a_pageblock_raises_the_watermarks_once(self) -> None:
        made = self.dma(2048)
        for order, start in ((10, 0), (10, 1024)):
            made.remove(start, order, M)
        made.add(0, 8, M)
        made.use[0:256] = bytes((FREE,)) * 256
        assert claim(made, 0, U, nofragment=True, boost=made._raise_watermarks) is None
        assert made.boosts == 0
        assert claim(made, 0, U, nofragment=False, boost=made._raise_watermarks) == 0
        assert (made.boost, made.boosts, made.kswapd_due) == (512, 1, True)
        assert made.block_counts()[:2] == [1, 3]

    @pytest.mark.parametrize(
        ("wanted", "other", "free", "movable", "claimed"),
        [
            (U, M, 128, 256, True), (U, M, 128, 257, False), (U, M, 256, 256, True), (U, M, 128, 0, True),
            (M, U, 128, 128, True), (M, U, 128, 127, False), (R, U, 256, 0, True), (R, U, 128, 0, False),
            (U, R, 128, 128, False), (U, M, 32, 256, True), (U, M, 32, 257, False),
        ],
    )  # fmt: skip
    def test_half_has_to_be_free_or_alike(
        self, wanted: int, other: int, free: int, movable: int, claimed: bool
    ) -> None:
        """Alike: for Movable what is on an LRU, from Movable what is on none, between the other two nothing."""
        made = self.dma()
        made.remove(0, 9, M)
        made.set_types(0, 1, other)
        made.adopt(range(512), held(U, False))
        made.adopt(range(512 - movable, 512), held(M, True))
        order = free.bit_length() - 1
        made.adopt(range(free), FREE)
        made.add(0, order, other)
        found = claim(made, 0, wanted, nofragment=False, boost=made._raise_watermarks)
        assert found == (0 if claimed else None)
        assert made.type_of(0) == (wanted if claimed else other)

    def test_what_is_claimed_in_pieces_goes_to_the_tails(self) -> None:
        """move_freepages_block: the pieces of the pageblock behind what the type has already."""
        made = zone(1024)
        made.remove(START, 10, M)
        made.set_types(START + 512, 1, U)
        made.adopt(range(START, START + 1024), held(M, False))
        for start, order, kind in ((0, 8, M), (256, 4, M), (272, 2, M), (512, 2, U), (520, 4, U)):
            made.adopt(range(START + start, START + start + (1 << order)), FREE)
            made.add(START + start, order, kind)
        assert made.contents(START) == (256 + 16 + 4, 0)
        assert made.contents(START + 512) == (4 + 16, 0)
        made.move_block(START, M, U, Cause.CLAIM)
        assert list(made.in_order(2, U)) == [START + 512, START + 272]
        assert list(made.in_order(4, U)) == [START + 520, START + 256]
        assert list(made.in_order(8, U)) == [START]
        assert (made.free_by_type[M], made.free_by_type[U]) == (0, 256 + 2 * (16 + 4))
        assert made.retyped == {(Cause.CLAIM, M, U): 1}

    @pytest.mark.parametrize(
        ("order", "kind", "allowed"), [(3, M, False), (4, M, True), (0, M, False), (0, U, True), (0, R, True)]
    )
    def test_small_movable_demand_claims_nothing(self, order: int, kind: int, allowed: bool) -> None:
        """should_try_claim_block: pageblock_order / 2 and above, or Unmovable and Reclaimable demand."""
        assert claimable(order, kind) is allowed

    def test_the_largest_is_claimed_and_the_smallest_stolen(self) -> None:
        made = self.dma(1024)
        made.remove(0, 10, M)
        made.add(0, 9, M)
        made.add(512, 5, M)
        made.add(544, 2, M)
        assert steal(made, 1, U) == 544
        assert made.events == [ExtFrag(544, 1, 2, U, M, False)]
        assert claim(made, 1, U, nofragment=True, boost=made._raise_watermarks) == 0
        assert made.events[1] == ExtFrag(0, 1, 9, U, M, True)
        assert [event.blocks for event in made.events] == [0, 1]
        assert [event.fragmenting for event in made.events] == [True, False]
        assert ExtFrag(0, 0, 10, U, M, True).blocks == 2
        assert ExtFrag(0, 0, 4, U, M, True).blocks == 1


class TestMachine:
    def test_kswapd_is_woken_once_for_each_boost_and_each_dip(self) -> None:
        made = FrameZone("DMA32", 0, 4096, marks=Marks(1, 2, 1000))
        made.populate(0, 4096)
        machine = Machine([made])
        halves = [machine.alloc(8, M, 0, KERNEL) for _ in range(15)]
        for half in halves[1::2]:  # 2048 pages are free, in halves of pageblocks, the last never taken
            assert half is not None
            machine.free(half, 8, 0)
        assert machine.kswapd_wakes == 0
        assert machine.alloc(0, U, 0, Gfp(wakes_kswapd=False)) == halves[13]
        assert (machine.kswapd_wakes, made.kswapd_due) == (0, True)
        machine.alloc(0, U, 0)
        assert (machine.kswapd_wakes, made.kswapd_due) == (1, False)
        dry = FrameZone("DMA32", 0, 512, marks=Marks(100, 200, 300))
        dry.populate(0, 512)
        machine = Machine([dry])
        pages = [machine.alloc(0, M, 0, Gfp(may_dip=False)) for _ in range(313)]
        assert pages.count(None) == 1
        assert machine.kswapd_wakes == 0
        assert machine.alloc(0, M, 0) is not None
        assert machine.kswapd_wakes == 1
        assert machine.alloc(0, M, 0, Gfp(wakes_kswapd=False)) is not None
        assert machine.kswapd_wakes == 1

    def test_zones_are_asked_from_the_highest_allowed_down(self) -> None:
        zones = [FrameZone(name, start, 512) for name, start in (("DMA", 0), ("DMA32", 4096), ("Normal", 8192))]
        for made in zones:
            made.populate(made.start, 512)
        machine = Machine(zones)
        assert [machine.alloc(9, M, 0, Gfp(highest_zone=1)), machine.alloc(9, M, 0, Gfp(highest_zone=1))] == [4096, 0]
        assert machine.alloc(9, M, 0, Gfp(highest_zone=1)) is None
        assert machine.alloc(9, M, 0) == 8192
        assert [machine.zone_of(pfn).name for pfn in (0, 511, 4096, 8703)] == ["DMA", "DMA", "DMA32", "Normal"]
        for pfn in (512, 4095, 8704):
            with pytest.raises(ValueError, match="in no zone"):
                machine.zone_of(pfn)
        with pytest.raises(ValueError, match="without zones"):
            Machine([])
        assert Gfp() == Gfp(highest_zone=2, lru=True, wakes_kswapd=True, may_dip=True)
        assert Gfp(lru=False) == KERNEL

    def test_settling_is_24_turns(self) -> None:
        made = zone(2048, limits=PcpLimits(15, 60, 100_000))
        made.pcps[0].high = 100_000
        Machine([made]).settle()
        high = 100_000
        for _ in range(24):
            high -= high >> 3
        assert made.pcps[0].high == high


class TestPageblocks:
    def test_a_pageblock_of_which_the_zone_has_one_frame(self) -> None:
        made = FrameZone("DMA32", 0, 513)
        made.populate(0, 513)
        assert made.block_counts() == [0, 2, 0, 0, 0, 0]
        late = FrameZone("DMA32", 511, 2)
        late.populate(511, 2)
        assert late.block_counts() == [0, 2, 0, 0, 0, 0]
        holes = FrameZone("DMA32", 0, 1536)
        holes.populate(512, 512)
        assert holes.block_counts() == [0, 1, 0, 0, 0, 0]

    @pytest.mark.parametrize(("order", "kind"), [(7, U), (8, M), (9, M), (10, M)])
    def test_isolation_of_half_a_pageblock_makes_it_movable(self, order: int, kind: int) -> None:
        """__isolate_free_page: order >= pageblock_order - 1."""
        made = zone(1024)
        made.remove(START, 10, M)
        made.set_types(START, 2, U)
        made.add(START, order, U)
        assert made.isolate(START) == order
        assert made.type_of(START) == kind
        assert made.type_of(START + 512) == (M if order == 10 else U)


class TestMarks:
    """zone_watermark_ok: free - (1 << order) + 1 <= mark + reserve is too little."""

    def test_the_high_mark_is_forgotten_by_the_first_page_above_it(self) -> None:
        made = zone(1024, marks=Marks(10, 20, 600))
        machine = Machine([made])
        pages = [machine.alloc(0, M, 0) for _ in range(425)]
        assert made.below_high
        assert made.nr_free == 599
        for pfn, below in ((pages[0], True), (pages[2], False)):
            assert pfn is not None
            machine.free(pfn, 0, 0)
            assert made.below_high is below

    @pytest.mark.parametrize(
        ("order", "mark", "reserve", "boost", "enough"),
        [
            (0, 511, 0, 0, True), (0, 512, 0, 0, False), (0, 411, 100, 0, True), (0, 412, 100, 0, False),
            (0, 401, 100, 10, True), (0, 402, 100, 10, False), (3, 504, 0, 0, True), (3, 505, 0, 0, False),
            (9, 0, 0, 0, True), (9, 1, 0, 0, False), (10, 0, 0, 0, False),
        ],
    )  # fmt: skip
    def test_a_block_leaves_more_than_the_mark(
        self, order: int, mark: int, reserve: int, boost: int, enough: bool
    ) -> None:
        made = zone(512, marks=Marks(protection=(0, 0, reserve)))
        made.boost = boost
        assert made.watermark_ok(order, mark, 2) is enough

    def test_a_block_of_the_order_or_above_has_to_be_free(self) -> None:
        made = zone(2048)
        made.remove(START, 10, M)
        made.remove(START + 1024, 10, M)
        made.add(START, 8, M)
        made.add(START + 512, 8, R)
        assert [made.watermark_ok(order, 0, 2) for order in (7, 8, 9)] == [True, True, False]
        made.remove(START, 8, M)
        made.remove(START + 512, 8, R)
        made.add(START, 9, Migratetype.CMA)
        assert not made.watermark_ok(3, 0, 2)
        assert made.watermark_ok(3, 0, 2, cma=True)

    @pytest.mark.parametrize(
        ("boost", "high", "managed", "factor", "after"),
        [
            (0, 1000, 2048, 15_000, 512), (0, 1000, 2047, 15_000, 0), (1000, 1000, 4096, 15_000, 1500),
            (600, 10, 4096, 15_000, 512), (0, 0, 4096, 15_000, 0), (0, 1000, 4096, 0, 0), (7, 1000, 4096, 0, 7),
            (0, 1, 4096, 10_000, 512),
        ],
    )  # fmt: skip
    def test_boosts(self, boost: int, high: int, managed: int, factor: int, after: int) -> None:
        """boost_watermark: by a pageblock, to 1.5 times the high mark or one pageblock; not below four pageblocks."""
        assert boosted(boost, Marks(0, 0, high), managed, factor) == after

    def test_boost_as_shipped(self) -> None:
        assert boosted(1400, Marks(0, 0, 1000), 4096) == 1500

    def test_reserved_pages_count_for_those_with_a_right_to_them(self) -> None:
        free = (1, 20, 300, 4000, 50000, 600000)
        assert usable_free(free, cma=False, highatomic=False) == 321
        assert usable_free(free, cma=True, highatomic=False) == 50321
        assert usable_free(free, cma=False, highatomic=True) == 4321

    @pytest.mark.parametrize("marks", [(2, 1, 3), (1, 3, 2), (-1, 0, 0)])
    def test_marks_rise(self, marks: tuple[int, int, int]) -> None:
        with pytest.raises(ValueError, match="do not rise"):
            Marks(*marks)
        assert Marks(1, 1, 1).reserve(3) == 0
        assert Marks(protection=(5, 6)).reserve(1) == 6
        assert Marks(protection=(5, 6)).reserve(2) == 0
