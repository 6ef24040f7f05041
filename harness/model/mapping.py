# SPDX-License-Identifier: GPL-2.0-only
"""KVM's nested page table over a region: which leaves a fault installs and which an invalidation zaps.

Zaps remove leaves only (mmu/tdp_mmu.c:tdp_mmu_zap_leafs frees no table), so that pages which were mapped by 4 KiB
before never need a new table.  A large leaf takes the place of the table below it, and the next small one needs it
again: only then does nr_sec_page_table_pages move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.model import pages as sets
from harness.model.aligned import NO_BLOCKS, PMD_ORDER, PUD_ORDER, Blocks, full_groups, spread
from harness.model.context import Context, Outcome
from harness.model.events import LEAF_INSTALLED, LEAF_ZAPPED, Event
from harness.model.folio_events import NESTED_TABLE_FREED, NESTED_TABLE_LINKED, leaf_installed, leaf_zapped
from harness.model.state import RegionState
from harness.scenario.steps import Side

LARGE_LEAVES = (PUD_ORDER, PMD_ORDER)
"""Orders of leaves above 4 KiB, the largest first: a fault takes the largest that all conditions allow."""

SIZES = {PUD_ORDER: "1 GiB", PMD_ORDER: "2 MiB"}


def map_private(context: Context, region: RegionState, pages: int) -> Outcome:
    """Leaves to the guest_memfd's pages; those that exist stay.

    A fault maps as much as three things allow (mmu.c:kvm_mmu_max_mapping_level): the folio, the attributes, which must
    be the same in the whole window, and the memory slot, of which the region is a part.
    """
    large = _map_large(context, region, pages, Side.PRIVATE, region.private_folios)
    region = large.region
    new = pages & ~region.leaf_private & ~region.leaf_private_large.covered()
    tables = _link_tables(context, region, new, 0)
    text = "KVM maps {n} private page{s} of {where} by 4 KiB leaves"
    return Outcome(
        replace(tables.region, leaf_private=region.leaf_private | new),
        large.events + tables.events + context.event(LEAF_INSTALLED, new.bit_count(), "fault", text),
    )


def map_shared(context: Context, region: RegionState, pages: int, huge: Blocks = NO_BLOCKS) -> Outcome:
    """Writable leaves to the shared pages; ``huge``: blocks that the host's own page table maps by one entry.

    A read-only leaf of the zero page is zapped when the page comes (mmu notifier of the copy) and the fault is taken
    again: one leaf less, one leaf more.
    """
    large = _map_large(context, region, pages, Side.SHARED, huge)
    region = large.region
    new = pages & ~region.leaf_shared & ~region.leaf_shared_large.covered()
    replaced = new & region.leaf_zero
    zero = region.leaf_zero_large.touching(new)
    tables = _link_tables(context, region, new, 0)
    gone = "{n} read-only mapping{s} of the zero page in {where} {are} zapped"
    return Outcome(
        replace(
            tables.region,
            leaf_shared=region.leaf_shared | new,
            leaf_zero=region.leaf_zero & ~pages,
            leaf_zero_large=region.leaf_zero_large.without(zero),
        ),
        large.events
        + context.event(LEAF_ZAPPED, replaced.bit_count(), "zero-page", gone)
        + _zapped(context, zero, "zero-page", gone)
        + tables.events
        + context.event(
            LEAF_INSTALLED, new.bit_count(), "fault", "KVM maps {n} shared page{s} of {where} by 4 KiB leaves"
        ),
    )


def map_zero(context: Context, region: RegionState, pages: int) -> Outcome:
    """Read-only leaves to the kernel's zero page."""
    new = pages & ~region.leaf_zero
    text = "KVM maps {n} absent shared page{s} of {where} read-only to the zero page"
    tables = _link_tables(context, region, new, 0)
    return Outcome(
        replace(tables.region, leaf_zero=region.leaf_zero | pages),
        tables.events + context.event(LEAF_INSTALLED, new.bit_count(), "zero-page", text),
    )


def zap(context: Context, region: RegionState, pages: int, kind: Side, why: str) -> Outcome:
    """An invalidation of ``pages`` for leaves of ``kind``.  A large leaf that overlaps the range goes whole.

    The kind is honoured only where private and shared leaves live in trees of their own (TDX); everywhere else every
    leaf of the range goes (mmu/tdp_mmu.h:kvm_gfn_range_filter_to_root_types).
    """
    both = not context.facts.mirrored_tdp
    private = pages if both or kind is Side.PRIVATE else 0
    shared = pages if both or kind is Side.SHARED else 0
    large = [
        region.leaf_private_large.touching(private),
        region.leaf_shared_large.touching(shared),
        region.leaf_zero_large.touching(shared),
    ]
    after = replace(
        region,
        leaf_private=region.leaf_private & ~private,
        leaf_shared=region.leaf_shared & ~shared,
        leaf_zero=region.leaf_zero & ~shared,
        leaf_private_large=region.leaf_private_large.without(large[0]),
        leaf_shared_large=region.leaf_shared_large.without(large[1]),
        leaf_zero_large=region.leaf_zero_large.without(large[2]),
    )
    gone = (region.mapped & ~after.mapped).bit_count()
    events = context.event(LEAF_ZAPPED, gone, "zap", f"{why}: {{n}} mapped page{{s}} of {{where}} {{are}} zapped")
    for blocks in large:
        events += _zapped(
            context, blocks, "zap", f"{why}: {{n}} mapping{{s}} of {{size}} over {{where}} {{are}} zapped whole"
        )
    return Outcome(after, events)


def _zapped(context: Context, leaves: Blocks, rule: str, text: str) -> tuple[Event, ...]:
    events: tuple[Event, ...] = ()
    for order, starts in leaves:
        said = text.replace("{size}", SIZES[order])
        events += context.event(leaf_zapped(order), starts.bit_count(), rule, said)
    return events


@dataclass(frozen=True)
class _Level:
    """One size of leaf in the windows ``starts`` of a fault."""

    order: int
    starts: int
    kind: Side

    @property
    def covered(self) -> int:
        return spread(self.starts, self.order)


def _map_large(context: Context, region: RegionState, pages: int, kind: Side, folios: Blocks) -> Outcome:
    """Leaves of 1 GiB and 2 MiB where folio, attributes and region allow them and a page is not mapped yet."""
    events: tuple[Event, ...] = ()
    for order in LARGE_LEAVES:
        allowed = 0
        for large, starts in folios:
            if large >= order:
                allowed |= spread(starts, large)
        if not allowed:
            continue
        mapped = region.leaf_private | region.leaf_private_large.covered()
        if kind is Side.SHARED:
            mapped = region.leaf_shared | region.leaf_shared_large.covered()
        windows = sets.groups(pages & ~mapped, order) & full_groups(region.on_side(allowed, kind), order)
        if windows:
            outcome = _install(context, region, _Level(order, windows, kind))
            region, events = outcome.region, events + outcome.events
    return Outcome(region, events)


def _install(context: Context, region: RegionState, level: _Level) -> Outcome:
    """Large leaves take the place of what was below them (mmu/tdp_mmu.c:handle_removed_pt): smaller leaves, tables."""
    covered = level.covered
    below = zap(context, region, covered, level.kind, f"leaves of {SIZES[level.order]} take their place")
    tables = _link_tables(context, below.region, level.starts, level.order)
    region = tables.region
    missing, events = region.nested_missing, below.events + tables.events
    for order in (PMD_ORDER, PUD_ORDER):
        if order <= level.order:
            gone = sets.groups(covered, order) & ~missing.starts(order)
            missing = missing.add(order, gone) if gone else missing
            text = "{n} table{s} of KVM under leaves of " + SIZES[level.order] + " in {where} {are} freed"
            events += context.event(NESTED_TABLE_FREED, gone.bit_count(), "nested-table", text)
    if level.kind is Side.PRIVATE:
        grown = region.leaf_private_large.add(level.order, level.starts)
        region = replace(region, leaf_private_large=grown, nested_missing=missing)
    else:
        grown = region.leaf_shared_large.add(level.order, level.starts)
        region = replace(region, leaf_shared_large=grown, nested_missing=missing)
    text = f"KVM maps {{n}} whole {level.kind.value} window{{s}} of {{where}} by a leaf of {SIZES[level.order]}"
    return Outcome(region, events + context.event(leaf_installed(level.order), level.starts.bit_count(), "fault", text))


def _link_tables(context: Context, region: RegionState, pages: int, order: int) -> Outcome:
    """Tables that a leaf of ``order`` at ``pages`` needs above it and that are not there."""
    if not region.nested_missing or not pages:
        return Outcome(region)
    missing, linked = region.nested_missing, 0
    for table, starts in region.nested_missing:
        if table > order:
            new = starts & sets.groups(pages, table)
            missing = missing.remove(table, new)
            linked += new.bit_count()
    text = "{n} table{s} of KVM for leaves in {where}, in whose place was a larger leaf, {are} linked"
    return Outcome(
        replace(region, nested_missing=missing),
        context.event(NESTED_TABLE_LINKED, linked, "nested-table", text),
    )
