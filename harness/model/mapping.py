# SPDX-License-Identifier: GPL-2.0-only
"""KVM's nested page table over a region: which leaves a fault installs and which an invalidation zaps.

Pages of a region never need a new page table here: all of them were touched before, and KVM zaps leaves only
(mmu/tdp_mmu.c:tdp_mmu_zap_leafs frees no table), so nr_sec_page_table_pages does not move.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model.context import Context, Outcome
from harness.model.events import LEAF_INSTALLED, LEAF_ZAPPED
from harness.model.state import RegionState
from harness.scenario.steps import Side


def map_private(context: Context, region: RegionState, pages: int) -> Outcome:
    """Leaves to the guest_memfd's pages; those that exist stay."""
    new = pages & ~region.leaf_private
    text = "KVM maps {n} private page{s} of {where} by 4 KiB leaves"
    return Outcome(
        replace(region, leaf_private=region.leaf_private | pages),
        context.event(LEAF_INSTALLED, new.bit_count(), "fault", text),
    )


def map_shared(context: Context, region: RegionState, pages: int) -> Outcome:
    """Writable leaves to the shared pages.

    A read-only leaf of the zero page is zapped when the page comes (mmu notifier of the copy) and the fault is taken
    again: one leaf less, one leaf more.
    """
    new = pages & ~region.leaf_shared
    replaced = new & region.leaf_zero
    return Outcome(
        replace(region, leaf_shared=region.leaf_shared | pages, leaf_zero=region.leaf_zero & ~pages),
        context.event(
            LEAF_ZAPPED,
            replaced.bit_count(),
            "zero-page",
            "{n} read-only mapping{s} of the zero page in {where} {are} zapped",
        )
        + context.event(
            LEAF_INSTALLED, new.bit_count(), "fault", "KVM maps {n} shared page{s} of {where} by 4 KiB leaves"
        ),
    )


def map_zero(context: Context, region: RegionState, pages: int) -> Outcome:
    """Read-only leaves to the kernel's zero page."""
    new = pages & ~region.leaf_zero
    text = "KVM maps {n} absent shared page{s} of {where} read-only to the zero page"
    return Outcome(
        replace(region, leaf_zero=region.leaf_zero | pages),
        context.event(LEAF_INSTALLED, new.bit_count(), "zero-page", text),
    )


def zap(context: Context, region: RegionState, pages: int, kind: Side, why: str) -> Outcome:
    """An invalidation of ``pages`` for leaves of ``kind``.

    The kind is honoured only where private and shared leaves live in trees of their own (TDX); everywhere else every
    leaf of the range goes (mmu/tdp_mmu.h:kvm_gfn_range_filter_to_root_types).
    """
    both = not context.facts.mirrored_tdp
    private = pages if both or kind is Side.PRIVATE else 0
    shared = pages if both or kind is Side.SHARED else 0
    after = replace(
        region,
        leaf_private=region.leaf_private & ~private,
        leaf_shared=region.leaf_shared & ~shared,
        leaf_zero=region.leaf_zero & ~shared,
    )
    gone = (region.mapped & ~after.mapped).bit_count()
    return Outcome(
        after, context.event(LEAF_ZAPPED, gone, "zap", f"{why}: {{n}} mapped page{{s}} of {{where}} {{are}} zapped")
    )
