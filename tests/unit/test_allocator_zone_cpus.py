# SPDX-License-Identifier: GPL-2.0-only
"""A zone with the per-CPU lists of several CPUs: what each keeps, and what it gives back to the zone."""

from __future__ import annotations

import pytest

from harness.model.allocator import buddy
from harness.model.allocator.extfrag import blocks_moved
from harness.model.allocator.machine import Machine
from harness.model.allocator.migratetype import pcp_index
from harness.model.allocator.pcp import PcpLimits, PerCpuPages, batch_of, capped_limits
from tests.unit.zone_bench import CAP, START, M, U, take, zone


class TestPerCpuLists:
    @pytest.mark.parametrize(("managed", "batch"), [(4_000, 1), (247_504, 63), (505_826, 63), (65_536, 15)])
    def test_a_batch_is_a_power_of_two_less_one(self, managed: int, batch: int) -> None:
        assert batch_of(managed) == batch

    def test_the_cap_is_four_batches(self) -> None:
        assert capped_limits(247_504, 2, 1_000_000) == CAP

    def test_refills_double_until_the_cap_leaves_no_room(self) -> None:
        pcp = PerCpuPages(CAP)
        assert [pcp.refill(0, False) for _ in range(4)] == [63, 126, 189, 189]
        assert CAP.largest_refill == 189

    def test_untuned_refills_double_to_2016(self) -> None:
        limits = PcpLimits(63, 6567, 79872)
        pcp = PerCpuPages(limits)
        assert [pcp.refill(0, False) for _ in range(7)] == [63, 126, 252, 504, 1008, 2016, 2016]
        assert limits.largest_refill == 2016

    def test_a_tuned_limit_grows_with_refills_and_frees(self) -> None:
        limits = PcpLimits(15, 60, 400)
        pcp = PerCpuPages(limits)
        pcp.refill(0, False)
        assert pcp.high == 75
        pcp.refill(0, True)
        assert pcp.high == 75
        pcp = PerCpuPages(limits)
        given = [pcp.put(0, pfn, 0, below_high=False, reclaim=False) for pfn in range(61)]
        assert given == [0] * 59 + [45, 0]
        assert pcp.high == 60 + 15

    def test_below_the_high_mark_a_tuned_limit_shrinks(self) -> None:
        pcp = PerCpuPages(PcpLimits(15, 60, 400), high=400)
        assert pcp.put(0, 0, 0, below_high=True, reclaim=False) == 0
        assert pcp.high == 400 - 15

    def test_under_reclaim_no_more_than_four_batches_stay(self) -> None:
        pcp = PerCpuPages(PcpLimits(15, 60, 400), high=400)
        given = [pcp.put(0, pfn, 0, below_high=False, reclaim=True) for pfn in range(60)]
        assert given[:59] == [0] * 59
        assert given[59] == 45

    def test_a_decay_takes_an_eighth_of_the_limit(self) -> None:
        pcp = PerCpuPages(PcpLimits(15, 60, 4000), high=800, count=750)
        assert pcp.decay() == 50
        assert pcp.high == 700
        pcp = PerCpuPages(PcpLimits(15, 60, 4000), high=800, count=100)
        assert pcp.decay() == 0
        assert pcp.high == 700

    def test_many_large_pages_in_a_row_do_not_stay(self) -> None:
        pcp = PerCpuPages(PcpLimits(15, 60, 4000), high=4000)
        given = [pcp.put(pcp_index(U, 1), 2 * n, 1, below_high=False, reclaim=False) for n in range(24)]
        assert given == [0] * 23 + [48]
        kept = PerCpuPages(PcpLimits(15, 60, 4000), high=4000, keep_batch=True)
        assert kept.put(pcp_index(U, 1), 0, 1, below_high=False, reclaim=False) == 0

    def test_a_free_halves_the_next_refill(self) -> None:
        pcp = PerCpuPages(CAP, alloc_factor=2)
        pcp.put(pcp_index(U, 0), START, 0, below_high=False, reclaim=False)
        assert pcp.alloc_factor == 1

    def test_a_burst_of_frees_gives_back_all_but_a_batch(self) -> None:
        pcp = PerCpuPages(CAP)
        given = [pcp.put(0, pfn, 0, below_high=False, reclaim=False) for pfn in range(252)]
        assert given == [0] * 251 + [189]

    def test_the_page_freed_last_is_the_first_to_come_back(self) -> None:
        machine = Machine([zone(limits=CAP)])
        pages = take(machine, 64)
        for pfn in pages[:10]:
            machine.free(pfn, 0, 0)
        assert take(machine, 10) == pages[9::-1]

    def test_the_oldest_pages_go_back_first(self) -> None:
        machine = Machine([zone(limits=CAP)])
        pages = take(machine, 400)
        machine.drain()
        for pfn in pages[:252]:
            machine.free(pfn, 0, 0)
        only = machine.zones[0]
        assert only.pcp_pages == 63
        assert all(only.use[pfn - only.base] == buddy.FREE for pfn in pages[:189])

    def test_one_list_is_emptied_before_the_next_is_touched(self) -> None:
        made = zone(limits=CAP)
        machine = Machine([made])
        unmovable, movable = take(machine, 100), take(machine, 300, M)
        machine.drain()
        for pfn in unmovable:
            machine.free(pfn, 0, 0)
        for pfn in movable[:152]:
            machine.free(pfn, 0, 0)
        # 189 went back, beginning with the list freed to last: all 152 Movable pages, then 37 Unmovable ones.
        assert [len(made.pcps[0].lists[pcp_index(kind, 0)]) for kind in (U, M)] == [63, 0]

    def test_a_page_goes_to_the_list_of_its_pageblock_not_of_its_allocation(self) -> None:
        made = zone(512, limits=CAP, name="DMA32")
        machine = Machine([made])
        take(machine, 300, M)
        stolen = take(machine, 1, U)[0]
        assert made.type_of(stolen) == M
        machine.drain()
        machine.free(stolen, 0, 0)
        assert made.pcps[0].lists[pcp_index(M, 0)][0] == stolen

    def test_draining_hides_nothing(self) -> None:
        machine = Machine([zone(limits=CAP)])
        for pfn in take(machine, 100):
            machine.free(pfn, 0, 0)
        machine.drain()
        assert machine.zones[0].nr_free == 4096

    def test_refreshing_leaves_no_more_than_the_cap(self) -> None:
        machine = Machine([zone(16384, limits=CAP)])
        take(machine, 1, U)
        machine.zones[0].pcps[0].high = 5000
        for pfn in take(machine, 3000, M):
            machine.free(pfn, 0, 0)
        machine.settle()
        assert machine.zones[0].pcp_pages <= CAP.high_max

    def test_freeing_twice_is_refused(self) -> None:
        machine = Machine([zone(limits=CAP)])
        page = take(machine, 1)[0]
        machine.free(page, 0, 0)
        with pytest.raises(ValueError, match="not all of it is held"):
            machine.free(page, 0, 0)

    def test_a_frame_of_no_zone_is_refused(self) -> None:
        with pytest.raises(ValueError, match="in no zone"):
            Machine([zone()]).free(3, 0, 0)


def test_two_unmovable_pages_of_two_cpus_come_from_one_claim() -> None:
    made = zone(limits=CAP, cpus=2)
    machine = Machine([made])
    take(machine, 1, cpu=0)
    take(machine, 1, cpu=1)
    assert blocks_moved(made.events) == 2
    assert made.pcp_pages == 2 * 62
