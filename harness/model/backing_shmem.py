# SPDX-License-Identifier: GPL-2.0-only
"""Guest RAM in a memfd (memory-backend-memfd, share=on): shmem in 4 KiB pages, or huge with shmem_enabled=always.

Sources: mm/shmem.c (shmem_get_folio_gfp, shmem_undo_range), mm/memory.c (do_read_fault, do_shared_fault,
finish_fault, do_set_pmd), QEMU's ram_block_discard_range: a hole punch of the file, then madvise(DONTNEED).  Huge
folios also need QEMU's mapping aligned to 2 MiB, which its memfd backend does not see to by itself.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model import gather, pages
from harness.model.aligned import PMD_ORDER, size_name, spread
from harness.model.context import Backing, Context, Outcome
from harness.model.events import PAGE_IN_PASSING
from harness.model.facts import HostFacts
from harness.model.mapping import map_shared, zap
from harness.model.migrating import migrate
from harness.model.shared import free_tables, need_tables, unpin
from harness.model.shared_events import (
    FILE_ALLOCATED,
    FILE_MAPPED,
    FILE_UNMAPPED,
    PMD_SPLIT,
    SHMEM_PMD_MAPPED,
    SHMEM_PMD_UNMAPPED,
    SHMEM_THP_ALLOCATED,
    SHMEM_THP_FALLBACK,
    file_split,
)
from harness.model.shmem_truncate import truncate
from harness.model.state import RegionState, window_starts
from harness.scenario.steps import Side

FAULT_AROUND_ORDER = 4
"""A read fault maps what is present of its aligned 64 KiB too (mm/memory.c: fault_around_pages = 16)."""


def _allocate(context: Context, region: RegionState, touched: int) -> Outcome:
    """Absent pages, read or written: a huge folio if the window has no page yet, else an order-0 one."""
    absent = touched & ~region.shared
    empty = 0
    if context.backing.folio_orders[-1] == PMD_ORDER:
        empty = pages.groups(absent, PMD_ORDER) & ~pages.groups(region.shared, PMD_ORDER)
    windows = empty if context.facts.thp_available else 0
    large = spread(windows, PMD_ORDER)
    small = absent & ~large
    events = (
        *context.event(
            SHMEM_THP_ALLOCATED,
            windows.bit_count(),
            "shmem-huge",
            "{n} empty window{s} of the memfd touched in {where} get{v} a huge folio",
        ),
        *context.event(
            FILE_ALLOCATED, large.bit_count(), "shmem-huge", "{n} pages of huge folios for {where} enter the page cache"
        ),
        *context.event(
            SHMEM_THP_FALLBACK,
            (empty & ~windows).bit_count(),
            "shmem-huge",
            "{n} huge folio{s} for {where} {are} not to be had",
        ),
        *context.event(
            FILE_ALLOCATED,
            small.bit_count(),
            "shared-write",
            "{n} absent shared page{s} of {where} enter{v} the page cache of the memfd as order-0 folio{s}",
        ),
    )
    folios = region.shared_folios.add(PMD_ORDER, windows) if windows else region.shared_folios
    after = replace(
        region,
        shared=region.shared | absent | large,
        shared_folios=folios,
        shared_in_folio=region.shared_in_folio | large,
    )
    return Outcome(after, events)


def _map_huge(context: Context, region: RegionState, faulted: int) -> Outcome:
    """Huge folios of windows without a page table are mapped by one entry; the table taken in advance goes back."""
    bare = pages.groups(faulted, PMD_ORDER) & ~window_starts(region.tables)
    windows = bare & region.shared_folios.starts(PMD_ORDER)
    covered = spread(windows, PMD_ORDER)
    count = windows.bit_count()
    text = "{n} huge folio{s} of the memfd {are} mapped by one entry for {where}"
    events = (
        *context.event(SHMEM_PMD_MAPPED, count, "shmem-huge", text),
        *context.event(
            FILE_MAPPED, covered.bit_count(), "shmem-huge", "{n} pages of huge folios in {where} are mapped"
        ),
        *context.event(
            PAGE_IN_PASSING, count, "shmem-huge", "{n} page table{s} taken in advance for {where} {are} not needed"
        ),
    )
    huge = region.shared_huge.add(PMD_ORDER, windows) if windows else region.shared_huge
    return Outcome(replace(region, shared_mapped=region.shared_mapped | covered, shared_huge=huge), events)


def _reach(context: Context, before: RegionState, after: RegionState, faulted: int, *, write: bool) -> int:
    """What 4 KiB entries the faults on ``faulted`` make, of the pages present ``before`` and ``after`` allocation.

    A fault that finds its page absent, and every write, maps the whole folio if nothing of it is mapped yet
    (memory.c:finish_fault).  A read looks around first: the present pages of its 64 KiB, and all of the folios that
    reach into it (filemap.c:filemap_map_pages, filemap_map_folio_range).
    """
    own = faulted if write else faulted & ~before.shared
    folios = after.shared_folios.touching(own)
    reached = faulted | folios.without(folios.touching(after.shared_mapped)).covered()
    if not write:
        around = spread(pages.groups(faulted, FAULT_AROUND_ORDER), FAULT_AROUND_ORDER)
        reached |= around & before.shared
        if context.facts.whole_folio_around:
            reached |= before.shared_folios.touching(around).covered()
    return reached & ~after.shared_mapped


def _touch(context: Context, region: RegionState, touched: int, *, write: bool) -> Outcome:
    """Allocation, QEMU's mapping, KVM's mapping.  Reading allocates too, and every mapping is writable."""
    allocated = _allocate(context, region, touched)
    huge = _map_huge(context, allocated.region, touched & ~region.shared_mapped)
    faulted = touched & ~huge.region.shared_mapped
    mapped = _reach(context, region, huge.region, faulted, write=write) if faulted else 0
    tables = need_tables(context, huge.region, faulted)
    text = "{n} page{s} of the memfd in or around {where} {are} mapped into QEMU"
    events = tables.events + context.event(FILE_MAPPED, mapped.bit_count(), "memfd-map", text)
    after = replace(tables.region, shared_mapped=tables.region.shared_mapped | mapped)
    leaves = map_shared(context, after, touched, after.shared_huge)
    return Outcome(leaves.region, allocated.events + huge.events + events + leaves.events)


def write(context: Context, region: RegionState, written: int) -> Outcome:
    """Absent pages enter the page cache of the memfd."""
    return _touch(context, region, written, write=True)


def read(context: Context, region: RegionState, wanted: int) -> Outcome:
    """Absent pages enter the page cache of the memfd as for a write: shmem knows no zero page."""
    return _touch(context, region, wanted, write=False)


def _unmap(context: Context, region: RegionState, gone: int) -> Outcome:
    """unmap_mapping_range before the truncation.  A huge mapping that is hit in part goes whole: no entries follow.

    huge_memory.c:__split_huge_pmd_locked, the branch for what is not anonymous.
    """
    why = "the notifier of the hole punch of the memfd"
    zapped = zap(context, region, gone, Side.SHARED, why)
    hit = region.shared_huge.touching(gone)
    partly = hit.without(hit.inside(gone))
    split = zap(context, zapped.region, partly.covered(), Side.SHARED, "the notifier of the split of a huge mapping")
    unmapped = (gone | hit.covered()) & region.shared_mapped
    calls = (pages.span(start, count) & region.shared_mapped & ~hit.covered() for start, count in pages.runs(gone))
    listed = sum(
        gather.list_pages(
            gather.entries(call & ~region.shared_in_folio, call & region.shared_in_folio, region.shared_folios)
        )
        for call in calls
    )
    parts = partly.count(PMD_ORDER)
    events = (
        *context.event(PMD_SPLIT, parts, "thp-split-pmd", "{n} huge mapping{s} hit in part by {where} {are} dropped"),
        *context.event(
            SHMEM_PMD_UNMAPPED, hit.count(PMD_ORDER), "shmem-huge", "{n} huge mapping{s} over {where} {are} gone"
        ),
        *context.event(
            FILE_UNMAPPED, unmapped.bit_count(), "memfd-punch", "{n} mapped page{s} in or around {where} {are} unmapped"
        ),
        *context.event(PAGE_IN_PASSING, listed, "gather", "unmapping {where} lists pages in {n} page{s} of its own"),
    )
    after = replace(
        split.region, shared_mapped=region.shared_mapped & ~unmapped, shared_huge=region.shared_huge.without(hit)
    )
    return Outcome(after, zapped.events + split.events + events)


def punch(context: Context, region: RegionState, gone: int) -> Outcome:
    """fallocate(PUNCH_HOLE) of the memfd: unmapped, then truncated, folios at the edges of the hole split first."""
    outcome = _unmap(context, region, gone)
    region, events = outcome.region, outcome.events
    for start, count in pages.runs(gone):
        truncated = truncate(context, region, start, start + count)
        region, events = truncated.region, events + truncated.events
    return Outcome(replace(region, shared_patterns=region.shared_patterns.clear(gone)), events)


def discard(context: Context, region: RegionState, gone: int) -> Outcome:
    """QEMU punches the file and then calls madvise(DONTNEED), which finds nothing but perhaps a page table."""
    punched = punch(context, region, gone)
    zapped = zap(context, punched.region, gone, Side.SHARED, "the notifier of madvise(DONTNEED)")
    tables = free_tables(context, zapped.region, gone)
    return Outcome(tables.region, punched.events + zapped.events + tables.events)


def split(context: Context, region: RegionState, where: int) -> Outcome:
    """Large folios that QEMU maps in the range are split to order 0; held ones are passed over without a count.

    All of a folio is unmapped before and not mapped again (huge_memory.c:unmap_folio, remap_page).
    """
    folios = region.shared_folios.touching(where & region.shared_mapped)
    folios = folios.without(folios.touching(region.shared_held))
    covered = folios.covered()
    if not covered:
        return Outcome(region)
    zapped = zap(context, region, covered, Side.SHARED, "the notifier of the split")
    huge = region.shared_huge.inside(covered)
    unmapped = covered & region.shared_mapped
    count = huge.count(PMD_ORDER)
    events = (
        *zapped.events,
        *context.event(PMD_SPLIT, count, "split-asked", "{n} huge mapping{s} over {where} {are} dropped for the split"),
        *context.event(SHMEM_PMD_UNMAPPED, count, "split-asked", "{n} huge mapping{s} over {where} {are} gone"),
        *context.event(
            FILE_UNMAPPED, unmapped.bit_count(), "split-asked", "{n} page{s} of folios in {where} {are} unmapped"
        ),
    )
    for order, starts in folios:
        text = f"{{n}} folio{{s}} of order {order} in {{where}} {{are}} split to order 0"
        events += context.event(file_split(order), starts.bit_count(), "split-asked", text)
    return Outcome(
        replace(
            zapped.region,
            shared_mapped=region.shared_mapped & ~covered,
            shared_huge=region.shared_huge.without(huge),
            shared_folios=region.shared_folios.without(folios),
            shared_in_folio=region.shared_in_folio & ~covered,
        ),
        events,
    )


FILE_COUNTERS = ("nr_file_pages", "nr_shmem", "nr_mapped")
HUGE_COUNTERS = (
    "thp_file_*", "thp_split_*", "nr_shmem_hugepages", "nr_shmem_pmdmapped",
    "kvm/*/pages_2m", "nr_sec_page_table_pages",
    *(f"mthp/{size_name(order)}/{name}" for order in range(1, PMD_ORDER + 1) for name in ("split", "split_failed")),
    f"mthp/{size_name(PMD_ORDER)}/shmem_alloc", f"mthp/{size_name(PMD_ORDER)}/shmem_fallback",
)  # fmt: skip

MEMFD_4K = Backing(
    "memfd-4k",
    (0,),
    write=write,
    read=read,
    discard=discard,
    file_backed=True,
    moves=FILE_COUNTERS,
    says="a memfd in 4 KiB pages",
    unpin=unpin,
    migrate=migrate,
    split=split,
)
"""memory-backend-memfd with shmem_enabled=never, the default."""


def without_tables(facts: HostFacts, region: RegionState) -> RegionState:
    """A window that QEMU maps by one entry never had a page table of its own."""
    del facts
    return replace(region, tables=0)


SHMEM_THP = replace(
    MEMFD_4K,
    name="shmem-thp",
    says="a memfd with huge pages",
    folio_orders=(0, PMD_ORDER),
    moves=(*FILE_COUNTERS, *HUGE_COUNTERS),
    prepared=without_tables,
)
"""memory-backend-memfd with shmem_enabled=always and a mapping aligned to 2 MiB."""
