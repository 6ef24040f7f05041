# SPDX-License-Identifier: GPL-2.0-only
"""KVM's leaves over a shared side that QEMU's own page table may map by huge entries.

KVM maps as large as the host does and as the attributes allow: a window of 2 MiB or 1 GiB gets one leaf when QEMU's
page table maps it by one entry and every page in it is shared (arch/x86/kvm/mmu/mmu.c:host_pfn_mapping_level,
kvm_mmu_max_mapping_level; a mixed window has disallow_lpage set).
"""

from __future__ import annotations

from dataclasses import replace

from harness.model import pages
from harness.model.aligned import NO_BLOCKS, Blocks, full_groups, spread
from harness.model.context import Context, Outcome
from harness.model.events import LEAF_ZAPPED, Event
from harness.model.mapping import map_shared, map_zero, zap
from harness.model.shared_events import PMD_ORDER, PUD_ORDER, leaf_installed, leaf_zapped, size_name
from harness.model.state import RegionState
from harness.scenario.steps import Side

LEAF_ORDERS = (PUD_ORDER, PMD_ORDER)
"""Leaves above 4 KiB, largest first."""


def largest_leaves(region: RegionState, touched: int, host: Blocks) -> Blocks:
    """The leaves above 4 KiB by which KVM maps what of ``touched`` lies in ``host``."""
    found = NO_BLOCKS
    for order in LEAF_ORDERS:
        within = 0
        for host_order, starts in host.touching(touched):
            if host_order >= order:
                within |= spread(starts, host_order)
        wanted = pages.groups(touched & within & ~found.covered(), order)
        uniform = full_groups(spread(wanted, order) & ~region.attr_private, order)
        if wanted & uniform:
            found = found.add(order, wanted & uniform)
    return found


def _install(context: Context, mapped: Blocks, leaves: Blocks, what: str) -> tuple[Blocks, tuple[Event, ...]]:
    """``leaves`` join those ``mapped``."""
    events: tuple[Event, ...] = ()
    for order, starts in leaves:
        new = starts & ~mapped.starts(order)
        text = f"KVM maps {what} in {{where}} by {{n}} leaf entr{{y}} of {size_name(order)}".replace(
            "{y}", "ies" if new.bit_count() != 1 else "y"
        )
        events += context.event(leaf_installed(order), new.bit_count(), "fault", text)
        mapped = mapped.add(order, starts)
    return mapped, events


def map_host(context: Context, region: RegionState, touched: int, host: Blocks) -> Outcome:
    """Writable leaves to present pages of which ``host`` are mapped by huge entries of QEMU's page table.

    4 KiB leaves in a window that gets a larger one go (mmu/tdp_mmu.c:handle_removed_pt).
    """
    fault = touched & ~region.leaf_shared & ~region.leaf_shared_large.covered()
    leaves = largest_leaves(region, fault, host)
    under = leaves.covered()
    small = (region.leaf_shared | region.leaf_zero) & under
    text = "{n} mapping{s} of 4 KiB in {where} make{v} room for larger ones"
    events = context.event(LEAF_ZAPPED, small.bit_count(), "fault", text)
    large, installed = _install(context, region.leaf_shared_large, leaves, "shared huge folios")
    region = replace(
        region,
        leaf_shared=region.leaf_shared & ~under,
        leaf_zero=region.leaf_zero & ~under,
        leaf_shared_large=large,
    )
    rest = map_shared(context, region, fault & ~under)
    return Outcome(rest.region, events + installed + rest.events)


def map_huge_zero(context: Context, region: RegionState, touched: int) -> Outcome:
    """Read-only leaves to the zero page, 2 MiB where QEMU's page table has the huge zero folio."""
    fault = touched & ~region.leaf_zero & ~region.leaf_zero_large.covered()
    leaves = largest_leaves(region, fault, region.zero_huge)
    under = leaves.covered()
    small = region.leaf_zero & under
    text = "{n} read-only mapping{s} of 4 KiB in {where} make{v} room for larger ones"
    events = context.event(LEAF_ZAPPED, small.bit_count(), "zero-page", text)
    large, installed = _install(context, region.leaf_zero_large, leaves, "the huge zero folio, read-only,")
    region = replace(region, leaf_zero=region.leaf_zero & ~under, leaf_zero_large=large)
    rest = map_zero(context, region, fault & ~under)
    return Outcome(rest.region, events + installed + rest.events)


def zap_shared(context: Context, region: RegionState, where: int, why: str) -> Outcome:
    """An invalidation of the shared side of ``where``: leaves that touch it go whole, 4 KiB leaves as ``zap`` says."""
    shared, shared_events = _zap_large(context, region.leaf_shared_large, where, why)
    zero, zero_events = _zap_large(context, region.leaf_zero_large, where, why)
    rest = zap(context, replace(region, leaf_shared_large=shared, leaf_zero_large=zero), where, Side.SHARED, why)
    return Outcome(rest.region, shared_events + zero_events + rest.events)


def _zap_large(context: Context, leaves: Blocks, where: int, why: str) -> tuple[Blocks, tuple[Event, ...]]:
    events: tuple[Event, ...] = ()
    gone = leaves.touching(where)
    for order, starts in gone:
        text = f"{why}: {{n}} mapping{{s}} of {size_name(order)} over {{where}} {{are}} zapped whole"
        events += context.event(leaf_zapped(order), starts.bit_count(), "zap", text)
    return leaves.without(gone), events
