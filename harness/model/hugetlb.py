# SPDX-License-Identifier: GPL-2.0-only
"""Design hugetlb: both sides are a guest_memfd that takes its memory from a hugetlb pool, reserved when it is made.

Read in the development branch of 2026, not run.  Huge pages come whole, are given up whole, and are split to 4 KiB
folios while some of their pages are shared.  Where the pool has given up the pages of its page structures (HVO), a
split takes them back from the host and a merge returns them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from harness.errors import UsageError
from harness.model import pages as sets
from harness.model.aligned import Blocks, full_groups, size_name, spread
from harness.model.context import Backing, Context, Design, Outcome, chain, keep
from harness.model.events import Event, EventKind
from harness.model.inplace import changed_by, refused_for_references, set_attributes
from harness.model.mapping import map_private, map_shared, zap
from harness.model.references import unpin
from harness.model.state import RegionState
from harness.model.thp import make_dirty
from harness.scenario.steps import CHUNK_PAGES, Side

STRUCT_PAGE = 64
"""Bytes of the kernel's structure for a page; HVO keeps one page of them per huge page (mm/hugetlb_vmemmap.c)."""

POOL_PAGE_ADDED = EventKind("page of a hugetlb pool enters the guest_memfd", {"gmem/{guest}": +1})
POOL_PAGE_REMOVED = EventKind("page of a hugetlb pool leaves the guest_memfd", {"gmem/{guest}": -1})
VMEMMAP_ALLOCATED = EventKind(
    # mm/hugetlb_vmemmap.c:alloc_vmemmap_page_list; counted as nr_memmap_pages, which no balance of ours knows
    "page of page structures allocated",
    {"F": -1, "pgalloc": +1, "unaccounted": +1},
    demand="Unmovable",
)
VMEMMAP_FREED = EventKind(
    # mm/hugetlb_vmemmap.c:free_vmemmap_page_list
    "page of page structures freed",
    {"F": +1, "pgfree": +1, "unaccounted": -1},
    demand="Unmovable",
)


@cache
def taken_from_pool(order: int) -> EventKind:
    """A huge page comes into use, out of the file's reservation; never a surplus page."""
    pool = f"hugetlb/{size_name(order)}"
    moves = {"nr_hugetlb": 1 << order, f"{pool}/free_hugepages": -1, f"{pool}/resv_hugepages": -1}
    return EventKind(f"hugetlb page of {size_name(order)} taken by a guest_memfd", moves)


@cache
def returned_to_pool(order: int) -> EventKind:
    """A huge page is free again, and reserved again: the reservation is the file's, as long as it lives."""
    moves = {counter: -by for counter, by in taken_from_pool(order).moves.items()}
    return EventKind(f"hugetlb page of {size_name(order)} given back by a guest_memfd", moves)


def vmemmap_pages(design: Design) -> int:
    """Pages of page structures that a split takes and a merge returns: 7 for 2 MiB, 4095 for 1 GiB with HVO."""
    return (STRUCT_PAGE << design.order) // 4096 - 1 if design.vmemmap_optimised else 0


def allocate(context: Context, region: RegionState, wanted: int) -> Outcome:
    """Each touched window takes a huge page; it is split at once where some of the window is shared."""
    order = context.design.order
    absent = sets.groups(wanted & ~region.private, order)
    if not absent:
        return Outcome(region)
    covered = spread(absent, order)
    if covered.bit_length() > region.chunks * CHUNK_PAGES:
        raise UsageError(
            f"design {context.design.name} takes memory by {1 << order} pages: region {context.region} of"
            f" {region.chunks} chunks of {CHUNK_PAGES} has no whole window there"
        )
    whole = full_groups(region.attr_private & covered, order)
    grown = replace(
        region,
        private=region.private | covered,
        private_folios=region.private_folios.add(order, whole),
        private_apart=region.private_apart.add(order, absent & ~whole),
    )
    text = f"{{n}} page{{s}} of order {order} for {{where}} come{{v}} from the pool, out of the reservation of the file"
    present = "{n} pages of {where} are present in the guest_memfd; no LRU list and no count of file pages knows them"
    events = (
        *context.event(taken_from_pool(order), absent.bit_count(), "pool", text),
        *context.event(POOL_PAGE_ADDED, covered.bit_count(), "pool", present),
        *_vmemmap(context, (absent & ~whole).bit_count(), VMEMMAP_ALLOCATED),
    )
    return Outcome(grown, events)


def _vmemmap(context: Context, huge_pages: int, kind: EventKind) -> tuple[Event, ...]:
    verb = "taken for" if kind is VMEMMAP_ALLOCATED else "returned by"
    what = "split" if kind is VMEMMAP_ALLOCATED else "put together again"
    text = f"{{n}} page{{s}} of page structures {verb} {huge_pages} huge page(s) that are {what} in {{where}}"
    return context.event(kind, huge_pages * vmemmap_pages(context.design), "vmemmap", text)


def fault(context: Context, region: RegionState, touched: int) -> Outcome:
    """A guest access to private pages; a whole private window is mapped by one leaf."""
    return chain(context, region, touched, allocate, make_dirty, map_private)


def fault_shared(context: Context, region: RegionState, touched: int) -> Outcome:
    """A guest access to shared pages."""
    return chain(context, region, touched, allocate, make_dirty, map_shared)


POOL_SIDE = Backing("guest_memfd", (0,), write=fault_shared, read=fault_shared, discard=keep)
"""Shared pages of the guest_memfd itself: 4 KiB folios, pieces of huge pages."""


def fallocate(context: Context, region: RegionState, wanted: int) -> Outcome:
    """As an access, but offset and length have to be multiples of the huge page."""
    return _unaligned(context, region, wanted, "allocate") or allocate(context, region, wanted)


def punch(context: Context, region: RegionState, gone: int) -> Outcome:
    """Huge pages go back to the pool, merged first; EAGAIN, and nothing done, where somebody holds a page of them."""
    unaligned = _unaligned(context, region, gone, "punch")
    if unaligned:
        return unaligned
    present = gone & region.private
    held = present & region.private_held
    if held:
        first = sets.first(held)
        text = f"somebody holds a reference on page {first} of {{where}}: no huge page is given back"
        return Outcome(region, refused=context.refuse("EAGAIN", "punch", first, "references", text))
    events: tuple[Event, ...] = ()
    for side in (Side.PRIVATE, Side.SHARED):
        zapped = zap(context, region, gone, side, "the hole punch of the guest_memfd")
        region, events = zapped.region, events + zapped.events
    apart, order = region.private_apart.touching(present), context.design.order
    text = f"{{n}} page{{s}} of order {order} in {{where}} go{{es}} back to the pool and {{are}} reserved again"
    left = "{n} page{s} of {where} leave{v} the guest_memfd"
    events += (
        *_vmemmap(context, apart.count(order), VMEMMAP_FREED),
        *context.event(returned_to_pool(order), present.bit_count() >> order, "pool", text),
        *context.event(POOL_PAGE_REMOVED, present.bit_count(), "pool", left),
    )
    after = replace(
        region,
        private=region.private & ~gone,
        private_folios=region.private_folios.without(region.private_folios.touching(gone)),
        private_apart=region.private_apart.without(apart),
        private_dirty=region.private_dirty & ~gone,
        private_patterns=region.private_patterns.clear(gone),
        shared_patterns=region.shared_patterns.clear(gone),
    )
    return Outcome(after, events)


def _unaligned(context: Context, region: RegionState, where: int, call: str) -> Outcome | None:
    """EINVAL for a range that is not made of whole huge pages."""
    order = context.design.order
    part = where & ~spread(full_groups(where, order), order)
    if not part:
        return None
    first = sets.first(part)
    text = f"{{where}} is not made of whole huge pages of {1 << order} pages"
    return Outcome(region, refused=context.refuse("EINVAL", call, first, "truncate-unit", text))


def convert(context: Context, region: RegionState, piece: int, to: Side) -> Outcome:
    """One huge page after the other: a refusal leaves those before it converted."""
    events: tuple[Event, ...] = ()
    order = context.design.order
    for start, count in sets.runs(sets.groups(piece, order)):
        assert count == 1, "windows of two pages and more never touch"
        done = _convert_window(context, region, piece & sets.span(start, 1 << order), to)
        region, events = done.region, events + done.events
        if done.refused:
            return Outcome(region, events, done.refused)
    return Outcome(region, events)


def _convert_window(context: Context, region: RegionState, part: int, to: Side) -> Outcome:
    """What lies in one huge page: split before it is shared, merged when all of it is private."""
    if not changed_by(region, part, to):
        return Outcome(region)
    refused = refused_for_references(context, region, part, to)
    if refused:
        return refused
    order = context.design.order
    if to is Side.PRIVATE:
        stored = set_attributes(context, region, part, to)
        merged = stored.region.private_apart.touching(part).inside(stored.region.attr_private)
        merged = merged.without(merged.touching(region.private_held))
        after = _rejoin(stored.region, merged)
        return Outcome(after, stored.events + _vmemmap(context, merged.count(order), VMEMMAP_FREED))
    whole = region.private_folios.touching(part)
    if whole.touching(region.private_held):
        first = sets.first(part)
        text = "somebody holds a page of the huge page of {where}: the kernel warns and spins until it is let go"
        return Outcome(region, refused=context.refuse("hang", "convert", first, "references", text))
    apart = replace(
        region,
        private_folios=region.private_folios.without(whole),
        private_apart=region.private_apart.join(whole),
    )
    stored = set_attributes(context, apart, part, to)
    return Outcome(stored.region, _vmemmap(context, whole.count(order), VMEMMAP_ALLOCATED) + stored.events)


def _rejoin(region: RegionState, merged: Blocks) -> RegionState:
    return replace(
        region,
        private_folios=region.private_folios.join(merged),
        private_apart=region.private_apart.without(merged),
    )


def hugetlb(order: int, name: str, *, optimised: bool) -> Design:
    """The design with huge pages of ``2**order`` pages; ``optimised``: HVO is on."""
    hvo = "on" if optimised else "off"
    return Design(
        name,
        f"both sides in hugetlb pages of order {order}, split while a part is shared; HVO {hvo}",
        (order,),
        allocate=fallocate,
        fault=fault,
        punch=punch,
        convert=convert,
        unpin=unpin,
        shared_side=POOL_SIDE,
        resident_counters=("nr_hugetlb",),
        vmemmap_optimised=optimised,
        attributes_in_file=True,
        moves=("nr_hugetlb", "hugetlb/*"),
    )
