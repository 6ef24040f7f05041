# SPDX-License-Identifier: GPL-2.0-only
"""A zone whose frames are known, and pages taken from it."""

from __future__ import annotations

from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.machine import Gfp, Machine
from harness.model.allocator.migratetype import Migratetype
from harness.model.allocator.pcp import PcpLimits

U, M, R = Migratetype.UNMOVABLE, Migratetype.MOVABLE, Migratetype.RECLAIMABLE
CAP = PcpLimits(63, 252, 252)
NO_LISTS = PcpLimits(1, 0, 0)
"""A boot pageset: one page in, one page out."""
START = 1 << 20


def zone(pages: int = 4096, *, limits: PcpLimits = NO_LISTS, name: str = "Normal", cpus: int = 1) -> FrameZone:
    made = FrameZone(name, START, pages, cpus=cpus, limits=limits)
    made.populate(START, pages)
    return made


def take(machine: Machine, count: int, migratetype: int = U, cpu: int = 0, gfp: Gfp | None = None) -> list[int]:
    found = [machine.alloc(0, migratetype, cpu, *([gfp] if gfp else [])) for _ in range(count)]
    assert all(pfn is not None for pfn in found)
    return [pfn for pfn in found if pfn is not None]
