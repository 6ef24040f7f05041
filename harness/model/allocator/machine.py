# SPDX-License-Identifier: GPL-2.0-only
"""The zones of one node in the order an allocation tries them (mm/page_alloc.c: get_page_from_freelist)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.model.allocator.extfrag import ExtFrag
from harness.model.allocator.framezone import ZONE_INDEX, FrameZone

NORMAL = ZONE_INDEX["Normal"]


@dataclass(frozen=True)
class Gfp:
    """What of an allocation's flags changes the answer."""

    highest_zone: int = NORMAL
    lru: bool = True
    """Whether the page goes to an LRU list: page cache (guest_memfd too) and anonymous memory, not slabs or tables."""
    wakes_kswapd: bool = True
    may_dip: bool = True
    """Whether to try again down to the min mark when the low mark forbids it (the slow path)."""


HIGHUSER = Gfp()
"""GFP_HIGHUSER of guest_memfd, and GFP_HIGHUSER_MOVABLE where ZONE_MOVABLE is empty."""
KERNEL = Gfp(lru=False)
"""GFP_KERNEL: slabs, page tables."""


class Machine:
    """Zones of one node.  ``alloc`` and ``free`` are what the kernel's callers see."""

    def __init__(self, zones: Iterable[FrameZone]) -> None:
        self.zones = sorted(zones, key=lambda zone: -zone.index)
        """Highest first: Normal, DMA32, DMA."""
        if not self.zones:
            raise ValueError("a machine without zones")
        self._zonelists = [[zone for zone in self.zones if zone.index <= highest] for highest in ZONE_INDEX.values()]
        self.kswapd_wakes = 0
        """How often kswapd was woken: from then on reclaim may have changed the answers."""

    def alloc(self, order: int, migratetype: int, cpu: int, gfp: Gfp = HIGHUSER) -> int | None:
        """First frame, or None when direct reclaim would begin: what happens then is not modelled.

        The first pass keeps to whole pageblocks (ALLOC_NOFRAGMENT) when ZONE_NORMAL is the first zone, because DMA32
        then has memory too (alloc_flags_nofragment); on a machine of one zone below Normal there is no such pass.
        """
        zones = self._zonelists[gfp.highest_zone]
        careful = bool(zones) and zones[0].index == NORMAL
        for dip in (False, True) if gfp.may_dip else (False,):
            if dip:
                self.kswapd_wakes += gfp.wakes_kswapd
            for nofragment in (True, False) if careful and not dip else (False,):
                pfn = self._pass(zones, order, migratetype, cpu, gfp, nofragment=nofragment, dip=dip)
                if pfn is not None:
                    return pfn
        return None

    def _pass(
        self,
        zones: list[FrameZone],
        order: int,
        migratetype: int,
        cpu: int,
        gfp: Gfp,
        *,
        nofragment: bool,
        dip: bool,
    ) -> int | None:
        """One walk over the zones (get_page_from_freelist)."""
        cma = migratetype == 1
        for zone in zones:
            if not zone.below_high and not zone.watermark_ok(order, zone.marks.high, gfp.highest_zone, cma=cma):
                zone.below_high = True
            if zone.below_high:
                mark = zone.marks.min if dip else zone.marks.low
                if not zone.watermark_ok(order, mark, gfp.highest_zone, cma=cma):
                    continue
            pfn = zone.rmqueue(order, migratetype, cpu, nofragment=nofragment, lru=gfp.lru)
            if zone.kswapd_due and gfp.wakes_kswapd:
                zone.kswapd_due = False
                self.kswapd_wakes += 1
            if pfn is not None:
                return pfn
        return None

    def zone_of(self, pfn: int) -> FrameZone:
        """The zone that spans a frame. Raises ValueError for a frame of no zone."""
        for zone in self.zones:
            if zone.start <= pfn < zone.end:
                return zone
        raise ValueError(f"frame {pfn} is in no zone of this machine")

    def free(self, pfn: int, order: int, cpu: int) -> None:
        """Raises ValueError for frames that nobody holds."""
        self.zone_of(pfn).free(pfn, order, cpu)

    def drain(self, cpu: int | None = None) -> None:
        """One CPU's lists, or all (drain_all_pages)."""
        for zone in self.zones:
            for number in range(len(zone.pcps)) if cpu is None else (cpu,):
                zone.drain(number)

    def settle(self, rounds: int = 24) -> None:
        """What the probe does before a sample: so many writes to stat_refresh."""
        for _ in range(rounds):
            for zone in self.zones:
                for cpu in range(len(zone.pcps)):
                    zone.refresh(cpu)

    @property
    def events(self) -> list[ExtFrag]:
        """Fallbacks of all zones."""
        return [event for zone in self.zones for event in zone.events]

    def block_counts(self) -> list[int]:
        """Pageblocks by migratetype over all zones."""
        return [sum(column) for column in zip(*(zone.block_counts() for zone in self.zones), strict=True)]
