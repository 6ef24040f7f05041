# SPDX-License-Identifier: GPL-2.0-only
"""Design thp-discard: guest_memfd in large folios where it can, conversion by discarding the other side.

An access to an empty, aligned window of the file brings one folio for the whole window, whatever the attributes of its
pages.  A hole in a part of a folio splits it, and the rest never becomes one again: only a window that is empty gets a
large folio.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model import pages as sets
from harness.model.aligned import spread
from harness.model.context import Context, Design, Outcome, chain
from harness.model.events import PRIVATE_ALLOCATED, Event, private_allocated
from harness.model.folio_events import folio_added, folio_split, folio_split_refused
from harness.model.mapping import map_private, zap
from harness.model.order0 import convert_by_discard
from harness.model.references import leave, unpin
from harness.model.splitting import Cut, cut
from harness.model.state import RegionState
from harness.scenario.steps import CHUNK_PAGES, Side


def empty_windows(context: Context, region: RegionState, wanted: int) -> int:
    """First pages of the windows that an access to ``wanted`` fills with one folio each.

    None of a window's pages is present and all of it lies in the region; and the host has a block of that order.
    """
    order = context.design.order
    if not order or not context.facts.large_folios:
        return 0
    inside = sets.span(0, region.chunks * CHUNK_PAGES >> order << order)
    touched = sets.groups(wanted & inside, order)
    return touched & ~sets.groups(region.private, order) if touched else 0


def allocate(context: Context, region: RegionState, wanted: int) -> Outcome:
    """An absent page of an empty window brings the window's folio, any other absent page one order-0 folio."""
    order = context.design.order
    windows = empty_windows(context, region, wanted)
    if not windows:
        return allocate_single(context, region, wanted)
    grown = replace(
        region,
        private=region.private | spread(windows, order),
        private_folios=region.private_folios.add(order, windows),
    )
    rest = allocate_single(context, grown, wanted)
    return Outcome(rest.region, whole_folios(context, windows) + rest.events)


def whole_folios(context: Context, windows: int) -> tuple[Event, ...]:
    """One folio of the design's order for each of ``windows``."""
    order, count = context.design.order, windows.bit_count()
    text = f"{count} empty window{'s' if count != 1 else ''} of {{where}} filled by a folio of order {order} each:"
    added = f"{{n}} folio{{s}} of order {order} enter{{v}} the page cache"
    return context.event(
        private_allocated(order), count << order, "large-folio", text + " {n} pages enter the page cache"
    ) + context.event(folio_added(order), count, "large-folio", added)


def allocate_single(context: Context, region: RegionState, wanted: int) -> Outcome:
    """Each absent page becomes one order-0 folio."""
    absent = wanted & ~region.private
    text = "{n} absent page{s} of {where} enter{v} the page cache of the guest_memfd as order-0 folio{s}"
    return Outcome(
        replace(region, private=region.private | absent),
        context.event(PRIVATE_ALLOCATED, absent.bit_count(), "allocate", text),
    )


def make_dirty(context: Context, region: RegionState, touched: int) -> Outcome:
    """A fault of the guest, read or write alike, marks the folio dirty: private memory is mapped writable.

    mmu.c:kvm_mmu_faultin_pfn_gmem (map_writable), kvm_main.c:kvm_release_page_dirty.
    """
    del context
    folios = touched & region.private | region.private_folios.touching(touched).covered()
    return Outcome(replace(region, private_dirty=region.private_dirty | folios))


def fault(context: Context, region: RegionState, touched: int) -> Outcome:
    """A guest access allocates what is absent and maps it, as large as folio and attributes allow."""
    return chain(context, region, touched, context.design.allocate, make_dirty, map_private)


def punch(context: Context, region: RegionState, gone: int) -> Outcome:
    """Leaves of the range are zapped, whole folios freed, and folios that straddle an edge are split first.

    One truncation per run of ``gone``.  It returns 0 also where a split failed.
    """
    zapped = zap(context, region, gone, Side.PRIVATE, "the hole punch of the guest_memfd")
    region, events = zapped.region, zapped.events
    for start, count in sets.runs(gone):
        truncated = truncate(context, region, start, start + count)
        region, events = truncated.region, events + truncated.events
    return Outcome(region, events)


def truncate(context: Context, region: RegionState, start: int, end: int) -> Outcome:
    """One truncation of pages ``start`` to ``end - 1``: splits, then what leaves the page cache."""
    done = cut(
        region.private_folios,
        start,
        end,
        dirty=region.private_dirty,
        held=_held_folios(region),
        uniform=context.facts.uniform_split,
    )
    removed = done.removed & region.private
    left = leave(context, replace(region, private_folios=done.folios), removed)
    after = replace(left.region, private_patterns=region.private_patterns.clear(removed))
    return Outcome(after, split_events(context, done) + left.events)


def _held_folios(region: RegionState) -> int:
    """All pages of the large folios that somebody holds."""
    return region.private_folios.touching(region.private_held).covered() if region.private_held else 0


def split_events(context: Context, done: Cut) -> tuple[Event, ...]:
    """The splits of one truncation, made and refused."""
    events: tuple[Event, ...] = ()
    for order in done.splits:
        shape = "to order-0 folios" if context.facts.uniform_split else "in halves around the edge of the hole"
        text = f"the hole {{where}} cuts a folio of order {order}, which is split {shape}"
        events += context.event(folio_split(order), 1, "split", text)
    for order in done.refused:
        text = f"a folio of order {order} that the hole {{where}} cuts is held by a reference and cannot be split"
        events += context.event(folio_split_refused(order), 1, "split-failed", text)
    return events


def thp_discard(order: int, name: str) -> Design:
    """The design with folios of ``2**order`` pages."""
    return Design(
        name,
        f"guest_memfd in folios of order {order} where a window is empty; a conversion discards the other side",
        (0, order),
        allocate=allocate,
        fault=fault,
        punch=punch,
        convert=convert_by_discard,
        unpin=unpin,
    )
