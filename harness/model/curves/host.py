# SPDX-License-Identifier: GPL-2.0-only
"""The host's free memory as the curves need it: whole 2 MiB blocks, scattered pages, and what per-CPU lists hold.

Read in a sample of a real host or made up for a synthetic one.  What a sample does not say is None, and ``notes`` say
so; it is never taken for 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.errors import UsageError
from harness.model.curves.streams import WINDOW_ORDER, WINDOW_PAGES

SPARE_PART = 8
"""A synthetic host keeps an eighth of the guest's size free beside the guest: what hosts of one large guest keep for
their own page cache and for the shared side.  The absolute curves do not depend on it; the fraction does."""

SPARE_LEAST = 1 << 18
"""And at least 1 GiB, so that small guests do not run their host out of memory at once."""

CPU_PAGES = 1 << 20
"""A synthetic host has one CPU per 4 GiB, as large machines do; only the size of per-CPU lists follows from it."""

PCP_PART = 8
"""pcp.high_max = managed pages of the zone / 8 / CPUs (mm/page_alloc.c:zone_highsize,
MIN_PERCPU_PAGELIST_HIGH_FRACTION)."""


@dataclass(frozen=True)
class HostMemory:
    """Free memory beside the guest, once the guest's private memory is allocated; in pages."""

    says: str
    """Where the numbers come from, for people."""
    free: int
    """Free pages, per-CPU lists included."""
    blocks: int
    """Free 2 MiB blocks: free blocks of order 9 and above."""
    huge_for_guest: int
    """Order-9 blocks that the guest found when it was populated: with fewer than windows the rest is order 0."""
    pcp_pages: int = CPU_PAGES // PCP_PART
    """Pages that the freeing CPU's list keeps (pcp.high_max): a CPU that only frees hides as many from the others."""
    notes: tuple[str, ...] = ()
    """What is unknown, and what is assumed instead."""

    def __post_init__(self) -> None:
        if min(self.free, self.blocks, self.huge_for_guest, self.pcp_pages) < 0:
            raise UsageError(f"{self.says} has a negative amount of free memory: the sample is not one of a host")
        if self.blocks * WINDOW_PAGES > self.free:
            raise UsageError(
                f"{self.says} has {self.blocks} free blocks of 2 MiB but only {self.free} free pages: the texts are not"
                " of one instant or not of one host"
            )

    @property
    def scattered(self) -> int:
        """Free pages that are in no free 2 MiB block."""
        return self.free - self.blocks * WINDOW_PAGES

    def in_pieces(self, part: float) -> HostMemory:
        """The same host with a further ``part`` of its free 2 MiB blocks in pieces."""
        whole = 1.0 - part
        return replace(self, blocks=int(self.blocks * whole), huge_for_guest=int(self.huge_for_guest * whole))

    @classmethod
    def synthetic(cls, guest_pages: int, *, fragmented: float = 0.0) -> HostMemory:
        """A host made for one guest; ``fragmented``: the part of its free memory that is in pieces below 2 MiB."""
        if not 0.0 <= fragmented <= 1.0:
            raise UsageError(f"fragmented free memory of {fragmented}: it is a part between 0 and 1")
        spare = max(guest_pages // SPARE_PART, SPARE_LEAST) // WINDOW_PAGES
        cpus = max(2, (guest_pages + spare * WINDOW_PAGES) // CPU_PAGES)
        whole = 1.0 - fragmented
        return cls(
            f"synthetic host with {spare * WINDOW_PAGES} pages free beside the guest",
            free=spare * WINDOW_PAGES,
            blocks=int(spare * whole),
            huge_for_guest=int(guest_pages // WINDOW_PAGES * whole),
            pcp_pages=(guest_pages + spare * WINDOW_PAGES) // PCP_PART // cpus,
        )

    @classmethod
    def from_sample(
        cls, values: Mapping[str, int], source: str, guest_pages: int, *, pcp_pages: int | None = None
    ) -> HostMemory:
        """The host of a sample, taken before the guest's private memory was allocated.

        ``values``: counters by name; used are F (or nr_free_pages) and free_order/N.  Raises UsageError when the free
        memory is unknown or the guest does not fit into it.
        """
        notes = []
        free = values.get("F", values.get("nr_free_pages"))
        if free is None:
            raise UsageError(f"{source} does not say how much memory is free: it needs zoneinfo or vmstat")
        if "F" not in values:
            notes.append("pages on per-CPU lists are unknown without zoneinfo: free memory is that of vmstat")
        if guest_pages > free:
            raise UsageError(
                f"a guest of {guest_pages} pages does not fit the host of {source}, which has {free} pages free: give"
                " a smaller --memory"
            )
        windows, rest = guest_pages // WINDOW_PAGES, free - guest_pages
        whole = whole_blocks(values)
        if whole is None:
            notes.append(
                "free 2 MiB blocks are unknown without buddyinfo: assumed is that the guest found as many as it wanted"
            )
            whole = free // WINDOW_PAGES
        whole = min(whole, free // WINDOW_PAGES)
        blocks = min(max(0, whole - windows), rest // WINDOW_PAGES)
        for kind in ("Unmovable", "Movable"):
            if f"free/{kind}" not in values:
                notes.append(f"free {kind} pages are unknown (pagetypeinfo missing, or a list above 100000 entries)")
        if pcp_pages is None:
            notes.append("the size of per-CPU lists is unknown: that of a synthetic host is used")
        known = cls(f"host of {source}", rest, blocks, min(whole, windows), notes=tuple(notes))
        return known if pcp_pages is None else replace(known, pcp_pages=pcp_pages)


def whole_blocks(values: Mapping[str, int]) -> int | None:
    """Free 2 MiB blocks in free blocks of order 9 and above; None when the sample has no row of them."""
    found = [name for name in values if name.startswith("free_order/") and int(name.partition("/")[2]) >= WINDOW_ORDER]
    if not found:
        return None
    return sum(values[name] << (int(name.partition("/")[2]) - WINDOW_ORDER) for name in found)
