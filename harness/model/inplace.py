# SPDX-License-Identifier: GPL-2.0-only
"""Design inplace, the 7.4 candidate: both sides are the guest_memfd, in 4 KiB; a conversion moves no page.

Private or shared is a property of the file's index, set by KVM_SET_MEMORY_ATTRIBUTES2 on the guest_memfd, all or
nothing per call.  KVM neither copies nor zeroes, so that contents stay where no encryption changes them.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model import pages
from harness.model.context import Backing, Context, Design, Outcome, chain, keep
from harness.model.events import ATTRIBUTES_STORED, Event
from harness.model.mapping import map_shared, zap
from harness.model.references import leave, unpin
from harness.model.state import Patterns, RegionState
from harness.model.thp import allocate, fault, make_dirty
from harness.scenario.steps import Side


def fault_shared(context: Context, region: RegionState, touched: int) -> Outcome:
    """A guest access to shared pages: the memory slot knows the guest_memfd only, so that reads allocate too."""
    return chain(context, region, touched, context.design.allocate, make_dirty, map_shared)


SHARED_SIDE = Backing("guest_memfd", (0,), write=fault_shared, read=fault_shared, discard=keep)
"""Shared pages of the guest_memfd itself, always of 4 KiB."""


def punch(context: Context, region: RegionState, gone: int) -> Outcome:
    """Frees what is present, on whichever side it is; attributes stay."""
    events: tuple[Event, ...] = ()
    for side in (Side.PRIVATE, Side.SHARED):
        zapped = zap(context, region, gone, side, "the hole punch of the guest_memfd")
        region, events = zapped.region, events + zapped.events
    left = leave(context, region, gone & region.private)
    after = replace(
        left.region,
        private_patterns=region.private_patterns.clear(gone),
        shared_patterns=region.shared_patterns.clear(gone),
    )
    return Outcome(after, events + left.events)


def convert(context: Context, region: RegionState, piece: int, to: Side) -> Outcome:
    """One ioctl: nothing where the range is uniform already; EAGAIN at the first page that somebody holds."""
    if not changed_by(region, piece, to):
        return Outcome(region)
    return refused_unmapped(context, region, piece, to) or set_attributes(context, region, piece, to)


def changed_by(region: RegionState, piece: int, to: Side) -> int:
    """Pages of the piece that change sides."""
    return region.on_side(piece, to.other)


def refused_for_references(context: Context, region: RegionState, piece: int, to: Side) -> Outcome | None:
    """To private needs every page of the range unused by others; to shared cannot fail."""
    held = region.private_held & region.private & piece
    if to is Side.SHARED or not held:
        return None
    first = pages.first(held)
    text = "somebody holds a reference on " + f"page {first} of {{where}}: nothing of the range is converted"
    return Outcome(region, refused=context.refuse("EAGAIN", "convert", first, "references", text))


def refused_unmapped(context: Context, region: RegionState, piece: int, to: Side) -> Outcome | None:
    """The same, after the range was unmapped from user space: that runs KVM's notifier, and its leaves are gone.

    virt/kvm/guest_memfd.c: unmap_mapping_pages() comes before the search for references; QEMU maps all of the file.
    """
    refused = refused_for_references(context, region, piece, to)
    if refused is None:
        return None
    zapped = zap(context, region, piece, Side.SHARED, "the conversion that is refused unmaps its range from user space")
    return Outcome(zapped.region, zapped.events, refused.refused)


def set_attributes(context: Context, region: RegionState, piece: int, to: Side) -> Outcome:
    """The side changes, leaves of the range go, the pages and what is in them stay."""
    zapped = zap(context, region, piece, to.other, f"attributes change to {to.value}")
    to_private, to_shared = (piece, 0) if to is Side.PRIVATE else (0, piece)
    after = replace(
        zapped.region,
        attr_private=region.attr_private & ~to_shared | to_private,
        private_patterns=_moved(region.private_patterns, region.shared_patterns, to_private, to_shared),
        shared_patterns=_moved(region.shared_patterns, region.private_patterns, to_shared, to_private),
    )
    text = "the attributes of {where} are stored in the guest_memfd: its pages stay where they are"
    return Outcome(after, zapped.events + context.event(ATTRIBUTES_STORED, 1, "convert-in-place", text))


def _moved(own: Patterns, other: Patterns, arrive: int, depart: int) -> Patterns:
    """Patterns of one side after pages arrive with what they held on the other, and others depart."""
    return own.clear(depart).join(other.within(arrive))


INPLACE = Design(
    "inplace",
    "guest_memfd holds both sides in 4 KiB folios; a conversion moves no page and no content",
    (0,),
    allocate=allocate,
    fault=fault,
    punch=punch,
    convert=convert,
    unpin=unpin,
    shared_side=SHARED_SIDE,
    attributes_in_file=True,
)
