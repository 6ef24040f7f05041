# SPDX-License-Identifier: GPL-2.0-only
"""One zone with every frame known: buddy system, per-CPU lists and watermarks together.  Every answer is exact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from harness.model.allocator.buddy import FREE, HELD, HOLE, PCP, Buddy
from harness.model.allocator.extfrag import Cause
from harness.model.allocator.fallback import Mode, rmqueue
from harness.model.allocator.migratetype import (
    BLOCK_PAGES,
    PAGEBLOCK_ORDER,
    PCP_LISTS,
    PCP_ORDER,
    PCPTYPES,
    Migratetype,
    pcp_allowed,
    pcp_index,
)
from harness.model.allocator.pcp import BATCH_SCALE, PcpLimits, PerCpuPages
from harness.model.allocator.watermarks import Marks, boosted, usable_free

ZONE_INDEX: Final = {"DMA": 0, "DMA32": 1, "Normal": 2, "Movable": 3}
"""enum zone_type on x86-64; an allocation may use its highest zone and those below."""


class FrameZone(Buddy):
    """A zone.  ``name`` as /proc/zoneinfo prints it; CPUs are numbered from 0."""

    def __init__(
        self,
        name: str,
        start: int,
        frames: int,
        *,
        cpus: int = 1,
        limits: PcpLimits | None = None,
        marks: Marks | None = None,
    ) -> None:
        if name not in ZONE_INDEX:
            raise ValueError(f"a zone named {name!r}; the model knows {', '.join(ZONE_INDEX)}")
        super().__init__(start, frames)
        self.name = name
        self.index = ZONE_INDEX[name]
        self.marks = marks or Marks()
        self.boost = 0
        self.boosts = 0
        """How often a fallback raised the watermarks."""
        self.kswapd_due = False
        """ZONE_BOOSTED_WATERMARK: the next allocation wakes kswapd."""
        self.below_high = False
        """ZONE_BELOW_HIGH."""
        self.reclaim_active = False
        """ZONE_RECLAIM_ACTIVE; set it to model kswapd at work."""
        self.pcps = [PerCpuPages(limits or PcpLimits(1, 0, 0)) for _ in range(cpus)]

    # Numbers.

    @property
    def managed(self) -> int:
        """Frames that the allocator ever had."""
        return len(self.use) - self.use.count(HOLE)

    @property
    def pcp_pages(self) -> int:
        """Pages on the lists of all CPUs."""
        return sum(pcp.count for pcp in self.pcps)

    @property
    def allocated(self) -> int:
        """Frames in somebody's hands, isolated ones included."""
        return self.managed - self.use.count(FREE) - self.use.count(PCP)

    def block_counts(self) -> list[int]:
        """Pageblocks by migratetype; blocks of holes alone are left out, as pagetypeinfo leaves them out."""
        counts = [0] * 6
        first = (self.start - self.base) >> PAGEBLOCK_ORDER
        last = (self.end - 1 - self.base) >> PAGEBLOCK_ORDER
        for block in range(first, last + 1):
            part = self.use[block * BLOCK_PAGES : (block + 1) * BLOCK_PAGES]
            if part.count(HOLE) != BLOCK_PAGES:
                counts[self.types[block]] += 1
        return counts

    def free_counts(self) -> list[list[int]]:
        """Free blocks by migratetype and order: the rows of /proc/pagetypeinfo."""
        return [[len(by_type[migratetype]) for by_type in self.lists] for migratetype in range(6)]

    # Watermarks.

    def watermark_ok(self, order: int, mark: int, highest_zone: int, *, cma: bool = False) -> bool:
        """Whether enough would stay free (zone_watermark_fast); ``mark`` without the boost."""
        free = usable_free(self.free_by_type, cma=cma, highatomic=False) - (1 << order) + 1
        if free <= mark + self.boost + self.marks.reserve(highest_zone):
            return False
        if not order:
            return True
        types = (*range(PCPTYPES), *((Migratetype.CMA,) if cma else ()))
        return any(by_type[migratetype] for by_type in self.lists[order:] for migratetype in types)

    def _raise_watermarks(self) -> None:
        self.boost = boosted(self.boost, self.marks, self.managed)
        if self.boost:
            self.boosts += 1
            self.kswapd_due = True

    def balance(self) -> None:
        """kswapd has done what the boost asked for (balance_pgdat); what it reclaimed is not modelled."""
        self.boost = 0

    # Allocating and freeing.

    def rmqueue(self, order: int, migratetype: int, cpu: int, *, nofragment: bool, lru: bool) -> int | None:
        """First frame of a block, now held, or None; through the CPU's lists if its order is kept there (rmqueue)."""
        cma = migratetype == Migratetype.MOVABLE and bool(self.free_by_type[Migratetype.CMA])
        pfn = None
        if pcp_allowed(order):
            pfn = self._from_pcp(order, migratetype, cpu, nofragment, cma)
        if pfn is None:
            pfn, _ = rmqueue(
                self,
                order,
                migratetype,
                nofragment=nofragment,
                cma=cma,
                mode=Mode.NORMAL,
                boost=self._raise_watermarks,
            )
        if pfn is None:
            return None
        code = HELD | migratetype << 1 | lru
        at = pfn - self.base
        if order:
            self.use[at : at + (1 << order)] = bytes((code,)) * (1 << order)
        else:
            self.use[at] = code
        return pfn

    def _from_pcp(self, order: int, migratetype: int, cpu: int, nofragment: bool, cma: bool) -> int | None:
        """The head of the CPU's list, refilled first when it is empty (rmqueue_pcplist)."""
        pcp = self.pcps[cpu]
        pcp.free_count >>= 1
        chain = pcp.lists[pcp_index(migratetype, order)]
        if not chain:
            mode = Mode.NORMAL
            for _ in range(pcp.refill(order, self.below_high)):
                pfn, mode = rmqueue(
                    self,
                    order,
                    migratetype,
                    nofragment=nofragment,
                    cma=cma,
                    mode=mode,
                    boost=self._raise_watermarks,
                )
                if pfn is None:
                    break
                chain.append(pfn)
                self._mark(pfn, order, PCP)
                pcp.count += 1 << order
            if not chain:
                return None
        pcp.count -= 1 << order
        return chain.popleft()

    def _mark(self, pfn: int, order: int, code: int) -> None:
        at = pfn - self.base
        if order:
            self.use[at : at + (1 << order)] = bytes((code,)) * (1 << order)
        else:
            self.use[at] = code

    def holds(self, pfn: int, order: int = 0) -> bool:
        """Whether every frame of the block is allocated."""
        if not self.start <= pfn <= self.end - (1 << order):
            return False
        at = pfn - self.base
        return self.use[at] >= HELD and (not order or min(self.use[at : at + (1 << order)]) >= HELD)

    def free(self, pfn: int, order: int, cpu: int) -> None:
        """Frees a block that is held (__free_frozen_pages); a part of a larger allocation may go alone.

        Raises ValueError for frames that nobody holds: a double free.
        """
        if not self.holds(pfn, order):
            raise ValueError(f"frame {pfn} of order {order} in zone {self.name} is freed, but not all of it is held")
        migratetype = self.type_of(pfn)
        if not pcp_allowed(order) or migratetype == Migratetype.ISOLATE:
            self.free_large(pfn, order)
            return
        index = pcp_index(migratetype if migratetype < PCPTYPES else Migratetype.MOVABLE, order)
        self._mark(pfn, order, PCP)
        pcp = self.pcps[cpu]
        excess = pcp.put(index, pfn, order, below_high=self.below_high, reclaim=self.reclaim_active)
        while excess > 0 and pcp.count > 0:
            part = min(excess, pcp.limits.batch)
            self._give_back(pcp, part, index)
            excess -= part
        if self.below_high and self.watermark_ok(0, self.marks.high, ZONE_INDEX["Movable"]):
            self.below_high = False

    def _give_back(self, pcp: PerCpuPages, count: int, index: int) -> None:
        """Pages from the lists' tails to the free lists, a whole list after the other (free_pcppages_bulk)."""
        count = min(pcp.count, count)
        while count > 0:
            while not pcp.lists[index]:
                index = (index + 1) % PCP_LISTS
            chain, order = pcp.lists[index], PCP_ORDER[index]
            while count > 0 and chain:
                pfn = chain.pop()
                count -= 1 << order
                pcp.count -= 1 << order
                self.free_one(pfn, order, self.type_of(pfn))
            index = (index + 1) % PCP_LISTS

    def drain(self, cpu: int) -> None:
        """Everything on a CPU's lists goes to the free lists (drain_pages_zone)."""
        pcp = self.pcps[cpu]
        while pcp.count:
            self._give_back(pcp, min(pcp.count, pcp.limits.batch << BATCH_SCALE), 0)

    def refresh(self, cpu: int) -> None:
        """One turn of the vmstat updater or of stat_refresh (decay_pcp_high)."""
        pcp = self.pcps[cpu]
        excess = pcp.decay()
        while excess > 0:
            self._give_back(pcp, min(excess, pcp.limits.batch), 0)
            excess -= pcp.limits.batch

    # Making a zone.

    def populate(self, start: int, frames: int, *, tail: bool = True) -> None:
        """Gives frames to the zone as boot does: the largest aligned blocks, to the tails (__free_pages_memory)."""
        end = start + frames
        while start < end:
            order = min(10, (start & -start).bit_length() - 1) if start else 10
            while start + (1 << order) > end:
                order -= 1
            self.free_large(start, order, tail=tail)
            start += 1 << order

    def adopt(self, frames: Iterable[int] | Sequence[int], code: int) -> None:
        """Marks frames as used in this way without an allocation; see ``buddy.held``."""
        for pfn in frames:
            self.use[pfn - self.base] = code

    def set_types(self, start: int, blocks: int, migratetype: int) -> None:
        """Types of pageblocks at boot or of a seed."""
        first = (start - self.base) >> PAGEBLOCK_ORDER
        self.types[first : first + blocks] = bytes((migratetype,)) * blocks

    def retyped_by(self, cause: Cause) -> dict[tuple[int, int], int]:
        """Pageblocks whose type changed for this cause, by (old, new)."""
        return {(old, new): count for (why, old, new), count in self.retyped.items() if why is cause}
