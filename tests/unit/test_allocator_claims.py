# SPDX-License-Identifier: GPL-2.0-only
"""How many pageblocks a demand claims: measured events, known frames against numbers, and the step model's rule."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model import blocks
from harness.model.allocator.claims import (
    CLAIM_PAGES,
    claims_interval,
    completed_blocks,
    draw,
    merged_blocks,
    overshoot,
    take_smallest,
)
from harness.model.allocator.extfrag import blocks_moved
from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.layout import lay_out
from harness.model.allocator.machine import Machine
from harness.model.allocator.migratetype import BLOCK_PAGES, Migratetype
from harness.model.allocator.pcp import PcpLimits

U, M, R = Migratetype.UNMOVABLE, Migratetype.MOVABLE, Migratetype.RECLAIMABLE
CAP = PcpLimits(63, 252, 252)
HARDWARE = PcpLimits(63, 5420, 51200)
START = 1 << 20
NONE = [0] * 11


def zone(name: str, unmovable: list[int], tens: int, *, limits: PcpLimits = CAP, seed: int = 0) -> FrameZone:
    """Free Unmovable blocks by order and ``tens`` free Movable blocks of order 10, among held pageblocks."""
    blocks_u = 4 + unmovable[9] + 2 * unmovable[10]
    blocks_m = 2 * tens + 4
    made = FrameZone(name, START if name == "Normal" else 0, (blocks_u + blocks_m + 2) * 512, cpus=2, limits=limits)
    free = {U: unmovable, M: [*NONE[:10], tens], R: NONE}
    return lay_out(made, free, {U: blocks_u, M: blocks_m, R: 2}, random.Random(seed))


def allocate(machine: Machine, pages: int, cpu: int = 0) -> int:
    """Pageblocks claimed by so many Unmovable pages."""
    before = blocks_moved(machine.events)
    for _ in range(pages):
        assert machine.alloc(0, U, cpu) is not None
    return blocks_moved(machine.events) - before


@pytest.mark.parametrize("claimed", [29, 89, 183])
def test_measured_events_and_blocks(claimed: int) -> None:
    """KERNEL_FACTS section 4: claims of order 10 seen by the tracepoint, and twice as many pageblocks moved."""
    machine = Machine([zone("Normal", NONE, claimed + 3)])
    pages = (claimed - 1) * CLAIM_PAGES + 500  # what a capped refill takes too much fits into the last claim
    allocate(machine, pages)
    assert len(machine.events) == claimed == math.ceil((pages + machine.zones[0].pcp_pages) / CLAIM_PAGES)
    assert blocks_moved(machine.events) == 2 * claimed
    assert all(event.fallback_order == 10 and event.change_ownership for event in machine.events)
    assert not any(event.fragmenting for event in machine.events)
    assert machine.block_counts()[U] == 4 + 2 * claimed


def test_a_second_allocation_of_the_same_size_claims_nothing() -> None:
    """[M]: pageblocks do not return when their pages are freed."""
    machine = Machine([zone("Normal", NONE, 40)])
    held = [machine.alloc(0, U, 0) for _ in range(20_000)]
    for pfn in held:
        assert pfn is not None
        machine.free(pfn, 0, 0)
    machine.settle()
    assert allocate(machine, 20_000) == 0


def test_measured_example_of_a_quarter_gigabyte() -> None:
    """256 MiB and 142 slab pages of it moved 64 pageblocks: 32 claims for what the free Unmovable pages lacked."""
    wanted = 65_536 + 142
    machine = Machine([zone("Normal", [0] * 3 + [100, 0, 0, 0, 0, 0, 1, 32], 40, limits=HARDWARE)])
    normal = machine.zones[0]
    free = normal.free_by_type[U]
    moved = allocate(machine, wanted)
    left = normal.pcps[0].count
    assert moved == 2 * max(0, math.ceil((wanted + left - free) / CLAIM_PAGES)) == 64
    assert 0 <= left <= 2016


@given(
    unmovable=st.lists(st.integers(0, 3), min_size=11, max_size=11),
    lower=st.lists(st.integers(0, 3), min_size=11, max_size=11),
    pages=st.integers(0, 9000),
    cpus=st.sampled_from([1, 2]),
    seed=st.integers(0, 999),
    limits=st.sampled_from([CAP, HARDWARE, PcpLimits(1, 0, 0)]),
)
@settings(deadline=None, max_examples=40)
def test_known_frames_stay_inside_the_interval(
    unmovable: list[int], lower: list[int], pages: int, cpus: int, seed: int, limits: PcpLimits
) -> None:
    normal, dma32 = zone("Normal", unmovable, 16, limits=limits, seed=seed), zone("DMA32", lower, 4, limits=limits)
    machine = Machine([normal, dma32])
    interval = claims_interval(
        demand=(pages, pages),
        own=(normal.free_by_type[U], normal.free_by_type[U] + normal.pcp_pages),
        spare=cpus * overshoot(limits),
        whole=16 * CLAIM_PAGES,
        elsewhere=dma32.free_by_type[U],
    )
    rule = blocks.claims((normal.free_by_type[U],) * 2, (pages, pages), 2 * limits.high_max)
    rng = random.Random(seed)
    moved = sum(allocate(machine, 1, rng.randrange(cpus)) for _ in range(pages))
    if interval is not None:
        assert moved in interval
        assert interval.low % 2 == interval.high % 2 == 0
    if rule.high * BLOCK_PAGES <= 16 * CLAIM_PAGES:
        assert rule.low <= moved <= rule.high


def test_free_pages_of_a_lower_zone_are_not_used_before_a_claim() -> None:
    """Counting them as free makes the upper bound too small: here 0 pageblocks where 4 move."""
    normal, dma32 = zone("Normal", NONE, 16), zone("DMA32", [0] * 8 + [4, 1, 1], 4)
    machine = Machine([normal, dma32])
    elsewhere = dma32.free_by_type[U]
    assert elsewhere == 2560
    interval = claims_interval(
        demand=(1024, 1024), own=(0, 0), spare=overshoot(CAP), whole=16 * CLAIM_PAGES, elsewhere=elsewhere
    )
    assert interval is not None
    assert allocate(machine, 1024) == 4
    assert (interval.low, interval.high) == (2, 4)
    assert "not used before a claim" in interval.rule


def test_no_answer_when_whole_blocks_may_run_out() -> None:
    assert claims_interval(demand=(1025, 1025), own=(0, 0), spare=0, whole=1024) is None
    assert claims_interval(demand=(1024, 1024), own=(0, 0), spare=0, whole=1024) is not None


def test_no_demand_claims_nothing() -> None:
    interval = claims_interval(demand=(0, 0), own=(0, 0), spare=188, whole=4096)
    assert interval is not None
    assert (interval.low, interval.high) == (0, 0)


@pytest.mark.parametrize(
    ("limits", "order", "pages"),
    [(CAP, 0, 188), (HARDWARE, 0, 2015), (PcpLimits(1, 0, 0), 0, 0), (CAP, 1, 60), (CAP, 9, 512), (CAP, 5, 0)],
)
def test_what_a_refill_takes_too_much(limits: PcpLimits, order: int, pages: int) -> None:
    assert overshoot(limits, order) == pages


def test_a_few_freed_pages_may_complete_many_pageblocks() -> None:
    """Eight Unmovable pageblocks with one page left each, all beside free Movable ones: eight frees retype eight."""
    made = FrameZone("Normal", START, 32 * 512, cpus=2, limits=CAP)
    lay_out(made, {U: NONE, M: [*NONE[:9], 8, 4], R: NONE}, {U: 8, M: 24}, lru=True)
    machine = Machine([made])
    starts = [made.base + number * 512 for number, kind in enumerate(made.types) if kind == U]
    for start in starts:
        for pfn in range(start, start + 511):
            machine.free(pfn, 0, 0)
    machine.drain()
    assert machine.block_counts()[:2] == [8, 24]
    for start in starts:
        machine.free(start + 511, 0, 0)
    machine.drain()
    assert machine.block_counts()[:2] == [16, 16]
    assert completed_blocks(8, 8 * 512) == 8
    assert merged_blocks(8, 8 * 512, 8) == 8
    assert merged_blocks(8, 8 * 512, 5) == 5


@pytest.mark.parametrize(("freed", "after", "most"), [(0, 9999, 0), (7, 511, 0), (7, 512, 1), (3, 4096, 3)])
def test_a_pageblock_is_completed_by_a_page_of_its_own(freed: int, after: int, most: int) -> None:
    assert completed_blocks(freed, after) == most


@pytest.mark.parametrize(
    ("free", "order", "wanted", "left", "missing"),
    [
        ([1, 1, 0, 1], 0, 1, [0, 1, 0, 1], 0),
        ([1, 1, 0, 1], 0, 2, [1, 0, 0, 1], 0),
        ([1, 1, 0, 1], 0, 4, [1, 1, 1, 0], 0),
        ([1, 1, 0, 1], 0, 12, [0, 0, 0, 0], 1),
        ([5, 0, 0, 1], 1, 1, [5, 1, 1, 0], 0),
        ([5, 0, 0, 1], 1, 4, [5, 0, 0, 0], 0),
        ([5, 0, 0, 1], 1, 6, [5, 0, 0, 0], 2),
        ([5, 0, 0, 1], 2, 0, [5, 0, 0, 1], 0),
    ],
)
def test_the_smallest_blocks_go_first(free: list[int], order: int, wanted: int, left: list[int], missing: int) -> None:
    pad = [0] * 7
    assert take_smallest(free + pad, order, wanted) == (tuple(left + pad), missing)


def test_a_claim_asks_order_ten_of_both_types_before_order_nine() -> None:
    free = {U: NONE, R: [*NONE[:9], 3, 1], M: [*NONE[:9], 1, 1]}
    assert draw(free, U, 0, 1).blocks == {R: 2, M: 0}
    assert draw(free, U, 0, 1025).blocks == {R: 2, M: 2}
    assert draw(free, U, 0, 2049).blocks == {R: 3, M: 2}
    assert draw(free, U, 0, 2048 + 4 * 512).blocks == {R: 5, M: 3}
    assert draw(free, U, 0, 2048 + 4 * 512 + 9).missing == 9
    assert draw(free, U, 10, 3).missing == 1
