# SPDX-License-Identifier: GPL-2.0-only
"""Zones known by numbers, operation by operation: every bound of every row by hand, and whole zones laid out by hand.

The rules are those of docs/allocator.md; sources: mm/page_alloc.c (__rmqueue_smallest, __rmqueue_claim, expand,
__free_one_page, nr_pcp_alloc) and mm/vmstat.c for the index.
"""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import UsageError
from harness.model.allocator.buddy import FREE, HOLE, held
from harness.model.allocator.claims import claims_interval, draw, overshoot
from harness.model.allocator.countzone import CountZone, Row
from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.interval import Interval
from harness.model.allocator.layout import from_frames, lay_out
from harness.model.allocator.migratetype import Migratetype
from harness.model.allocator.pcp import PcpLimits
from harness.model.allocator.placement import CpuStep, What, reuse

U, M, R = Migratetype.UNMOVABLE, Migratetype.MOVABLE, Migratetype.RECLAIMABLE
NONE = [0] * 11
BARE = PcpLimits(1, 0, 0)
CAP = PcpLimits(63, 252, 252)


def zone(
    free: dict[int, list[int]], blocks: dict[int, int], *, limits: PcpLimits = BARE, pcp: int = 0, cpus: int = 1,
    floor: int = 0,
) -> CountZone:  # fmt: skip
    spans = {kind: [(count, count) for count in free.get(kind, NONE)] for kind in (U, M, R)}
    return CountZone.of("Normal", 99, spans, blocks, pcp=pcp, limits=limits, cpus=cpus, floor=floor)


def ends(interval: Interval) -> tuple[int, int]:
    return interval.low, interval.high


class TestExact:
    """Without per-CPU lists every number follows."""

    START = zone({U: [3, 0, 1, *[0] * 8], M: [1, *[0] * 8, 2, 2], R: [0, 5, *[0] * 9]}, {U: 4, M: 10, R: 2})

    def test_the_start(self) -> None:
        made = self.START
        assert [ends(made.free_pages(kind)) for kind in (U, M, R)] == [(7, 7), (3073, 3073), (10, 10)]
        assert [ends(made.listed(kind)) for kind in (U, M, R)] == [(7, 7), (3073, 3073), (10, 10)]
        assert [ends(made.order(U, order)) for order in (0, 1, 2, 10)] == [(3, 3), (0, 0), (1, 1), (0, 0)]
        assert ends(made.unusable()) == (7 + 1 + 10,) * 2
        assert made.rows[M] == Row((3073, 3073), (10, 10), (3072, 3072), (2048, 2048), (1, *[0] * 8, 2, 2))

    def test_small_pieces_serve_first(self) -> None:
        served = self.START.alloc(5, U)
        assert served is not None
        assert ends(served.claimed) == (0, 0)
        assert served.zone.rows[U] == Row((2, 2), (4, 4), (0, 0), (0, 0), (0, 1, *[0] * 9))
        assert served.zone.rows[M] == self.START.rows[M]

    def test_a_claim_of_the_largest_block(self) -> None:
        served = self.START.alloc(8, U)
        assert served is not None
        assert ends(served.claimed) == (2, 2)
        # 7 were free; of 1024 one goes and one block of each order from 0 to 9 is left
        assert served.zone.rows[U] == Row((1023, 1023), (6, 6), (512, 512), (0, 0), (*[1] * 10, 0))
        assert served.zone.rows[M] == Row((2049, 2049), (8, 8), (2048, 2048), (1024, 1024), (1, *[0] * 8, 2, 1))
        assert served.zone.rows[R].blocks == (2, 2)

    def test_order_nine_when_tens_are_gone_and_then_nothing(self) -> None:
        served = self.START.alloc(7 + 2048 + 513, U)
        assert served is not None
        assert ends(served.claimed) == (6, 6)
        assert served.zone.rows[M].blocks == (4, 4)
        assert served.zone.rows[M].orders == (1, *[0] * 10)
        assert ends(served.zone.free_pages(U)) == (511, 511)
        assert self.START.alloc(7 + 2048 + 1024, U) is not None
        assert self.START.alloc(7 + 2048 + 1025, U) is None

    def test_large_orders_too(self) -> None:
        served = self.START.alloc(2, U, order=2)
        assert served is not None
        assert ends(served.claimed) == (2, 2)
        assert served.zone.rows[U].orders == (3, 0, *[1] * 8, 0)

    def test_movable_demand_claims_of_reclaimable_first(self) -> None:
        free = {U: [0] * 10 + [1], R: [0] * 10 + [1], M: NONE}
        assert draw(free, M, 0, 1).blocks == {R: 2, U: 0}
        assert draw(free, M, 9, 3).blocks == {R: 2, U: 2}
        served = zone(free, {U: 2, R: 2, M: 0}).alloc(1, M)
        assert served is not None
        assert [served.zone.rows[kind].blocks for kind in (U, M, R)] == [(2, 2), (2, 2), (0, 0)]

    @pytest.mark.parametrize(("floor", "pages", "served"), [(3000, 89, True), (3000, 90, False), (0, 3079, True)])
    def test_a_zone_above_its_floor_serves(self, floor: int, pages: int, served: bool) -> None:
        """3090 pages are free: what is left has to be more than the floor."""
        made = zone({U: [3, 0, 1, *[0] * 8], M: [1, *[0] * 8, 2, 2], R: [0, 5, *[0] * 9]}, {}, floor=floor)
        assert (made.alloc(pages, U) is not None) is served

    def test_the_floor_counts_pages_not_blocks(self) -> None:
        made = zone({U: [0] * 9 + [8, 0]}, {}, floor=3000)
        assert made.alloc(2, U, order=9) is not None
        assert made.alloc(3, U, order=9) is None


class TestBounds:
    """With per-CPU lists: two CPUs with lists of 252 pages each hide up to 504."""

    @staticmethod
    def start(pcp: int = 0, unmovable: int = 0, floor: int = 0) -> CountZone:
        free = {U: [unmovable, *[0] * 10], M: [0] * 9 + [1, 8], R: [0] * 10 + [1]}
        return zone(free, {U: 10, M: 30, R: 4}, limits=CAP, pcp=pcp, cpus=2, floor=floor)

    def test_what_the_lists_hold_may_be_of_any_type(self) -> None:
        made = self.start(pcp=100, unmovable=50)
        assert [ends(made.free_pages(kind)) for kind in (U, M, R)] == [(50, 150), (8704, 8804), (1024, 1124)]
        assert (made.hidden, made.hideable) == (100, 504)
        assert (self.start(pcp=504).hideable, self.start(pcp=505).hideable) == (504, 1009)
        assert ends(made.listed(U)) == (50, 50)

    def test_an_allocation_widens_by_what_a_refill_takes_too_much(self) -> None:
        served = self.start(unmovable=500).alloc(400, U)
        assert served is not None
        # 400 of 500 without a claim; with 188 more of a refill 88 are missing: a claim of two blocks
        assert ends(served.claimed) == (0, 2)
        made = served.zone
        assert made.hidden == 188
        assert made.rows[U].pages == (100, 1124)
        assert made.rows[U].blocks == (10, 12)
        assert made.rows[U].whole == (0, 512)
        assert made.rows[U].largest == (0, 0)
        assert made.rows[U].orders is None
        assert made.rows[M].pages == (8704 - 1024, 8704)
        assert made.rows[M].blocks == (28, 30)
        assert made.rows[M].whole == (8704 - 1024, 8704)
        assert made.rows[M].largest == (7168, 8192)
        assert made.rows[R].blocks == (2, 4)
        assert made.rows[R].pages == (0, 1024)
        assert ends(made.listed(U)) == (0, 1124)
        assert ends(made.order(M, 10)) == (7, 8)
        assert ends(made.order(M, 9)) == (0, (8704 - 7168) >> 9)
        assert ends(made.order(U, 10)) == (0, 0)
        assert ends(made.order(U, 0)) == (0, 1124)

    def test_two_cpus_refill_twice(self) -> None:
        served = self.start(unmovable=500).alloc(400, U, cpus=2)
        assert served is not None
        assert served.zone.hidden == 376
        again = served.zone.alloc(1, U, cpus=2)
        assert again is not None
        assert again.zone.hidden == 504

    def test_a_claim_that_is_certain_takes_of_the_other_type_what_one_cannot_give(self) -> None:
        """9 blocks of order 10: 8 Movable, 1 Reclaimable; 2 of them go for certain, and at most one is Reclaimable."""
        served = self.start().alloc(1500, U)
        assert served is not None
        assert ends(served.claimed) == (4, 4)
        assert served.zone.rows[M].blocks == (26, 28)
        assert served.zone.rows[M].largest == (8192 - 2048, 8192 - 1024)
        assert served.zone.rows[R].blocks == (2, 4)
        assert served.zone.rows[U].pages == (548, 548)

    def test_no_order_above_zero_and_no_more_than_there_is(self) -> None:
        assert self.start().alloc(1, U, order=1) is None
        assert self.start().alloc(9 * 1024 - 188, U) is not None
        assert self.start().alloc(9 * 1024 - 187, U) is None

    def test_the_floor_with_a_refill(self) -> None:
        """9728 pages are free: 400 and a refill's 188 leave 9140."""
        assert self.start(floor=9139).alloc(400, U) is not None
        assert self.start(floor=9140).alloc(400, U) is None
        assert self.start(floor=8952).alloc(400, U, cpus=2) is None

    def test_freed_pages_hide_and_may_complete_blocks(self) -> None:
        made = self.start(unmovable=500).free(30, U)
        assert made.hidden == 30
        assert made.rows[U].orders is None
        # 530 free pages: one completed block, which merges with the order-9 block of the Movable ones
        assert made.rows[U].pages == (530, 530 + 512)
        assert made.rows[U].blocks == (10, 11)
        assert made.rows[U].whole == (0, 1024)
        assert made.rows[U].largest == (0, 1024)
        assert self.start(unmovable=500).free(0, U) == self.start(unmovable=500)

    def test_draining_hides_nothing_any_more(self) -> None:
        made = self.start(pcp=100).drain()
        assert made.hidden == 0
        assert made.drain() is made
        assert ends(made.listed(M))[0] >= 8192

    def test_what_is_unusable(self) -> None:
        """Free pages outside whole blocks, less what the lists may hide."""
        made = self.start(unmovable=500).free(30, U)
        low, high = ends(made.unusable())
        assert low == 0
        assert high >= 530


class TestDemand:
    @pytest.mark.parametrize(
        ("demand", "own", "spare", "bounds"),
        [
            ((1, 1), (0, 0), 0, (2, 2)), ((1024, 1025), (0, 0), 0, (2, 4)), ((1024, 1024), (0, 0), 1, (2, 4)),
            ((100, 100), (99, 100), 0, (0, 2)), ((100, 100), (100, 100), 0, (0, 0)), ((0, 0), (0, 0), 99, (0, 0)),
            ((0, 1), (0, 0), 0, (0, 2)), ((101, 101), (0, 100), 0, (2, 2)),
        ],
    )  # fmt: skip
    def test_claims(self, demand: tuple[int, int], own: tuple[int, int], spare: int, bounds: tuple[int, int]) -> None:
        found = claims_interval(demand=demand, own=own, spare=spare, whole=1 << 20)
        assert found is not None
        assert ends(found) == bounds

    @pytest.mark.parametrize(
        ("limits", "order", "pages"),
        [
            (PcpLimits(63, 62, 62), 0, 0), (PcpLimits(63, 63, 63), 0, 62), (CAP, 2, 56), (CAP, 3, 48), (CAP, 4, 0),
            (CAP, 8, 0), (CAP, 10, 0), (PcpLimits(2, 9, 9), 0, 6), (PcpLimits(1, 9, 9), 0, 0),
        ],
    )  # fmt: skip
    def test_refills(self, limits: PcpLimits, order: int, pages: int) -> None:
        """nr_pcp_alloc: max(batch >> order, 2) blocks of a larger order, of which one is wanted."""
        assert overshoot(limits, order) == pages

    def test_impossible_intervals(self) -> None:
        with pytest.raises(ValueError, match="without a rule"):
            Interval(1, 2, "")
        with pytest.raises(ValueError, match="low above high"):
            Interval(2, 1, "x")
        assert Interval(1, 1, "x").exact
        assert not Interval(1, 2, "x").exact
        assert [n in Interval(1, 2, "x") for n in range(4)] == [False, True, True, False]


class TestReuse:
    """Lists of 100 pages with a batch of 10 whose limit is capped: page 100 makes ``count`` reach ``high``."""

    LIMITS = PcpLimits(10, 100, 100)

    def bounds(self, *steps: tuple[What, int, int], before: int = 0, spare: int | None = None) -> list[tuple[int, int]]:
        done = [CpuStep(what, cpu, pages) for what, cpu, pages in steps]
        return [ends(answer) for answer in reuse(done, self.LIMITS, {0: before}, spare=spare)]

    def test_up_to_the_limit_all_come_back(self) -> None:
        assert self.bounds((What.FREE, 0, 99), (What.ALLOC, 0, 99)) == [(99, 99)]
        assert self.bounds((What.FREE, 0, 99), (What.ALLOC, 0, 40), (What.ALLOC, 0, 59)) == [(40, 40), (59, 59)]
        assert self.bounds((What.FREE, 0, 98), (What.ALLOC, 0, 99)) == [(98, 98)]

    def test_at_the_limit_a_batch_stays(self) -> None:
        assert self.bounds((What.FREE, 0, 100), (What.ALLOC, 0, 10)) == [(10, 10)]
        assert self.bounds((What.FREE, 0, 100), (What.ALLOC, 0, 11)) == [(10, 11)]

    def test_pages_that_were_there_before_count(self) -> None:
        assert self.bounds((What.FREE, 0, 49), (What.ALLOC, 0, 49), before=50) == [(49, 49)]
        assert self.bounds((What.FREE, 0, 50), (What.ALLOC, 0, 49), before=50) == [(0, 49)]
        assert self.bounds((What.FREE, 0, 93), (What.ALLOC, 0, 9), before=7) == [(3, 9)]

    def test_what_was_taken_leaves_room_again(self) -> None:
        rounds = ((What.FREE, 0, 60), (What.ALLOC, 0, 60)) * 3
        assert self.bounds(*rounds) == [(60, 60)] * 3

    def test_a_full_list_keeps_as_many_of_them_as_it_held(self) -> None:
        """100 pages were there, which is the limit: of 200 freed, 100 at most wait there, the others are free."""
        steps = ((What.FREE, 0, 200), (What.ALLOC, 1, 200))
        assert self.bounds(*steps, before=100, spare=0) == [(100, 200)]
        assert self.bounds(*steps, before=90, spare=0) == [(100, 200)]

    def test_another_cpu_gets_none_until_lists_give_back(self) -> None:
        assert self.bounds((What.FREE, 0, 99), (What.ALLOC, 1, 5)) == [(0, 0)]
        assert self.bounds((What.FREE, 0, 100), (What.ALLOC, 1, 95)) == [(0, 90)]
        assert self.bounds((What.FREE, 0, 50), (What.DRAIN, 0, 0), (What.ALLOC, 1, 60)) == [(0, 50)]

    def test_with_nothing_else_free_what_was_freed_has_to_come(self) -> None:
        drained = ((What.FREE, 0, 50), (What.DRAIN, 0, 0))
        assert self.bounds(*drained, (What.ALLOC, 1, 50), spare=0) == [(50, 50)]
        assert self.bounds(*drained, (What.ALLOC, 1, 50), spare=20) == [(30, 50)]
        assert self.bounds(*drained, (What.FREE, 0, 9), (What.ALLOC, 1, 59), spare=0) == [(50, 50)]


class TestLaidOut:
    def test_every_kind_of_frame_by_its_flags(self) -> None:
        """512 frames of a Movable block, of which 8 are a hole, 24 free and the others held, the last two on an LRU."""
        free, lru, hole = (np.zeros(1024, np.bool_) for _ in range(3))
        hole[:8], free[8:32], lru[[510, 511, 600]] = True, True, True
        made = from_frames(FrameZone("DMA32", 0, 1024), free, lru, [M, Migratetype.CMA], hole)
        assert (made.use[0], made.use[8], made.use[32]) == (HOLE, FREE, held(M, False))
        assert (made.use[509], made.use[510], made.use[511]) == (held(M, False), held(M, True), held(M, True))
        assert (made.use[512], made.use[600]) == (held(M, False), held(M, True))
        assert made.order_of == {8: 3, 16: 4}
        assert made.managed == 1016
        assert made.block_counts() == [0, 1, 0, 0, 1, 0]

    def test_a_zone_that_begins_inside_a_pageblock(self) -> None:
        free = np.zeros(700, np.bool_)
        free[200:460] = True
        made = from_frames(FrameZone("DMA32", 300, 700), free, ~free, [U, M])
        assert made.order_of == {500: 2, 504: 3, 512: 7, 640: 6, 704: 5, 736: 4, 752: 3}
        assert (made.free_by_type[U], made.free_by_type[M]) == (12, 248)
        assert (made.use[300 - made.base], made.use[999 - made.base]) == (held(U, True), held(M, True))

    @pytest.mark.parametrize("kind", [Migratetype.HIGHATOMIC, Migratetype.CMA, Migratetype.ISOLATE])
    def test_what_is_held_in_a_pageblock_without_lists_counts_as_movable(self, kind: int) -> None:
        none = np.zeros(512, np.bool_)
        assert from_frames(FrameZone("DMA32", 0, 512), none, none, [kind]).use[7] == held(M, False)

    def test_free_blocks_of_two_types_stay_apart(self) -> None:
        free = np.ones(2048, np.bool_)
        made = from_frames(FrameZone("DMA32", 0, 2048), free, ~free, [U, M, M, M])
        assert made.order_of == {0: 9, 512: 9, 1024: 10}

    @pytest.mark.parametrize(("flags", "types"), [(1023, 2), (1024, 1), (1024, 3)])
    def test_arrays_of_the_wrong_length(self, flags: int, types: int) -> None:
        free = np.ones(flags, np.bool_)
        with pytest.raises(UsageError, match="1024 frames in 2 pageblocks"):
            from_frames(FrameZone("DMA32", 0, 1024), free, ~free, [M] * types)

    def test_numbers_in_rising_order(self) -> None:
        free = {U: [1, 1, *[0] * 7, 1, 0], M: [0] * 10 + [1], R: NONE}
        made = lay_out(FrameZone("DMA32", 0, 8 * 512), free, {U: 3, M: 5}, lru=True)
        assert made.free_counts()[U] == free[U]
        assert made.free_counts()[M] == free[M]
        assert made.block_counts() == [3, 5, 0, 0, 0, 0]
        assert made.use.count(held(U, True)) == 2 * 512 - 3
        assert made.use.count(held(M, True)) == 3 * 512
        assert sum(made.use[at] == FREE for at in range(8 * 512)) == 3 + 512 + 1024

    def test_a_free_pageblock_has_no_free_buddy_of_its_order(self) -> None:
        made = lay_out(FrameZone("DMA32", 0, 8 * 512), {M: [0] * 9 + [4, 0]}, {M: 8})
        assert sorted(made.in_order(9, M)) == [0, 1024, 2048, 3072]
        with pytest.raises(UsageError, match="no room for so many free blocks of order 9"):
            lay_out(FrameZone("DMA32", 0, 8 * 512), {M: [0] * 9 + [5, 0]}, {M: 8})
        # at the edges of a zone half a pair is left over, and serves first
        edges = lay_out(FrameZone("DMA32", 512, 4 * 512), {M: [0] * 9 + [3, 0]}, {M: 4})
        assert sorted(edges.in_order(9, M)) == [512, 1024, 2048]

    @pytest.mark.parametrize(
        ("free", "blocks", "words"),
        [
            ({M: NONE}, {M: 7}, "7 pageblocks do not fill"),
            ({M: NONE}, {M: 9}, "9 pageblocks do not fill"),
            ({U: [0] * 10 + [1], M: NONE}, {U: 1, M: 7}, "1 Unmovable pageblocks cannot hold"),
            ({U: [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]}, {U: 1, M: 7}, "1 Unmovable pageblocks cannot hold"),
            ({U: [0] * 10 + [5]}, {U: 8}, "no room for so many free blocks of order 10"),
        ],
    )
    def test_numbers_that_do_not_fit(self, free: dict[int, list[int]], blocks: dict[int, int], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            lay_out(FrameZone("DMA32", 0, 8 * 512), free, blocks)

    def test_as_much_as_fits_beside_one_held_page(self) -> None:
        made = lay_out(FrameZone("DMA32", 0, 512), {M: [1] * 9 + [0, 0]}, {M: 1})
        assert made.free_counts()[M] == [1] * 9 + [0, 0]
        assert made.allocated == 1
