# SPDX-License-Identifier: GPL-2.0-only
"""What happens to anonymous huge pages when they are discarded: mappings split, folios stay until nothing maps them.

mm/huge_memory.c (zap_huge_pmd, __split_huge_pmd_locked, deferred_split_scan), mm/rmap.c:__folio_remove_rmap; measured.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model import gather, pages, shared
from harness.model.aligned import PMD_ORDER, full_groups, spread
from harness.model.context import Context, Outcome
from harness.model.events import PAGE_IN_PASSING, SHARED_FREED, TABLE_FREED
from harness.model.mapping import zap
from harness.model.shared_events import (
    ANON_PMD_UNMAPPED,
    ANON_THP_GONE,
    ANON_THP_QUEUED,
    ANON_THP_UNQUEUED,
    KEPT_FREED,
    PMD_SPLIT,
    SHARED_UNMAPPED,
)
from harness.model.state import RegionState, chunks_of
from harness.scenario.steps import Side

THP_PAGES = 1 << PMD_ORDER


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
    empty = touched & ~pages.groups(left, PMD_ORDER)
    held = empty & pages.groups(lost, PMD_ORDER)
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
        *context.event(
            ANON_THP_UNQUEUED, queued, "references", "{n} huge folio{s} of {where} leave{v} the queue of splits"
        ),
        *context.event(ANON_THP_GONE, folios, "references", "{n} huge folio{s} of {where} {are} freed"),
    )
    return Outcome(dropped.region, events)
