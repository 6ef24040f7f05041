# SPDX-License-Identifier: GPL-2.0-only
"""The edges of per-CPU lists: how many pages a list takes at once, keeps, gives back, and when it shrinks.

Worked out by hand from mm/page_alloc.c of 7.3; the function is named at each table.
"""

from __future__ import annotations

import pytest

from harness.model.allocator.buddy import FREE, PCP, TAKEN
from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.migratetype import (
    pcp_index,
)
from harness.model.allocator.pcp import PcpLimits, PerCpuPages, batch_of, capped_limits
from tests.unit.test_allocator_lists import CAP, START, M, R, U, zone


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
