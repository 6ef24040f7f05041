# SPDX-License-Identifier: GPL-2.0-only
"""Design inplace-thp: both sides are the guest_memfd, private windows in large folios, shared pages in 4 KiB.

A conversion to shared splits the folio where it is, one that completes a private window puts the same pages together
again.  No page is allocated, freed or moved by either; memory is given up by whole windows only.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model import pages
from harness.model.aligned import Blocks, full_groups, spread
from harness.model.context import Context, Design, Outcome
from harness.model.events import Event
from harness.model.folio_events import folio_collapsed, folio_split, folio_split_refused
from harness.model.inplace import SHARED_SIDE, changed_by, refused_unmapped, set_attributes
from harness.model.mapping import zap
from harness.model.references import unpin
from harness.model.state import RegionState
from harness.model.thp import allocate_single, empty_windows, fault, whole_folios
from harness.model.truncate import punch
from harness.scenario.steps import Side


def allocate(context: Context, region: RegionState, wanted: int) -> Outcome:
    """An empty window gets one folio; it is split at once where some of the window is shared."""
    order = context.design.order
    windows = empty_windows(context, region, wanted)
    if not windows:
        return allocate_single(context, region, wanted)
    covered = spread(windows, order)
    whole = windows & full_groups(region.attr_private & covered, order)
    mixed = windows & ~whole
    grown = replace(
        region,
        private=region.private | covered,
        private_folios=region.private_folios.add(order, whole),
        private_apart=region.private_apart.add(order, mixed),
    )
    text = f"{{n}} new folio{{s}} of order {order} {{are}} split at once: a part of the window is shared"
    events = whole_folios(context, windows)
    events += context.event(folio_split(order), mixed.bit_count(), "split-in-place", text)
    rest = allocate_single(context, grown, wanted)
    return Outcome(rest.region, events + rest.events)


SPLIT_REFUSED = "a folio of {where} that the conversion has to split is held by a reference: it stays as it is"


def convert(context: Context, region: RegionState, piece: int, to: Side) -> Outcome:
    """Split before pages become shared, collapse after the last page of a window became private.

    A split comes after the leaves of the range went, so that they are gone also where it fails.
    """
    if not changed_by(region, piece, to):
        return Outcome(region)
    refused = refused_unmapped(context, region, piece, to)
    if refused:
        return refused
    if to is Side.PRIVATE:
        stored = set_attributes(context, region, piece, to)
        merged, events = collapse(context, stored.region, piece)
        return Outcome(merged, stored.events + events)
    folios = region.private_folios.touching(piece)
    stuck = folios.touching(region.private_held).covered() & piece
    if stuck:
        first = pages.first(stuck)
        text = f"somebody holds a reference on the folio of page {first} of {{where}}, which cannot be split"
        zapped = zap(context, region, piece, Side.PRIVATE, "the conversion that fails to split a folio")
        events = context.event(folio_split_refused(context.design.order), 1, "split-failed", SPLIT_REFUSED)
        refused_split = context.refuse("EAGAIN", "convert", first, "references", text)
        return Outcome(zapped.region, zapped.events + events, refused_split)
    apart, events = split(context, region, folios)
    stored = set_attributes(context, apart, piece, to)
    return Outcome(stored.region, events + stored.events)


def split(context: Context, region: RegionState, folios: Blocks) -> tuple[RegionState, tuple[Event, ...]]:
    """Large folios become order-0 folios on the same pages."""
    events: tuple[Event, ...] = ()
    apart = region.private_apart.join(folios)
    for order, starts in folios:
        text = f"{{n}} folio{{s}} of order {order} in {{where}} {{are}} split in place: no page is freed or moved"
        events += context.event(folio_split(order), starts.bit_count(), "split-in-place", text)
    return replace(region, private_folios=region.private_folios.without(folios), private_apart=apart), events


def collapse(context: Context, region: RegionState, piece: int) -> tuple[RegionState, tuple[Event, ...]]:
    """Windows of which every page is private again, present and unheld become one folio on the same pages."""
    found = region.private_apart.touching(piece)
    whole = found.inside(region.attr_private & region.private)
    whole = whole.without(whole.touching(region.private_held))
    if not whole:
        return region, ()
    events: tuple[Event, ...] = ()
    for order, starts in whole:
        text = f"{{n}} window{{s}} of order {order} {{are}} all private again with {{where}}: one folio, the same pages"
        events += context.event(folio_collapsed(order), starts.bit_count(), "collapse", text)
    dirty = whole.touching(region.private_dirty).covered()
    return (
        replace(
            region,
            private_folios=region.private_folios.join(whole),
            private_apart=region.private_apart.without(whole),
            private_dirty=region.private_dirty | dirty,
        ),
        events,
    )


def inplace_thp(order: int, name: str, *, refuses: bool) -> Design:
    """The design with folios of ``2**order`` pages; ``refuses``: a partial truncation is an error."""
    partial = "refused with EINVAL" if refuses else "without effect"
    return Design(
        name,
        f"both sides in folios of order {order}, split and put together in place; partial truncation is {partial}",
        (0, order),
        allocate=allocate,
        fault=fault,
        punch=punch,
        convert=convert,
        unpin=unpin,
        shared_side=SHARED_SIDE,
        refuses_partial=refuses,
        attributes_in_file=True,
    )
