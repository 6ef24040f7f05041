# SPDX-License-Identifier: GPL-2.0-only
"""Fragmentation in numbers: the kernel's indices, and pageblocks that guest_memfd pages pin."""

from __future__ import annotations

import pytest

from harness.model.allocator import metrics
from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.machine import KERNEL, Machine
from harness.model.allocator.migratetype import Migratetype
from harness.model.allocator.pcp import PcpLimits

U, M = Migratetype.UNMOVABLE, Migratetype.MOVABLE
EMPTY = [0] * 11


@pytest.mark.parametrize(
    ("free", "order", "index"),
    [
        (EMPTY, 9, 1000),
        ([1024, *EMPTY[1:]], 9, 1000),
        ([0] * 9 + [2, 0], 9, 0),
        ([512, *[0] * 8, 1, 0], 9, 500),
        ([0] * 10 + [1], 9, 0),
        ([3, *[0] * 9, 1], 0, 0),
        ([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 9, 0),  # 1 of 1025 pages: rounded down, as the kernel does
        ([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 10, 1),
    ],
)
def test_unusable_free_index(free: list[int], order: int, index: int) -> None:
    assert metrics.unusable_free_index(free, order) == index


@pytest.mark.parametrize(
    ("free", "index"),
    [
        (EMPTY, 0),
        ([0] * 9 + [1, 0], -1000),
        ([0] * 10 + [1], -1000),
        ([1, *EMPTY[1:]], -1),  # 1000 - (1000 + 1000 // 512) // 1: what little there is would not be enough
        ([1024, *EMPTY[1:]], 998),
        ([0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0], 0),
        ([0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0], 250),
        ([0, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0], 410),  # 1000 - (1000 + 5500) // 11, rounded down
    ],
)
def test_fragmentation_index(free: list[int], index: int) -> None:
    assert metrics.fragmentation_index(free, 9) == index


@pytest.mark.parametrize(("free", "percent"), [(EMPTY, 0), ([512, *[0] * 8, 1, 0], 50), ([1, *[0] * 8, 1, 0], 0)])
def test_unusable_percent(free: list[int], percent: int) -> None:
    assert metrics.unusable_percent(free, 9) == percent


def host(pages: int = 4096) -> tuple[Machine, FrameZone]:
    zone = FrameZone("Normal", 1 << 20, pages, limits=PcpLimits(1, 0, 0))
    zone.populate(1 << 20, pages)
    return Machine([zone]), zone


def take(machine: Machine, count: int, kind: int = U) -> list[int]:
    return [pfn for pfn in (machine.alloc(0, kind, 0) for _ in range(count)) if pfn is not None]


def test_one_freed_page_of_each_pageblock_is_unusable_and_pins_it() -> None:
    machine, zone = host()
    gmem = take(machine, 4096)
    assert metrics.pinned_blocks(zone, gmem) == 0
    for number in range(8):
        machine.free(gmem.pop(number * 511), 0, 0)
    assert metrics.unusable_pages(metrics.free_blocks(zone)) == 8
    assert metrics.unusable_free_index(metrics.free_blocks(zone)) == 1000
    assert metrics.pinned_blocks(zone, gmem) == 8


def test_a_pageblock_given_up_whole_is_no_longer_pinned() -> None:
    machine, zone = host()
    gmem = take(machine, 1024)
    for pfn in gmem[:512]:
        machine.free(pfn, 0, 0)
    assert metrics.pinned_blocks(zone, gmem[512:]) == 0
    machine.free(gmem[512], 0, 0)
    assert metrics.pinned_blocks(zone, gmem[513:]) == 1
    assert metrics.free_blocks(zone)[9] == 1


def test_free_pages_on_per_cpu_lists_pin_too() -> None:
    zone = FrameZone("Normal", 1 << 20, 4096, limits=PcpLimits(63, 252, 252))
    zone.populate(1 << 20, 4096)
    machine = Machine([zone])
    gmem = take(machine, 4000)
    machine.free(gmem[1000], 0, 0)
    blocks = {(pfn - zone.base) >> 9 for pfn in gmem}
    assert len(blocks) == 8
    # The block of the freed page, and the last one, whose end was never given out.
    assert metrics.pinned_blocks(zone, [pfn for pfn in gmem if pfn != gmem[1000]]) == 2


def test_frames_of_other_zones_pin_nothing_here() -> None:
    _, zone = host()
    assert metrics.pinned_blocks(zone, [5, 1 << 30]) == 0


def test_mixed_blocks_hold_an_allocation_of_another_type() -> None:
    zone = FrameZone("DMA32", 0, 1024, limits=PcpLimits(1, 0, 0))
    zone.populate(0, 1024)
    machine = Machine([zone])
    take(machine, 900, M)
    assert metrics.mixed_blocks(zone) == EMPTY[:6]
    stolen = machine.alloc(0, U, 0, KERNEL)
    assert stolen is not None
    assert metrics.mixed_blocks(zone) == [0, 1, 0, 0, 0, 0]
    zone.set_types(0, 2, Migratetype.CMA)
    assert metrics.mixed_blocks(zone) == [0, 2, 0, 0, 0, 0]
