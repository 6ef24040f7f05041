# SPDX-License-Identifier: GPL-2.0-only
"""The page allocator with every frame known: single rules, each as the kernel's source has it."""

from __future__ import annotations

import pytest

from harness.model.allocator.extfrag import Cause, ExtFrag, blocks_moved
from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.machine import KERNEL, Gfp, Machine
from harness.model.allocator.migratetype import Migratetype, pcp_index
from harness.model.allocator.watermarks import Marks
from tests.unit.zone_bench import CAP, START, M, R, U, take, zone


class TestBuddy:
    def test_boot_leaves_the_largest_blocks_in_address_order(self) -> None:
        assert list(zone().in_order(10, M)) == [START, START + 1024, START + 2048, START + 3072]

    def test_a_split_gives_the_lower_half_and_keeps_the_upper(self) -> None:
        made = zone(1024)
        assert made.take_smallest(7, M) == START
        assert [list(made.in_order(order, M)) for order in (7, 8, 9)] == [[START + 128], [START + 256], [START + 512]]

    def test_the_smallest_block_goes_first(self) -> None:
        made = zone(2048)
        first = made.take_smallest(0, M)
        assert made.take_smallest(0, M) == START + 1
        assert first == START

    def test_a_freed_page_is_the_next_one_given(self) -> None:
        made = zone(1024)
        pages = [made.take_smallest(0, M) for _ in range(8)]
        made.free_one(START + 5, 0, M)
        made.free_one(START + 2, 0, M)
        assert pages[0] == START
        assert [made.take_smallest(0, M), made.take_smallest(0, M)] == [START + 2, START + 5]

    def test_a_page_whose_larger_buddy_is_free_goes_to_the_tail(self) -> None:
        made = zone(1024)
        for _ in range(8):
            made.take_smallest(0, M)
        made.free_one(START + 4, 0, M)  # 6..7 are held: no hope
        made.free_one(START + 2, 0, M)
        made.free_one(START + 3, 0, M)  # an order-1 block at 2
        made.free_one(START + 0, 0, M)  # 1 is held, but 2..3 is free: likely to merge soon
        assert list(made.in_order(0, M)) == [START + 4, START]

    def test_whole_blocks_of_two_types_merge_to_the_type_freed_last(self) -> None:
        made = zone(1024)
        made.take_smallest(10, M)
        made.set_types(START, 1, U)
        made.free_one(START, 9, U)
        made.free_one(START + 512, 9, M)
        assert made.order_of == {START: 10}
        assert [made.type_of(START), made.type_of(START + 512)] == [M, M]
        assert made.retyped == {(Cause.MERGE, U, M): 1}
        assert made.free_by_type[M] == 1024

    @pytest.mark.parametrize("fixed", [Migratetype.HIGHATOMIC, Migratetype.CMA, Migratetype.ISOLATE])
    def test_reserved_types_never_merge_with_others(self, fixed: Migratetype) -> None:
        made = zone(1024)
        made.take_smallest(10, M)
        made.set_types(START, 1, fixed)
        made.free_large(START, 10)
        assert made.order_of == {START: 9, START + 512: 9}
        assert made.nr_free == (512 if fixed is Migratetype.ISOLATE else 1024)

    def test_isolating_a_free_block_makes_it_movable_without_an_event(self) -> None:
        made = zone(1024)
        made.take_smallest(10, M)
        made.set_types(START, 2, U)
        made.free_large(START, 10)
        assert made.isolate(START) == 10
        made.put_back(START, 10)
        assert made.retyped == {(Cause.ISOLATE, U, M): 2}
        assert made.events == []
        assert made.free_counts()[M][10] == 1

    def test_isolating_less_than_half_a_pageblock_changes_no_type(self) -> None:
        made = zone(128)
        made.remove(START, 7, M)
        made.set_types(START, 1, U)
        made.add(START, 7, U)
        assert made.isolate(START) == 7
        assert not made.retyped


class TestFallback:
    def test_a_claim_takes_the_largest_block_whole(self) -> None:
        machine = Machine([zone()])
        assert take(machine, 1) == [START]
        only = machine.zones[0]
        assert only.events == [ExtFrag(START, 0, 10, U, M, True)]
        assert not only.events[0].fragmenting
        assert only.block_counts()[:3] == [2, 6, 0]

    def test_unmovable_falls_back_to_reclaimable_before_movable(self) -> None:
        made = zone(2048)
        made.remove(START + 1024, 10, M)
        made.set_types(START + 1024, 2, R)
        made.add(START + 1024, 10, R)
        assert take(Machine([made]), 1) == [START + 1024]
        assert made.block_counts()[:3] == [2, 2, 0]

    def test_without_fragmenting_a_block_of_order_nine_is_claimed_before_a_lower_zone_is_asked(self) -> None:
        high, low = zone(512), FrameZone("DMA32", 0, 4096)
        low.populate(0, 4096)
        assert take(Machine([low, high]), 1) == [START]
        assert high.events[0].fallback_order == 9
        assert blocks_moved(high.events) == 1

    def test_a_lower_zone_is_asked_before_types_are_mixed(self) -> None:
        high, low = zone(256), FrameZone("DMA32", 0, 4096)
        low.populate(0, 4096)
        machine = Machine([high, low])
        assert take(machine, 1) == [0]
        assert high.events == []

    def test_half_a_free_pageblock_is_claimed_whole_and_raises_the_watermarks(self) -> None:
        made = FrameZone("DMA32", 0, 2048, marks=Marks(1, 2, 1000))
        made.populate(0, 2048)
        machine = Machine([made])
        for _ in range(3):
            machine.alloc(9, M, 0)
        held = machine.alloc(8, M, 0, KERNEL)
        assert held == 1536
        assert made.free_counts()[M][8] == 1
        assert take(machine, 1) == [1792]
        assert made.events == [ExtFrag(1792, 0, 8, U, M, True)]
        assert made.block_counts()[:3] == [1, 3, 0]
        assert made.boost == 512
        assert machine.kswapd_wakes >= 1

    @pytest.mark.parametrize(("lru", "claimed"), [(True, 0), (False, 1)])
    def test_less_than_half_free_counts_what_is_not_movable_as_alike(self, lru: bool, claimed: int) -> None:
        made = FrameZone("DMA32", 0, 512)
        made.populate(0, 512)
        machine = Machine([made])
        take(machine, 384, M, gfp=Gfp(lru=lru))
        take(machine, 1, U, gfp=KERNEL)
        assert blocks_moved(made.events) == claimed
        assert made.events[0].fragmenting
        assert made.type_of(0) == (U if claimed else M)

    def test_movable_demand_claims_back_a_block_full_of_guest_memfd(self) -> None:
        made = FrameZone("DMA32", 0, 512)
        made.populate(0, 512)
        machine = Machine([made])
        gmem = take(machine, 496, U)
        assert made.type_of(0) == U
        assert len(gmem) == 496
        take(machine, 1, M)
        assert made.events[-1] == ExtFrag(496, 0, 4, M, U, True)
        assert made.type_of(0) == M

    def test_small_movable_demand_steals_and_changes_no_type(self) -> None:
        made = FrameZone("DMA32", 0, 512)
        made.populate(0, 512)
        machine = Machine([made])
        take(machine, 504, U)
        take(machine, 1, M)
        assert made.events[-1] == ExtFrag(504, 0, 3, M, U, False)
        assert made.type_of(0) == U

    def test_a_refill_that_began_to_steal_goes_on_stealing(self) -> None:
        made = FrameZone("DMA32", 0, 512, limits=CAP)
        made.populate(0, 512)
        machine = Machine([made])
        for _ in range(56):
            machine.alloc(3, U, 0)
        machine.drain()
        before = len(made.events)
        assert machine.alloc(0, M, 0) is not None
        stolen = made.events[before:]
        assert stolen
        assert {event.fallback_migratetype for event in stolen} == {U}


class TestCma:
    """CMA pageblocks serve Movable demand only, and first when they hold more than half of what is free."""

    @staticmethod
    def with_cma(blocks: int, pages: int = 4096) -> FrameZone:
        made = FrameZone("DMA32", 0, pages)
        made.set_types(0, blocks, Migratetype.CMA)
        made.populate(0, pages)
        return made

    def test_the_larger_half_of_the_free_memory_serves_movable_pages(self) -> None:
        made = self.with_cma(6)
        assert take(Machine([made]), 1, M)[0] < 6 * 512
        assert made.events == []

    def test_the_smaller_half_waits_until_it_is_the_larger(self) -> None:
        made = self.with_cma(2)
        pages = take(Machine([made]), 2050, M)
        assert all(pfn >= 1024 for pfn in pages[:2049])
        assert pages[-1] < 1024
        assert made.events == []

    def test_a_refill_stays_with_cma_once_it_came_to_it(self) -> None:
        made = FrameZone("DMA32", 0, 1024, limits=CAP)
        made.set_types(0, 1, Migratetype.CMA)
        made.set_types(512, 1, U)
        made.populate(0, 1024)
        machine = Machine([made])
        assert take(machine, 300, M)[-1] < 512
        assert made.events == []

    def test_unmovable_pages_never_get_it(self) -> None:
        made = self.with_cma(2, 1024)
        machine = Machine([made])
        assert machine.alloc(0, U, 0) is None
        assert machine.alloc(0, M, 0) is not None

    def test_a_freed_page_of_it_goes_to_the_movable_list(self) -> None:
        made = FrameZone("DMA32", 0, 1024, limits=CAP)
        made.set_types(0, 2, Migratetype.CMA)
        made.populate(0, 1024)
        machine = Machine([made])
        page = take(machine, 1, M)[0]
        machine.drain()
        machine.free(page, 0, 0)
        assert list(made.pcps[0].lists[pcp_index(M, 0)]) == [page]
        machine.drain()
        assert made.free_by_type[Migratetype.CMA] == 1024

    def test_isolated_pages_go_past_the_per_cpu_lists(self) -> None:
        made = FrameZone("DMA32", 0, 1024, limits=CAP)
        made.populate(0, 1024)
        machine = Machine([made])
        machine.alloc(9, M, 0)
        machine.drain()
        made.set_types(0, 1, Migratetype.ISOLATE)
        machine.free(7, 0, 0)
        assert made.pcp_pages == 0
        assert list(made.in_order(0, Migratetype.ISOLATE)) == [7]


class TestWatermarks:
    def test_an_unboosted_zone_wakes_nobody(self) -> None:
        machine = Machine([zone()])
        take(machine, 10)
        assert machine.kswapd_wakes == 0
        assert not machine.zones[0].below_high

    def test_the_high_mark_is_forgotten_when_enough_came_free(self) -> None:
        made = FrameZone("Normal", START, 1024, marks=Marks(10, 20, 600))
        made.populate(START, 1024)
        machine = Machine([made])
        pages = take(machine, 500)
        assert made.below_high
        for pfn in pages[:400]:
            machine.free(pfn, 0, 0)
        assert not made.below_high

    def test_a_high_order_needs_a_block_besides_the_pages(self) -> None:
        made = zone(512)
        machine = Machine([made])
        pages = take(machine, 512, M)
        for pfn in pages[::2]:
            machine.free(pfn, 0, 0)
        assert not made.watermark_ok(1, 0, 2)
        assert made.watermark_ok(0, 255, 2)
        assert not made.watermark_ok(0, 256, 2)

    def test_below_the_low_mark_the_next_zone_serves(self) -> None:
        high = FrameZone("Normal", START, 1024, marks=Marks(100, 200, 1024))
        high.populate(START, 1024)
        low = FrameZone("DMA32", 0, 4096)
        low.populate(0, 4096)
        machine = Machine([high, low])
        pages = take(machine, 1000)
        assert sum(pfn >= START for pfn in pages) == 1024 - 200
        assert high.below_high

    def test_what_a_lower_zone_keeps_for_itself_is_not_given(self) -> None:
        low = FrameZone("DMA32", 0, 1024, marks=Marks(0, 0, 0, (0, 0, 600, 600)))
        low.populate(0, 1024)
        high = FrameZone("Normal", START, 64)
        high.populate(START, 64)
        machine = Machine([high, low])
        given = 0
        while machine.alloc(0, U, 0) is not None:
            given += 1
        assert given == 64 + 1024 - 600

    def test_reclaim_would_begin_when_even_the_min_mark_forbids(self) -> None:
        made = FrameZone("Normal", START, 1024, marks=Marks(100, 200, 300))
        made.populate(START, 1024)
        machine = Machine([made])
        take(machine, 924)
        assert machine.alloc(0, U, 0) is None
        assert machine.kswapd_wakes > 0

    def test_a_boost_ends_at_one_and_a_half_times_the_high_mark(self) -> None:
        made = FrameZone("Normal", START, 4096, marks=Marks(10, 20, 1000))
        made.populate(START, 4096)
        for _ in range(5):
            made._raise_watermarks()
        assert made.boost == 1500
        made.balance()
        assert made.boost == 0
