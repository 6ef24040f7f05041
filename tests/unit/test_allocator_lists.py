# SPDX-License-Identifier: GPL-2.0-only
"""The edges of per-CPU lists, watermarks and free lists: the numbers at which the kernel's comparisons change sides.

Worked out by hand from mm/page_alloc.c of 7.3; the function is named at each table.
"""

from __future__ import annotations

import pytest

from harness.model.allocator.buddy import FREE, PCP, TAKEN, held
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
from harness.model.allocator.pcp import PcpLimits, PerCpuPages, batch_of, capped_limits
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


class TestRefill:
    """nr_pcp_alloc."""

    @pytest.mark.parametrize(
        ("limits", "largest"),
        [
            (PcpLimits(63, 0, 0), 1),
            (PcpLimits(63, 62, 62), 1),
            (PcpLimits(63, 63, 63), 63),
            (PcpLimits(63, 126, 126), 63),
            (PcpLimits(63, 127, 127), 64),
            (PcpLimits(63, 252, 252), 189),
            (PcpLimits(63, 2078, 2078), 2015),
            (PcpLimits(63, 9999, 9999), 2016),
        ],
    )
    def test_the_most_that_one_takes(self, limits: PcpLimits, largest: int) -> None:
        assert limits.largest_refill == largest
        pcp = PerCpuPages(limits)
        assert max(pcp.refill(0, False) for _ in range(8)) == max(largest, 2 if largest > 1 else 1)

    @pytest.mark.parametrize(("order", "blocks"), [(1, 31), (2, 15), (3, 7), (9, 2)])
    def test_larger_pages_come_by_the_batch_and_at_least_two(self, order: int, blocks: int) -> None:
        pcp = PerCpuPages(CAP)
        assert [pcp.refill(order, False) for _ in range(3)] == [blocks] * 3
        assert pcp.alloc_factor == 0, "only single pages double"

    def test_a_batch_of_one_page_is_one_page(self) -> None:
        assert PerCpuPages(PcpLimits(1, 0, 0)).refill(0, False) == 1

    def test_a_list_that_is_full_takes_a_batch(self) -> None:
        """max(high - count - batch, batch)."""
        assert PerCpuPages(CAP, count=126, alloc_factor=3).refill(0, False) == 63
        assert PerCpuPages(CAP, count=125, alloc_factor=3).refill(0, False) == 64

    def test_what_would_pass_the_room_does_not_double_the_next(self) -> None:
        pcp = PerCpuPages(CAP, alloc_factor=2)
        assert (pcp.refill(0, False), pcp.alloc_factor) == (189, 2)
        pcp = PerCpuPages(PcpLimits(63, 252 + 63, 252 + 63), alloc_factor=2)
        assert (pcp.refill(0, False), pcp.alloc_factor) == (252, 3)

    def test_a_tuned_limit_grows_by_what_is_asked_for_up_to_its_most(self) -> None:
        pcp = PerCpuPages(PcpLimits(15, 60, 200), alloc_factor=2)
        pcp.refill(0, False)
        assert pcp.high == 120
        pcp.refill(0, False)
        assert pcp.high == 200
        pcp = PerCpuPages(PcpLimits(15, 60, 200), alloc_factor=2)
        pcp.refill(1, False)
        assert pcp.high == 75

    def test_a_batch_is_cut_to_a_power_of_two_less_one(self) -> None:
        """zone_batchsize: min(managed / 4096, 63), then rounddown_pow_of_two(batch * 1.5) - 1."""
        expected = {8191: 1, 8192: 1, 3 * 4096: 3, 5 * 4096: 3, 6 * 4096: 7, 10 * 4096: 7, 11 * 4096: 15, 1 << 24: 63}
        assert {managed: batch_of(managed) for managed in expected} == expected

    def test_the_fraction_divides_the_zone_among_the_cpus(self) -> None:
        """zone_highsize."""
        assert capped_limits(1 << 20, 2, 8) == PcpLimits(63, 1 << 16, 1 << 16)
        assert capped_limits(1 << 20, 2, 2080) == PcpLimits(63, 252, 252)
        assert capped_limits(1 << 20, 2, 2070) == PcpLimits(63, 253, 253)

    @pytest.mark.parametrize("limits", [(0, 0, 0), (1, -1, 0), (1, 2, 1)])
    def test_impossible_limits(self, limits: tuple[int, int, int]) -> None:
        with pytest.raises(ValueError, match="per-CPU lists with batch"):
            PcpLimits(*limits)


class TestPut:
    """free_frozen_page_commit, nr_pcp_free, nr_pcp_high."""

    @staticmethod
    def put(pcp: PerCpuPages, order: int = 0, *, below_high: bool = False, reclaim: bool = False) -> int:
        return pcp.put(pcp_index(M, order), START, order, below_high=below_high, reclaim=reclaim)

    def test_lists_that_keep_nothing_give_everything_back(self) -> None:
        assert self.put(PerCpuPages(PcpLimits(63, 0, 0))) == 1

    def test_a_limit_below_the_batch_gives_back_one(self) -> None:
        pcp = PerCpuPages(PcpLimits(63, 62, 62), count=61)
        assert self.put(pcp) == 1

    @pytest.mark.parametrize(("free_count", "given"), [(0, 15), (14, 15), (15, 16), (43, 44), (44, 45), (200, 45)])
    def test_as_much_as_was_freed_since_the_last_allocation(self, free_count: int, given: int) -> None:
        """clamp(free_count, batch, high - batch), the page just freed included."""
        assert self.put(PerCpuPages(PcpLimits(15, 60, 60), count=59, free_count=free_count)) == given

    def test_the_count_of_frees_ends_at_32_batches(self) -> None:
        pcp = PerCpuPages(PcpLimits(15, 9000, 9000), free_count=479)
        self.put(pcp)
        assert pcp.free_count == 480
        self.put(pcp)
        assert pcp.free_count == 480

    def test_a_large_page_counts_by_its_pages(self) -> None:
        pcp = PerCpuPages(PcpLimits(15, 9000, 9000))
        self.put(pcp, 9)
        assert (pcp.count, pcp.free_count, pcp.freed_high_order) == (512, 512, False)
        self.put(pcp, 3)
        assert (pcp.count, pcp.free_count, pcp.freed_high_order) == (520, 512, True)
        self.put(pcp)
        assert not pcp.freed_high_order

    @pytest.mark.parametrize(
        ("free_count", "before", "keep", "count", "given"),
        [
            (45, True, False, 100, 102),
            (44, True, False, 100, 0),
            (45, False, False, 100, 0),
            (45, True, True, 12, 0),
            (45, True, True, 13, 15),
            (45, True, False, 600, 480),
        ],
    )
    def test_large_pages_one_after_the_other_go_back_at_once(
        self, free_count: int, before: bool, keep: bool, count: int, given: int
    ) -> None:
        """pcp->free_count >= batch + high_min / 2 (15 + 30), PCPF_PREV_FREE_HIGH_ORDER, and a batch with
        PCPF_FREE_HIGH_BATCH; at most 32 batches."""
        pcp = PerCpuPages(
            PcpLimits(15, 60, 4000), high=4000, count=count, free_count=free_count, freed_high_order=before,
            keep_batch=keep,
        )  # fmt: skip
        assert self.put(pcp, 1) == given

    def test_their_limit_falls_by_32_batches(self) -> None:
        pcp = PerCpuPages(PcpLimits(15, 60, 4000), high=4000, free_count=45, freed_high_order=True)
        self.put(pcp, 1)
        assert pcp.high == 4000 - 480
        pcp = PerCpuPages(PcpLimits(15, 60, 4000), high=500, free_count=45, freed_high_order=True)
        self.put(pcp, 1)
        assert pcp.high == 60

    @pytest.mark.parametrize(("free_count", "high", "left"), [(0, 400, 385), (99, 400, 300), (99, 100, 60)])
    def test_reclaim_and_a_low_zone_cut_the_limit_by_what_was_freed(
        self, free_count: int, high: int, left: int
    ) -> None:
        for cause in ("reclaim", "below_high"):
            pcp = PerCpuPages(PcpLimits(15, 60, 4000), high=high, free_count=free_count)
            self.put(pcp, **{cause: True})
            assert pcp.high == left

    def test_under_reclaim_four_batches_or_the_limit(self) -> None:
        assert self.put(PerCpuPages(PcpLimits(15, 60, 400), high=400, count=59), reclaim=True) == 15
        assert self.put(PerCpuPages(PcpLimits(15, 60, 400), high=400, count=58), reclaim=True) == 0
        assert self.put(PerCpuPages(PcpLimits(15, 30, 4000), high=31, count=29), reclaim=True) == 15
        assert self.put(PerCpuPages(PcpLimits(15, 30, 4000), high=31, count=28), reclaim=True) == 0

    def test_a_low_zone_gives_back_from_the_least_limit_on(self) -> None:
        assert self.put(PerCpuPages(PcpLimits(15, 60, 4000), high=400, count=58), below_high=True) == 0
        assert self.put(PerCpuPages(PcpLimits(15, 60, 4000), high=400, count=59), below_high=True) == 15
        # nr_pcp_high answers max(count, high_min), so that what goes is bounded by the count, not by the least limit
        pcp = PerCpuPages(PcpLimits(15, 60, 4000), high=400, count=199, free_count=300)
        assert self.put(pcp, below_high=True) == 185

    def test_a_tuned_limit_that_is_reached_grows_to_the_frees_and_a_batch(self) -> None:
        pcp = PerCpuPages(PcpLimits(15, 60, 200), high=60, count=59, free_count=69)
        self.put(pcp)
        assert pcp.high == 85
        pcp = PerCpuPages(PcpLimits(15, 60, 200), high=60, count=59, free_count=300)
        self.put(pcp)
        assert pcp.high == 200
        pcp = PerCpuPages(PcpLimits(15, 60, 200), high=60, count=58, free_count=69)
        self.put(pcp)
        assert pcp.high == 60
        pcp = PerCpuPages(PcpLimits(15, 60, 200), high=90, count=89, free_count=70)
        self.put(pcp)
        assert pcp.high == 90

    def test_an_allocation_from_the_list_halves_the_count_of_frees(self) -> None:
        """rmqueue_pcplist: pcp->free_count >>= 1, also where the list has to be filled first."""
        made = zone(limits=CAP)
        made.pcps[0].free_count = 40
        made.rmqueue(0, M, 0, nofragment=False, lru=True)
        assert made.pcps[0].free_count == 20
        made.rmqueue(0, M, 0, nofragment=False, lru=True)
        assert made.pcps[0].free_count == 10


class TestDecay:
    """decay_pcp_high."""

    @pytest.mark.parametrize(
        ("high", "count", "left", "given"),
        [(60, 90, 60, 30), (61, 0, 60, 0), (80, 0, 70, 0), (800, 1300, 820, 480), (800, 1180, 700, 480)],
    )
    def test_an_eighth_or_what_32_batches_leave(self, high: int, count: int, left: int, given: int) -> None:
        pcp = PerCpuPages(PcpLimits(15, 60, 4000), high=high, count=count)
        assert (pcp.decay(), pcp.high) == (given, left)

    def test_a_refresh_gives_back_exactly_the_excess(self) -> None:
        made = zone(limits=PcpLimits(15, 60, 60), cpus=1)
        pcp = made.pcps[0]
        for _ in range(100):
            pfn = made.take_smallest(0, M)
            assert pfn is not None
            pcp.lists[pcp_index(M, 0)].appendleft(pfn)
            pcp.count += 1
        pcp.high = 60
        made.refresh(0)
        assert (pcp.count, len(pcp.lists[pcp_index(M, 0)])) == (60, 60)


class TestGivingBack:
    """free_pcppages_bulk: a list until it is empty, then the next one, round and round."""

    def test_after_a_list_comes_the_next_and_after_the_last_the_first(self) -> None:
        made = zone(2048, limits=CAP)
        pcp = made.pcps[0]
        for kind, order, count in ((U, 0, 50), (R, 0, 60), (M, 1, 20), (M, 9, 1), (M, 0, 9)):
            for _ in range(count):
                pfn = made.take_smallest(order, M)
                assert pfn is not None
                made._mark(pfn, order, PCP)
                pcp.lists[pcp_index(kind, order)].appendleft(pfn)
                pcp.count += 1 << order
        left = []
        for _ in range(5):
            made._give_back(pcp, 60, pcp_index(M, 0))
            lists = ((M, 0), (R, 0), (M, 1), (M, 9), (U, 0))
            left.append([len(pcp.lists[pcp_index(kind, order)]) for kind, order in lists])
        assert left == [
            [0, 9, 20, 1, 50],  # 9 of the list asked for, 51 of the next
            [0, 0, 0, 0, 50],  # 9, then 20 times two pages, and a huge page for the 11 that are left
            [0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0],
        ]

    def test_a_drain_begins_with_the_first_list(self) -> None:
        """Pages that lie on lists of other types than their pageblock's: the one freed last is the head."""
        made = zone(1024, limits=CAP)
        pcp = made.pcps[0]
        for kind in (U, M, R):
            pfn = made.take_smallest(0, M)
            assert pfn is not None
            for _ in range(3):  # its neighbours are held, so that nothing merges or may merge soon
                made.take_smallest(0, M)
            made._mark(pfn, 0, PCP)
            pcp.lists[pcp_index(kind, 0)].appendleft(pfn)
            pcp.count += 1
        made.drain(0)
        assert list(made.in_order(0, M)) == [START + 8, START + 4, START]

    def test_what_is_taken_is_on_no_list(self) -> None:
        made = zone(1024)
        assert made.take(START, 3, 10, M) == START
        assert made.use[:9] == bytes((TAKEN,)) * 8 + bytes((FREE,))
        assert made.take_smallest(0, M) == START + 8
        assert made.use[8:10] == bytes((TAKEN, FREE))
        assert made.isolate(START + 16) == 4
        assert made.use[15:33] == bytes((FREE,)) + bytes((TAKEN,)) * 16 + bytes((FREE,))

    @pytest.mark.parametrize(
        ("start", "frames", "orders"),
        [
            (0, 2048, {0: 10, 1024: 10}), (1, 15, {1: 0, 2: 1, 4: 2, 8: 3}), (6, 5, {6: 1, 8: 1, 10: 0}),
            (1024, 1000, {1024: 9, 1536: 8, 1792: 7, 1920: 6, 1984: 5, 2016: 3}),
        ],
    )  # fmt: skip
    def test_boot_gives_the_largest_aligned_blocks(self, start: int, frames: int, orders: dict[int, int]) -> None:
        """__free_pages_memory; pageblocks of a block of order 10 are freed one by one and merge."""
        made = FrameZone("DMA32", 0, 4096)
        made.populate(start, frames)
        assert made.order_of == orders


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
