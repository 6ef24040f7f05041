# SPDX-License-Identifier: GPL-2.0-only
"""Design order0, Linux 6.8 to 7.3: guest_memfd in 4 KiB folios, conversion by discarding the other side.

virt/kvm/guest_memfd.c:kvm_gmem_get_folio, kvm_gmem_allocate, kvm_gmem_punch_hole; QEMU's kvm_convert_memory.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model.context import Context, Design, Outcome, chain
from harness.model.events import PRIVATE_ALLOCATED
from harness.model.mapping import map_private, zap
from harness.model.references import leave, unpin
from harness.model.state import RegionState
from harness.scenario.steps import Side


def allocate(context: Context, region: RegionState, wanted: int) -> Outcome:
    """Every absent page becomes one order-0 folio, zeroed at its first use; present ones stay."""
    absent = wanted & ~region.private
    text = "{n} absent private page{s} of {where} enter{v} the page cache of the guest_memfd as order-0 folio{s}"
    return Outcome(
        replace(region, private=region.private | absent),
        context.event(PRIVATE_ALLOCATED, absent.bit_count(), "allocate", text),
    )


def fault(context: Context, region: RegionState, touched: int) -> Outcome:
    """A guest access, read or write alike, allocates what is absent and maps it."""
    return chain(context, region, touched, allocate, map_private)


def punch(context: Context, region: RegionState, gone: int) -> Outcome:
    """Leaves of the whole range are zapped, present pages freed; holes cost nothing and it cannot fail."""
    zapped = zap(context, region, gone, Side.PRIVATE, "the hole punch of the guest_memfd")
    present = gone & region.private
    left = leave(context, zapped.region, present)
    after = replace(left.region, private_patterns=region.private_patterns.clear(gone))
    return Outcome(after, zapped.events + left.events)


def convert_by_discard(context: Context, region: RegionState, piece: int, to: Side) -> Outcome:
    """KVM sets the attributes, then QEMU discards the other side of the whole piece, whatever KVM had to do.

    kvm_main.c:kvm_vm_set_mem_attributes returns early, without a zap, when the whole piece has the attribute already.
    """
    attr = region.attr_private | piece if to is Side.PRIVATE else region.attr_private & ~piece
    changed = attr ^ region.attr_private
    zapped = Outcome(region)
    if changed:
        why = f"attributes change to {to.value}"
        zapped = zap(context, region, piece, to.other, why)
    discard = context.backing.discard if to is Side.PRIVATE else context.design.punch
    after = discard(context, replace(zapped.region, attr_private=attr), piece)
    return Outcome(after.region, zapped.events + after.events, after.refused)


ORDER0 = Design(
    "order0",
    "guest_memfd in 4 KiB folios; a conversion discards the other side",
    (0,),
    allocate=allocate,
    fault=fault,
    punch=punch,
    convert=convert_by_discard,
    unpin=unpin,
)
