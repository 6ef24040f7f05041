# SPDX-License-Identifier: GPL-2.0-only
"""Shared backings.  So far: anonymous memory of QEMU in 4 KiB pages (transparent huge pages off)."""

from __future__ import annotations

from dataclasses import replace

from harness.model import pages, physics
from harness.model.context import Backing, Context, Outcome, keep
from harness.model.events import PAGE_IN_PASSING, SHARED_ALLOCATED, SHARED_FREED, TABLE_ALLOCATED, TABLE_FREED, Event
from harness.model.mapping import map_shared, map_zero, zap
from harness.model.migrating import migrate
from harness.model.shared_events import KEPT_FREED, SHARED_UNMAPPED
from harness.model.state import RegionState, chunks_of, whole_chunks
from harness.scenario.steps import Side


def need_tables(context: Context, region: RegionState, faulted: int) -> Outcome:
    """Page tables of QEMU that a fault on ``faulted`` needs and that are not there."""
    new = chunks_of(faulted) & ~region.tables
    text = "{n} page table{s} of QEMU for {where}, absent since a discard, {are} allocated"
    return Outcome(
        replace(region, tables=region.tables | new),
        context.event(TABLE_ALLOCATED, new.bit_count(), "page-table", text),
    )


def write(context: Context, region: RegionState, written: int) -> Outcome:
    """Absent pages are allocated by KVM's write fault through QEMU's page table (get_user_pages)."""
    absent = written & ~region.shared
    tables = need_tables(context, region, absent)
    text = "{n} absent shared page{s} of {where} {are} allocated in QEMU's anonymous memory"
    events = tables.events + context.event(SHARED_ALLOCATED, absent.bit_count(), "shared-write", text)
    mapped = map_shared(context, replace(tables.region, shared=region.shared | written), written)
    return Outcome(mapped.region, events + mapped.events)


def read(context: Context, region: RegionState, wanted: int) -> Outcome:
    """Present pages are mapped writable, absent ones read-only to the zero page (memory.c:do_anonymous_page)."""
    absent = wanted & ~region.shared
    tables = need_tables(context, region, absent)
    present = map_shared(context, tables.region, wanted & region.shared)
    zero = map_zero(context, present.region, absent)
    return Outcome(zero.region, tables.events + present.events + zero.events)


def discard(context: Context, region: RegionState, gone: int) -> Outcome:
    """madvise(DONTNEED), one call per run of the range, present or not: its notifier invalidates the range too."""
    zapped = zap(context, region, gone, Side.SHARED, "the notifier of madvise(DONTNEED)")
    present = gone & region.shared
    held = present & region.shared_held
    passing = sum(
        physics.gather_pages((pages.span(start, count) & present).bit_count()) for start, count in pages.runs(gone)
    )
    events: tuple[Event, ...] = (
        *context.event(
            SHARED_FREED,
            (present & ~held).bit_count(),
            "discard-shared",
            "{n} present shared page{s} of {where} {are} discarded",
        ),
        *context.event(
            SHARED_UNMAPPED, held.bit_count(), "references", "{n} pinned page{s} of {where} {are} unmapped and kept"
        ),
        *context.event(
            PAGE_IN_PASSING,
            passing,
            "gather",
            "madvise(DONTNEED) of {where} lists what it frees in {n} page{s} of its own",
        ),
    )
    freed = free_tables(context, zapped.region, gone)
    after = replace(
        freed.region,
        shared=region.shared & ~gone,
        shared_held=region.shared_held & ~held,
        shared_parked=region.shared_parked.park_pages(held) if held else region.shared_parked,
        shared_patterns=region.shared_patterns.clear(gone),
    )
    return Outcome(after, zapped.events + events + freed.events)


def free_tables(context: Context, region: RegionState, gone: int) -> Outcome:
    """Page tables that madvise(DONTNEED) of ``gone`` covers wholly, and thereby empties, go with CONFIG_PT_RECLAIM."""
    whole = whole_chunks(gone) & region.tables if context.facts.pt_reclaim else 0
    return Outcome(
        replace(region, tables=region.tables & ~whole),
        context.event(
            TABLE_FREED, whole.bit_count(), "page-table", "{n} page table{s} of QEMU, emptied in {where}, {are} freed"
        )
        + context.event(
            PAGE_IN_PASSING,
            physics.TABLE_BATCH_PAGES if whole else 0,
            "page-table",
            "the page tables freed in {where} travel to their RCU callback in {n} page{s}",
        ),
    )


nothing_to_split = keep
"""A request to split passes over order-0 pages (huge_memory.c:split_huge_pages_pid)."""


def unpin(context: Context, region: RegionState, where: int) -> Outcome:
    """References are dropped: what nothing else kept is freed."""
    parked, singles, folios = region.shared_parked.release(where)
    frames = singles + sum(1 << order for order in folios)
    text = "{n} page{s} of {where} that nothing but references kept {are} freed"
    return Outcome(
        replace(
            region,
            shared_held=region.shared_held & ~where,
            shared_lost=region.shared_lost & ~where,
            shared_parked=parked,
        ),
        context.event(KEPT_FREED, frames, "references", text),
    )


ANON_4K = Backing(
    "anon-4k", (0,), write=write, read=read, discard=discard, unpin=unpin, migrate=migrate, split=nothing_to_split
)
"""QEMU's private anonymous RAM, 4 KiB pages, share=off."""
