# SPDX-License-Identifier: GPL-2.0-only
"""Which freed frames come back: bounds by CPU placement alone (claim C2), and the count on known frames.

A page freed goes to the head of a list of the CPU that frees it, and the next allocation on *that* CPU takes the head:
reuse is certain.  Another CPU has lists of its own and sees nothing of it until the first CPU gives pages back, because
its list overflowed or was drained: none is reused before, and which ones are after depends on positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from harness.model.allocator.claims import CLAIM_PAGES
from harness.model.allocator.interval import Interval
from harness.model.allocator.machine import HIGHUSER, Gfp, Machine
from harness.model.allocator.migratetype import Migratetype
from harness.model.allocator.pcp import PcpLimits


class What(Enum):
    """What happens to order-0 Unmovable pages on a CPU."""

    NOTHING = 0
    FREE = 1
    ALLOC = 2
    DRAIN = 3
    """The CPU's lists give everything back (drain_all_pages, or enough stat_refresh with a cap of 0)."""


@dataclass(frozen=True)
class CpuStep:
    """``pages`` pages freed or allocated on ``cpu``, one after the other."""

    what: What
    cpu: int
    pages: int = 0


@dataclass
class _List:
    """One CPU's lists of the zone as far as they are known.

    ``mine``: pages on top of the list that are freed frames for certain; ``most``: freed frames on it at all.  No more
    than ``base`` pages were on its lists before, of whatever kind; ``own`` bounds those that came since.
    """

    base: int
    own: int = 0
    mine: int = 0
    most: int = 0


@dataclass
class _Freed:
    """Freed frames that were not allocated again, bounded; those on the free lists."""

    least: int = 0
    most: int = 0
    outside: int = 0
    """On the free lists, at most."""
    allocated: bool = False
    """Whether an allocation has happened, so that what a claim left over may be free too."""


def reuse(
    steps: Sequence[CpuStep],
    limits: PcpLimits,
    before: Mapping[int, int] | None = None,
    *,
    spare: int | None = None,
) -> list[Interval]:
    """For each ALLOC of ``steps``, how many of its frames are frames that an earlier FREE of ``steps`` gave up.

    ``before``: pages on each CPU's lists at the start (``count`` in zoneinfo), 0 where absent: drained.  ``spare``:
    free Unmovable pages of the zone that no step freed, per-CPU lists included, at most; None when unknown.  Nobody
    else uses the lists meanwhile: the host is quiet.  Order 0 only, all pages in Unmovable pageblocks of one zone, and
    whole free blocks to claim last.
    """
    lists: dict[int, _List] = {}
    freed = _Freed()
    answers = []
    for step in steps:
        cpu = lists.setdefault(step.cpu, _List((before or {}).get(step.cpu, 0)))
        if step.what is What.FREE:
            freed.outside += _put(cpu, step.pages, limits)
            freed.least += step.pages
            freed.most += step.pages
        elif step.what is What.DRAIN:
            freed.outside = min(freed.outside + cpu.most, freed.most)
            lists[step.cpu] = _List(0)
        elif step.what is What.ALLOC:
            elsewhere = sum(other.most for other in lists.values() if other is not cpu)
            unfreed = None
            if spare is not None:
                unfreed = spare + (CLAIM_PAGES + limits.largest_refill * len(lists) if freed.allocated else 0)
            answer = _take(cpu, step, freed, elsewhere, unfreed)
            answers.append(answer)
            _after(cpu, step.pages, freed.outside, limits)
            freed.least = max(0, freed.least - answer.high)
            freed.most -= answer.low
            freed.outside = min(freed.outside, freed.most)
            freed.allocated = True
    return answers


def _put(cpu: _List, pages: int, limits: PcpLimits) -> int:
    """Frees onto a CPU's list; returns the most freed frames that overflowed to the free lists."""
    gone = cpu.most + pages
    count = cpu.base + cpu.own + pages
    if count < limits.high_min:
        cpu.own += pages
        cpu.mine += pages
        cpu.most += pages
        return 0
    # Overflow leaves at least a batch on the CPU's lists and takes the oldest of this list first; pages of other lists,
    # no more than were there before, may be part of what is left (nr_pcp_free, free_pcppages_bulk).
    kept = max(0, limits.batch - cpu.base) if limits.high_min >= limits.batch > 1 else 0
    cpu.mine = min(cpu.mine + pages, kept)
    cpu.own = max(cpu.own, limits.high_max - cpu.base, 0)
    cpu.most = min(gone, cpu.base + cpu.own)
    return gone - cpu.mine


def _take(cpu: _List, step: CpuStep, freed: _Freed, elsewhere: int, unfreed: int | None) -> Interval:
    """Reuse by one ALLOC; ``elsewhere``: most freed frames on other CPUs' lists, ``unfreed``: most other free pages."""
    here = f"CPU {step.cpu} allocates {step.pages}"
    if step.pages <= cpu.mine:
        return Interval.exactly(step.pages, f"{here}: the {cpu.mine} pages it freed last are on top of its own list")
    most = min(step.pages, cpu.most + freed.outside, freed.most)
    if not most:
        waiting = f"; up to {elsewhere} wait on other CPUs' lists" if elsewhere else ""
        return Interval.exactly(0, f"{here}: no freed page is on its own list or on the free lists{waiting}")
    least = cpu.mine
    text = f"{here}: {cpu.mine} freed pages are surely on top of its list, up to {freed.outside} on the free lists"
    if unfreed is not None:
        # A refill claims only when the free lists have no Unmovable page left, and hands out what it found before.
        least = max(least, min(freed.least - elsewhere, step.pages - unfreed))
        text += f"; no more than {unfreed} other pages can come before a claim"
    return Interval(min(least, most), most, text)


def _after(cpu: _List, pages: int, outside: int, limits: PcpLimits) -> None:
    """A CPU's list after an ALLOC."""
    if pages <= cpu.mine:
        cpu.mine -= pages
        cpu.most -= pages
        cpu.own -= pages
        return
    # Either the list was longer than known, or it was emptied and refilled, perhaps with freed frames.
    cpu.most = max(cpu.most - cpu.mine, min(outside, limits.largest_refill))
    cpu.mine = 0
    cpu.own = max(cpu.own - pages, limits.largest_refill)


def observe(
    machine: Machine, steps: Sequence[CpuStep], held: Sequence[int], gfp: Gfp = HIGHUSER
) -> tuple[list[int], list[int]]:
    """The same steps on known frames: (reuse of each ALLOC, frames held at the end); exact.

    ``held``: frames held at the start, freed from the front.
    """
    owned = list(held)
    freed: set[int] = set()
    counts = []
    for step in steps:
        if step.what is What.FREE:
            going, owned = owned[: step.pages], owned[step.pages :]
            for pfn in going:
                machine.free(pfn, 0, step.cpu)
            freed.update(going)
        elif step.what is What.DRAIN:
            machine.drain(step.cpu)
        elif step.what is What.ALLOC:
            got = [machine.alloc(0, Migratetype.UNMOVABLE, step.cpu, gfp) for _ in range(step.pages)]
            found = [pfn for pfn in got if pfn is not None]
            counts.append(len(freed.intersection(found)))
            owned.extend(found)
    return counts, owned
