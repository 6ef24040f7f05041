# SPDX-License-Identifier: GPL-2.0-only
"""Watermarks of a zone, as far as they change which page an allocation gets (mm/page_alloc.c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.model.allocator.migratetype import BLOCK_PAGES

BOOST_FACTOR: Final = 15_000
"""vm.watermark_boost_factor, in ten-thousandths of the high mark: a boost ends at 1.5 times that mark."""
BOOST_LEAST_BLOCKS: Final = 4
"""A zone of fewer pageblocks is never boosted (boost_watermark): reclaim there would not pay."""


@dataclass(frozen=True)
class Marks:
    """Pages, as /proc/zoneinfo prints them without a boost. All 0: a zone that never runs low."""

    min: int = 0
    low: int = 0
    high: int = 0
    protection: tuple[int, ...] = ()
    """lowmem_reserve by the highest zone that an allocation may use: pages of this zone it has to leave."""

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.low <= self.high:
            raise ValueError(f"watermarks min {self.min}, low {self.low}, high {self.high} do not rise")

    def reserve(self, highest_zone: int) -> int:
        """Pages kept from allocations that could use ``highest_zone``."""
        return self.protection[highest_zone] if highest_zone < len(self.protection) else 0


def boosted(boost: int, marks: Marks, managed: int, factor: int = BOOST_FACTOR) -> int:
    """The boost after one more fallback inside a pageblock (boost_watermark); pages."""
    most = marks.high * factor // 10_000
    if not factor or managed < BOOST_LEAST_BLOCKS * BLOCK_PAGES or not most:
        return boost
    return min(boost + BLOCK_PAGES, max(BLOCK_PAGES, most))


def usable_free(pages: Sequence[int], *, cma: bool, highatomic: bool) -> int:
    """Free pages an allocation may count on: HighAtomic and CMA only for those with a right to them, Isolate never.

    ``pages``: free pages by migratetype (__zone_watermark_unusable_free).
    """
    return pages[0] + pages[1] + pages[2] + (pages[3] if highatomic else 0) + (pages[4] if cma else 0)
