# SPDX-License-Identifier: GPL-2.0-only
"""Per-CPU page lists: how many pages move between them and the free lists, and when (mm/page_alloc.c).

Pages are taken and put at the head (LIFO); a refill is appended in the order the free lists gave it; pages go back
from the tail, oldest first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from harness.model.allocator.migratetype import COSTLY_ORDER, PCP_LISTS

BATCH_SCALE: Final = 5
"""CONFIG_PCP_BATCH_SCALE_MAX: a refill doubles five times at most (63 << 5 = 2016 pages)."""
BATCH_MOST: Final = 64
"""256 KiB in pages: the upper bound of a batch before it is rounded to 2**n - 1 (zone_batchsize)."""


@dataclass(frozen=True)
class PcpLimits:
    """Pages; the lines ``batch``, ``high_min`` and ``high_max`` of a pageset in /proc/zoneinfo."""

    batch: int
    high_min: int
    high_max: int

    def __post_init__(self) -> None:
        if self.batch < 1 or not 0 <= self.high_min <= self.high_max:
            raise ValueError(f"per-CPU lists with batch {self.batch}, high {self.high_min} to {self.high_max}")

    @property
    def capped(self) -> bool:
        """Set by percpu_pagelist_high_fraction: ``high`` is not tuned."""
        return self.high_min == self.high_max

    @property
    def largest_refill(self) -> int:
        """Most pages that one refill of an order-0 list takes (nr_pcp_alloc with an empty list)."""
        if self.high_max < self.batch:
            return 1
        return min(self.batch << BATCH_SCALE, max(self.high_max - self.batch, self.batch))


def batch_of(managed: int) -> int:
    """Pages of a zone to its batch (zone_batchsize): about 0.025 %, at most 63."""
    batch = min(managed >> 12, BATCH_MOST)
    if batch <= 1:
        return 1
    return (1 << ((batch + batch // 2).bit_length() - 1)) - 1


def capped_limits(managed: int, cpus: int, fraction: int) -> PcpLimits:
    """The limits with vm.percpu_pagelist_high_fraction = ``fraction`` (zone_highsize), for CPUs of one node."""
    batch = batch_of(managed)
    high = max(managed // fraction // cpus, 4 * batch)
    return PcpLimits(batch, high, high)


@dataclass
class PerCpuPages:
    """struct per_cpu_pages of one CPU and zone."""

    limits: PcpLimits
    lists: list[deque[int]] = field(default_factory=lambda: [deque() for _ in range(PCP_LISTS)])
    """First frames; index 0 is the head."""
    count: int = 0
    """Pages on all lists."""
    high: int = 0
    alloc_factor: int = 0
    free_count: int = 0
    freed_high_order: bool = False
    """PCPF_PREV_FREE_HIGH_ORDER."""
    keep_batch: bool = False
    """PCPF_FREE_HIGH_BATCH: set at boot on CPUs whose share of the last cache is large."""

    def refill(self, order: int, below_high: bool) -> int:
        """How many pages of ``order`` to take from the free lists (nr_pcp_alloc)."""
        limits = self.limits
        base = limits.batch
        high = self.high = min(max(self.high, limits.high_min), limits.high_max)
        if high < base:
            return 1
        batch = base if order else base << self.alloc_factor
        if not limits.capped and not below_high:
            high = self.high = min(high + batch, limits.high_max)
        if not order:
            most = max(high - self.count - base, base)
            if batch <= most and self.alloc_factor < BATCH_SCALE:
                self.alloc_factor += 1
            batch = min(batch, most)
        return max(batch >> order, 2) if batch > 1 else batch

    def put(self, index: int, pfn: int, order: int, *, below_high: bool, reclaim: bool) -> int:
        """Puts a freed page at the head; returns how many pages to give back now (free_frozen_page_commit)."""
        self.alloc_factor >>= 1
        self.lists[index].appendleft(pfn)
        self.count += 1 << order
        batch = self.limits.batch
        free_high = False
        if order and order <= COSTLY_ORDER:
            free_high = (
                self.free_count >= batch + self.limits.high_min // 2
                and self.freed_high_order
                and (not self.keep_batch or self.count >= batch)
            )
            self.freed_high_order = True
        else:
            self.freed_high_order = False
        if self.free_count < batch << BATCH_SCALE:
            self.free_count += 1 << order
        high = self._limit(free_high, below_high, reclaim)
        if self.count < high:
            return 0
        if free_high:
            return min(self.count, batch << BATCH_SCALE)
        if high < batch:
            return 1
        # clamp(free_count, batch, high - batch) as min(max(v, lo), hi): at high < 2 * batch the upper end wins.
        return min(max(self.free_count, batch), high - batch)

    def _limit(self, free_high: bool, below_high: bool, reclaim: bool) -> int:
        """The count from which pages are given back (nr_pcp_high)."""
        limits = self.limits
        batch = limits.batch
        high = self.high = min(max(self.high, limits.high_min), limits.high_max)
        if not high:
            return 0
        if free_high:
            self.high = max(high - (batch << BATCH_SCALE), limits.high_min)
            return 0
        if reclaim:
            self.high = max(high - max(self.free_count, batch), limits.high_min)
            return min(batch << 2, self.high)
        if limits.capped:
            return high
        if below_high:
            self.high = max(high - max(self.free_count, batch), limits.high_min)
            return max(self.count, limits.high_min)
        if self.count >= high:
            need = self.free_count + batch
            if self.high < need:
                self.high = min(max(need, limits.high_min), limits.high_max)
        return high

    def decay(self) -> int:
        """One turn of the vmstat updater, as stat_refresh makes it; returns pages to give back (decay_pcp_high)."""
        limits = self.limits
        if self.high > limits.high_min:
            slow = self.count - (limits.batch << BATCH_SCALE)
            self.high = max(slow, self.high - (self.high >> 3), limits.high_min)
        return max(0, self.count - self.high)
