# SPDX-License-Identifier: GPL-2.0-only
"""Anonymous memory of QEMU with MADV_HUGEPAGE, its default for RAM: a touch of an empty 2 MiB window takes it whole.

Faults, and the record; ``anon_thp_discard.py`` takes it away again.  Sources: mm/huge_memory.c
(do_huge_pmd_anonymous_page, do_huge_zero_wp_pmd); measured.  khugepaged is taken not to scan
(khugepaged/scan_sleep_millisecs at its most): it would put a window together again behind the scenario's back.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model import pages
from harness.model.aligned import PMD_ORDER, size_name, spread
from harness.model.anon_thp_discard import discard, unpin
from harness.model.anon_thp_split import shrink, split
from harness.model.context import Backing, Context, Outcome
from harness.model.events import SHARED_ALLOCATED, TABLE_ALLOCATED, Event
from harness.model.facts import HostFacts
from harness.model.mapping import map_shared, zap
from harness.model.migrating import migrate
from harness.model.shared_events import (
    ANON_THP_FAULTED,
    HUGE_ZERO_MAPPED,
    PMD_SPLIT,
    THP_FALLBACK,
)
from harness.model.shared_leaves import map_huge_zero
from harness.model.state import RegionState, chunks_of, window_starts
from harness.scenario.steps import Side

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
    """A write under the huge zero folio replaces it by a huge folio, or splits its mapping: 6.12, or none to be had."""
    zero = region.zero_huge.touching(written)
    windows = zero.starts(PMD_ORDER)
    if not windows:
        return Outcome(region)
    why = "the notifier of the write to the huge zero folio"
    zapped = zap(context, region, spread(windows, PMD_ORDER), Side.SHARED, why)
    after = replace(zapped.region, zero_huge=region.zero_huge.without(zero))
    facts, count = context.facts, windows.bit_count()
    if facts.huge_zero_replaced and facts.thp_available:
        huge = _huge(context, after, windows)
        return Outcome(huge.region, zapped.events + huge.events)
    text = "{n} huge folio{s} {are} not to be had for {where}"
    fallback = context.event(THP_FALLBACK, count if facts.huge_zero_replaced else 0, "thp-fallback", text)
    split = "{n} mapping{s} of the huge zero folio in {where} {are} split for the write"
    return Outcome(after, zapped.events + fallback + context.event(PMD_SPLIT, count, "thp-split-pmd", split))


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


def without_tables(facts: HostFacts, region: RegionState) -> RegionState:
    """A huge mapping that goes whole takes its deposited page table along, whatever the kernel does with empty ones."""
    del facts
    return replace(region, tables=0)


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
    migrate=migrate,
    split=split,
    prepared=without_tables,
)
"""QEMU's private anonymous RAM with MADV_HUGEPAGE, share=off; THP ``always`` or ``madvise``."""
