# SPDX-License-Identifier: GPL-2.0-only
"""Anonymous memory of QEMU with MADV_HUGEPAGE, its default for RAM: a touch of an empty 2 MiB window takes it whole.

Sources: mm/huge_memory.c (do_huge_pmd_anonymous_page, do_huge_zero_wp_pmd, zap_huge_pmd, __split_huge_pmd_locked),
mm/rmap.c:__folio_remove_rmap; measured for touch, partial and whole discard.  khugepaged is taken to be off
(khugepaged/defrag 0): it would put a window together again behind the scenario's back.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model import gather, pages, shared
from harness.model.aligned import PMD_ORDER, full_groups, size_name, spread
from harness.model.context import Backing, Context, Outcome
from harness.model.events import PAGE_IN_PASSING, SHARED_ALLOCATED, SHARED_FREED, TABLE_ALLOCATED, TABLE_FREED, Event
from harness.model.mapping import map_shared, zap
from harness.model.shared_events import (
    ANON_PMD_UNMAPPED,
    ANON_THP_FAULTED,
    ANON_THP_GONE,
    ANON_THP_QUEUED,
    ANON_THP_SPLIT,
    ANON_THP_UNQUEUED,
    HUGE_ZERO_MAPPED,
    KEPT_FREED,
    PMD_SPLIT,
    SHARED_UNMAPPED,
    THP_FALLBACK,
    split_failed,
)
from harness.model.shared_leaves import map_huge_zero
from harness.model.state import RegionState, chunks_of, window_starts
from harness.scenario.steps import Side

THP_PAGES = 1 << PMD_ORDER

MTHP = tuple(
    f"mthp/{size_name(PMD_ORDER)}/{name}"
    for name in ("anon_fault_*", "nr_anon", "nr_anon_partially_mapped", "split", "split_*")
)
LEAVES = ("kvm/*/pages_2m", "nr_sec_page_table_pages")


def _windows(where: int) -> int:
    """First pages of the 2 MiB windows that ``where`` touches."""
    return pages.groups(where, PMD_ORDER)


def _without_table(region: RegionState, touched: int) -> int:
    """First pages of the touched windows for which QEMU has no page table: their PMD is none."""
    return _windows(touched) & ~window_starts(region.tables)


def _with_tables(context: Context, region: RegionState, windows: int, why: str) -> Outcome:
    """A page table for each of ``windows``; under a huge mapping it is deposited for the day of a split."""
    text = "{n} page table{s} of QEMU for {where}, " + why + ", {are} allocated"
    return Outcome(
        replace(region, tables=region.tables | chunks_of(windows)),
        context.event(TABLE_ALLOCATED, windows.bit_count(), "page-table", text),
    )


def _huge(context: Context, region: RegionState, windows: int) -> Outcome:
    """A huge folio for each of ``windows``, in which nothing is present, mapped by one entry."""
    covered = spread(windows, PMD_ORDER)
    count = windows.bit_count()
    text = "{n} huge folio{s} {are} faulted for the first write to their windows in {where}"
    whole = f"{{n}} shared pages: each of {count} huge folios takes the whole of its window in {{where}}"
    return Outcome(
        replace(
            region,
            shared=region.shared | covered,
            shared_in_folio=region.shared_in_folio | covered,
            shared_folios=region.shared_folios.add(PMD_ORDER, windows),
            shared_huge=region.shared_huge.add(PMD_ORDER, windows),
        ),
        context.event(ANON_THP_FAULTED, count, "thp-fault", text)
        + context.event(SHARED_ALLOCATED, covered.bit_count(), "thp-fault", whole),
    )


def _fault_empty(context: Context, region: RegionState, written: int) -> Outcome:
    """Windows without a page table get a huge folio and a deposited table; where none is to be had, a table only."""
    empty = _without_table(region, written)
    if context.facts.thp_available:
        tables = _with_tables(context, region, empty, "deposited under huge mappings")
        huge = _huge(context, tables.region, empty)
        return Outcome(huge.region, tables.events + huge.events)
    text = "{n} huge folio{s} {are} not to be had for windows of {where}: the fault falls back to 4 KiB"
    fallback = context.event(THP_FALLBACK, empty.bit_count(), "thp-fallback", text)
    tables = _with_tables(context, region, empty, "absent")
    return Outcome(tables.region, fallback + tables.events)


def _fault_zero(context: Context, region: RegionState, written: int) -> Outcome:
    """A write under the huge zero folio replaces it by a huge folio (do_huge_zero_wp_pmd), or splits its mapping."""
    zero = region.zero_huge.touching(written)
    windows = zero.starts(PMD_ORDER)
    if not windows:
        return Outcome(region)
    why = "the notifier of the write to the huge zero folio"
    zapped = zap(context, region, spread(windows, PMD_ORDER), Side.SHARED, why)
    after = replace(zapped.region, zero_huge=region.zero_huge.without(zero))
    if context.facts.thp_available:
        huge = _huge(context, after, windows)
        return Outcome(huge.region, zapped.events + huge.events)
    count = windows.bit_count()
    events = context.event(THP_FALLBACK, count, "thp-fallback", "{n} huge folio{s} {are} not to be had for {where}")
    split = "{n} mapping{s} of the huge zero folio in {where} {are} split instead"
    return Outcome(after, zapped.events + events + context.event(PMD_SPLIT, count, "thp-split-pmd", split))


def _fault_small(context: Context, region: RegionState, written: int) -> Outcome:
    """Absent pages of windows with a page table of their own get order-0 pages, huge folio or not."""
    absent = written & ~region.shared
    text = "{n} absent shared page{s} of {where} {are} allocated as order-0, their window{s} being mapped by 4 KiB"
    return Outcome(
        replace(region, shared=region.shared | absent),
        context.event(SHARED_ALLOCATED, absent.bit_count(), "shared-write", text),
    )


def write(context: Context, region: RegionState, written: int) -> Outcome:
    """The first write to an empty window takes 512 pages; later ones find them, or fill holes page by page."""
    events: tuple[Event, ...] = ()
    for rule in (_fault_zero, _fault_empty, _fault_small):
        outcome = rule(context, region, written)
        region, events = outcome.region, events + outcome.events
    mapped = map_shared(context, region, written, region.shared_huge)
    return Outcome(mapped.region, events + mapped.events)


def read(context: Context, region: RegionState, wanted: int) -> Outcome:
    """An empty window gets the huge zero folio, read-only; with ``use_zero_page`` 0 it is faulted as for a write."""
    if not context.facts.use_zero_page:
        faulted = _fault_empty(context, region, wanted)
    else:
        empty = _without_table(region, wanted)
        tables = _with_tables(context, region, empty, "deposited under the huge zero folio")
        text = "{n} empty window{s} of {where} get the huge zero folio"
        faulted = Outcome(
            replace(tables.region, zero_huge=region.zero_huge.add(PMD_ORDER, empty)),
            tables.events + context.event(HUGE_ZERO_MAPPED, empty.bit_count(), "zero-page", text),
        )
    present = map_shared(context, faulted.region, wanted & faulted.region.shared, faulted.region.shared_huge)
    zero = map_huge_zero(context, present.region, wanted & ~faulted.region.shared)
    return Outcome(zero.region, faulted.events + present.events + zero.events)


def _split_mappings(context: Context, region: RegionState, gone: int) -> Outcome:
    """Huge mappings that the discard covers in part are split first; the split's notifier covers the whole window."""
    partly = region.shared_huge.touching(gone).without(region.shared_huge.inside(gone))
    zero = region.zero_huge.touching(gone).without(region.zero_huge.inside(gone))
    windows = partly.covered() | zero.covered()
    if not windows:
        return Outcome(region)
    zapped = zap(context, region, windows, Side.SHARED, "the notifier of the split of a huge mapping")
    folios, zeroes = partly.count(PMD_ORDER), zero.count(PMD_ORDER)
    text = "{n} huge mapping{s} over {where} {are} split: the discard covers a part"
    events = context.event(PMD_SPLIT, folios + zeroes, "thp-split-pmd", text)
    unmapped = "{n} huge folio{s} over {where} {are} mapped by 4 KiB entries from now on"
    events += context.event(ANON_PMD_UNMAPPED, folios, "thp-split-pmd", unmapped)
    return Outcome(
        replace(
            zapped.region,
            shared_huge=region.shared_huge.without(partly),
            zero_huge=region.zero_huge.without(zero),
        ),
        zapped.events + events,
    )


def _discard_huge(context: Context, region: RegionState, gone: int) -> Outcome:
    """Huge mappings that the discard covers go at once, and the deposited page tables with them."""
    huge, zero = region.shared_huge.inside(gone), region.zero_huge.inside(gone)
    count = huge.count(PMD_ORDER)
    tables = count + zero.count(PMD_ORDER)
    text = "{n} huge mapping{s} of {where} {are} discarded whole"
    events = context.event(ANON_PMD_UNMAPPED, count, "discard-shared", text)
    deposited = "{n} page table{s} deposited under huge mappings of {where} {are} freed"
    events += context.event(TABLE_FREED, tables, "page-table", deposited)
    region = replace(
        region,
        shared_huge=region.shared_huge.without(huge),
        zero_huge=region.zero_huge.without(zero),
        tables=region.tables & ~chunks_of(huge.covered() | zero.covered()),
    )
    unmapped = _unmap_folios(context, region, huge.covered())
    return Outcome(unmapped.region, events + unmapped.events)


def _discard_small(context: Context, region: RegionState, gone: int) -> Outcome:
    """4 KiB entries: order-0 pages are freed, pages of a huge folio are unmapped and stay as long as others remain."""
    in_folio = gone & region.shared_in_folio
    singles = gone & region.shared & ~in_folio
    held = singles & region.shared_held
    events = (
        *context.event(
            SHARED_FREED, (singles & ~held).bit_count(), "discard-shared", "{n} order-0 page{s} of {where} {are} freed"
        ),
        *context.event(
            SHARED_UNMAPPED, held.bit_count(), "references", "{n} pinned page{s} of {where} {are} unmapped and kept"
        ),
    )
    region = replace(
        region,
        shared=region.shared & ~singles,
        shared_held=region.shared_held & ~held,
        shared_parked=region.shared_parked.park_pages(held) if held else region.shared_parked,
    )
    unmapped = _unmap_folios(context, region, in_folio)
    return Outcome(unmapped.region, events + unmapped.events)


def _unmap_folios(context: Context, region: RegionState, gone: int) -> Outcome:
    """Pages of huge folios lose their mapping; a folio is freed with its last one, all 512 pages at once."""
    if not gone:
        return Outcome(region)
    touched = region.shared_folios.touching(gone).starts(PMD_ORDER)
    left = region.shared_in_folio & ~gone
    whole_before = full_groups(region.shared_in_folio & spread(touched, PMD_ORDER), PMD_ORDER)
    lost = region.shared_lost | gone & region.shared_held
    empty = touched & ~_windows(left)
    held = empty & _windows(lost)
    freed = empty & ~held
    frames = spread(freed, PMD_ORDER)
    events = (
        *context.event(
            SHARED_FREED,
            (frames & gone).bit_count(),
            "discard-shared",
            "{n} page{s} of {where} go{v} with the huge folio{s}",
        ),
        *context.event(
            SHARED_UNMAPPED,
            (gone & ~frames).bit_count(),
            "thp-partly-mapped",
            "{n} page{s} of huge folios in {where} {are} unmapped; a huge folio is freed with its last page only",
        ),
        *context.event(
            KEPT_FREED,
            (frames & ~gone).bit_count(),
            "thp-partly-mapped",
            "{n} page{s} unmapped earlier {are} freed now that nothing maps the huge folios in {where}",
        ),
        *context.event(
            ANON_THP_QUEUED,
            (touched & whole_before & ~empty).bit_count(),
            "thp-partly-mapped",
            "{n} huge folio{s} in {where} {are} queued for a deferred split, which memory pressure may do",
        ),
        *context.event(
            ANON_THP_UNQUEUED,
            (freed & ~whole_before).bit_count(),
            "thp-partly-mapped",
            "{n} huge folio{s} in {where} leave{v} the queue of deferred splits",
        ),
        *context.event(ANON_THP_GONE, freed.bit_count(), "discard-shared", "{n} huge folio{s} of {where} {are} freed"),
    )
    parked = region.shared_parked
    for start, _ in pages.runs(held):
        references = lost & pages.span(start, THP_PAGES)
        parked = parked.park_folio(PMD_ORDER, start, references, queued=not whole_before >> start & 1)
    after = replace(
        region,
        shared=region.shared & ~gone,
        shared_in_folio=left,
        shared_folios=region.shared_folios.remove(PMD_ORDER, empty),
        shared_held=region.shared_held & ~gone,
        shared_lost=lost & ~spread(empty, PMD_ORDER),
        shared_parked=parked,
    )
    return Outcome(after, events)


def discard(context: Context, region: RegionState, gone: int) -> Outcome:
    """madvise(DONTNEED): what it covers in part is split at the level of the mapping and keeps its memory."""
    zapped = zap(context, region, gone, Side.SHARED, "the notifier of madvise(DONTNEED)")
    split = _split_mappings(context, zapped.region, gone)
    listed = context.event(
        PAGE_IN_PASSING,
        _listed(split.region, gone),
        "gather",
        "madvise(DONTNEED) of {where} lists what it frees in {n} page{s} of its own",
    )
    huge = _discard_huge(context, split.region, gone)
    small = _discard_small(context, huge.region, gone)
    tables = shared.free_tables(context, small.region, gone)
    after = replace(tables.region, shared_patterns=region.shared_patterns.clear(gone))
    return Outcome(after, zapped.events + split.events + huge.events + small.events + listed + tables.events)


def _listed(region: RegionState, gone: int) -> int:
    """Pages that the lists of the discard take, a list per call: a call is a run of ``gone``."""
    huge = region.shared_huge.inside(gone)
    singles = region.shared & ~region.shared_in_folio | huge.starts(PMD_ORDER)
    in_folio = region.shared_in_folio & ~huge.covered()
    calls = (pages.span(start, count) for start, count in pages.runs(gone))
    return sum(
        gather.list_pages(gather.entries(call & singles, call & in_folio, region.shared_folios)) for call in calls
    )


def unpin(context: Context, region: RegionState, where: int) -> Outcome:
    """References are dropped: a folio that nothing maps any more is freed with its last one."""
    before, dropped = region.shared_parked, shared.unpin(context, region, where)
    after = dropped.region.shared_parked
    folios, queued = len(before.folios) - len(after.folios), before.queued() - after.queued()
    events = (
        *dropped.events,
        *context.event(ANON_THP_UNQUEUED, queued, "references", "{n} huge folio{s} of {where} leave{v} the queue of splits"),
        *context.event(ANON_THP_GONE, folios, "references", "{n} huge folio{s} of {where} {are} freed"),
    )
    return Outcome(dropped.region, events)


def shrink(context: Context, region: RegionState, where: int) -> Outcome:
    """Memory pressure, or dropping slabs, runs the deferred splits (huge_memory.c:deferred_split_scan).

    A partly mapped folio without unexpected references is split to order 0: pages that nothing maps are freed, and so
    are mapped ones that hold zeroes only: the zero page takes their place (migrate.c:try_to_map_unused_to_zeropage).
    """
    folios = region.shared_folios.touching(where)
    queued = folios.without(folios.inside(region.shared_in_folio))
    held = queued.touching(region.shared_held & region.shared_in_folio | region.shared_lost)
    split = queued.without(held)
    refused = "{n} huge folio{s} in {where} cannot be split: somebody holds a reference"
    events = context.event(split_failed(PMD_ORDER), held.count(PMD_ORDER), "references", refused)
    covered = split.covered()
    if not covered:
        return Outcome(region, events)
    zapped = zap(context, region, covered, Side.SHARED, "the notifier of the deferred split")
    mapped = covered & region.shared_in_folio
    zeroes = sum(held for generation, held in region.shared_patterns.within(mapped) if generation is None)
    count = split.count(PMD_ORDER)
    events += (
        *zapped.events,
        *context.event(
            ANON_THP_SPLIT, count, "thp-deferred-split", "{n} partly mapped huge folio{s} in {where} {are} split"
        ),
        *context.event(
            ANON_THP_UNQUEUED, count, "thp-deferred-split", "{n} huge folio{s} in {where} leave{v} the queue of splits"
        ),
        *context.event(
            KEPT_FREED,
            (covered & ~mapped).bit_count(),
            "thp-deferred-split",
            "{n} page{s} of split folios in {where}, which nothing mapped, {are} freed",
        ),
        *context.event(
            SHARED_FREED,
            zeroes.bit_count(),
            "thp-deferred-split",
            "{n} page{s} of split folios in {where} that hold{v} zeroes {are} replaced by the zero page",
        ),
    )
    return Outcome(
        replace(
            zapped.region,
            shared=region.shared & ~zeroes,
            shared_in_folio=region.shared_in_folio & ~covered,
            shared_folios=region.shared_folios.without(split),
        ),
        events,
    )


ANON_THP = Backing(
    "anon-thp",
    (0, PMD_ORDER),
    write=write,
    read=read,
    discard=discard,
    moves=("thp_fault_*", "thp_split_*", "thp_deferred_split_page", "nr_anon_transparent_hugepages", *MTHP, *LEAVES),
    says="anonymous memory with huge pages",
    shrink=shrink,
    unpin=unpin,
)
"""QEMU's private anonymous RAM with MADV_HUGEPAGE, share=off; THP ``always`` or ``madvise``."""
