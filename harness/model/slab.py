# SPDX-License-Identifier: GPL-2.0-only
"""Kernel metadata of guest_memfd: xarray nodes, and the slabs they may take from or give back to the allocator.

Two trees grow and shrink with a region: the page cache of the guest_memfd (mapping->i_pages) and KVM's attributes
(kvm->mem_attr_array, an entry per private page, none for a shared one).  Both take nodes from radix_tree_node.
How many nodes is known; whether a node needs a new slab or completes an empty one depends on what else lives there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.model import pages, physics
from harness.model.aligned import Blocks, spread
from harness.model.events import ATTRIBUTES_STORED, Event
from harness.model.facts import HostFacts
from harness.model.ledger import Ledger
from harness.model.state import CHUNK_ORDER, RegionState


@dataclass(frozen=True)
class NodeChange:
    """Nodes that a step allocates and frees: lowest level exactly, and at most this many above."""

    new: int = 0
    new_above: int = 0
    gone: int = 0
    gone_above: int = 0

    def __add__(self, other: NodeChange) -> NodeChange:
        return NodeChange(
            self.new + other.new,
            self.new_above + other.new_above,
            self.gone + other.gone,
            self.gone_above + other.gone_above,
        )


def _tree_change(before: tuple[int, int], after: tuple[int, int]) -> NodeChange:
    """A tree given as (indices with an entry in a lowest node, indices with an entry)."""
    if before == after:
        return NodeChange()
    group_before, group_after = (pages.groups(s, physics.XA_GROUP_ORDER) for s, _ in (before, after))
    chunk_before, chunk_after = (pages.groups(s, CHUNK_ORDER) for _, s in (before, after))
    above_new = (chunk_after & ~chunk_before).bit_count()
    above_gone = (chunk_before & ~chunk_after).bit_count()
    return NodeChange(
        new=(group_after & ~group_before).bit_count(),
        new_above=above_new + physics.XA_UPPER_NODES if above_new else 0,
        gone=(group_before & ~group_after).bit_count(),
        gone_above=above_gone + physics.XA_UPPER_NODES if above_gone else 0,
    )


def node_change(
    steps: Iterable[tuple[RegionState, RegionState]], *, file_backed: bool = False, attributes: bool = True
) -> NodeChange:
    """Over regions given as (before, after).

    ``file_backed``: the shared side is page cache of a file, too; ``attributes``: the VM has a tree of them.
    """
    total = NodeChange()
    for before, after in steps:
        total += _tree_change(
            _cache_tree(before.private, before.private_folios), _cache_tree(after.private, after.private_folios)
        )
        if file_backed:
            total += _tree_change(
                _cache_tree(before.shared, before.shared_folios), _cache_tree(after.shared, after.shared_folios)
            )
        if attributes:
            total += _tree_change((before.attr_private,) * 2, (after.attr_private,) * 2)
    return total


def _cache_tree(present: int, folios: Blocks) -> tuple[int, int]:
    """The page cache of a file: ``present`` pages, of which some are in large ``folios``.

    A folio of 64 pages or more is one entry, with siblings, of a node above (lib/xarray.c:xas_store).
    """
    large = 0
    for order, starts in folios:
        if order >= physics.XA_GROUP_ORDER:
            large |= spread(starts, order)
    return present & ~large, present


def with_splits(change: NodeChange, events: Iterable[Event], facts: HostFacts) -> NodeChange:
    """Nodes that splits allocate also count where the hole empties them at once.

    A split in halves needs one node for the group that it cuts (lib/xarray.c:xas_try_split), a uniform one a node per
    group of the folio (xas_split_alloc).
    """
    allocated = 0
    for event in events:
        order = event.kind.splits
        if order >= physics.XA_GROUP_ORDER:
            allocated += event.pages << (order - physics.XA_GROUP_ORDER if facts.uniform_split else 0)
    passing = max(0, allocated - change.new)
    return change + NodeChange(new=passing, gone=passing)


def slab_pages_taken(facts: HostFacts, nodes: int) -> int:
    """Most pages that allocating ``nodes`` can add: whole refills of a sheaf, one unfinished per CPU that took part."""
    if not nodes:
        return 0
    drawn = -(-nodes // physics.SHEAF_OBJECTS) * physics.SHEAF_OBJECTS
    slabs = -(-drawn // facts.slab_objects) + min(facts.ncpu, nodes) - 1
    return slabs * facts.slab_pages


def slab_pages_returned(facts: HostFacts, freed_now: int, freed_before: int) -> int:
    """Most pages that freeing ``freed_now`` nodes can give back; nodes freed before may complete a slab now."""
    if not freed_now:
        return 0
    slabs = -(-(freed_now + freed_before) // facts.slab_objects) + physics.SPARE_SLABS_FREED
    return slabs * facts.slab_pages


def post(ledger: Ledger, facts: HostFacts, change: NodeChange, freed_before: int) -> tuple[int, int]:
    """Enters the slabs of a step; returns (slab pages taken, slab pages returned), the most of each."""
    new, gone = change.new + change.new_above, change.gone + change.gone_above
    taken = slab_pages_taken(facts, new)
    returned = slab_pages_returned(facts, gone, freed_before)
    metadata = physics.NODE_METADATA_PAGES if new or gone else 0
    text = (
        f"tree nodes allocated: {change.new} (up to {change.new_above} above them), freed: {change.gone}"
        f" (up to {change.gone_above} above them); slab pages taken: up to {taken}, given back: up to {returned}"
    )
    ledger.allow("nr_slab_reclaimable", -returned, taken, "slab", text)
    metadata_text = f"{text}; sheaves and object extensions: up to {metadata} more"
    ledger.allow("nr_slab_unreclaimable", -metadata, metadata, "slab", metadata_text)
    ledger.allow("F", -taken - metadata, returned + metadata, "slab", metadata_text)
    ledger.allow("pgfree", 0, returned + metadata, "slab", metadata_text)
    ledger.allow("pgalloc", 0, taken + metadata, "slab", metadata_text)
    return taken, returned


def post_maple(ledger: Ledger, events: Iterable[Event]) -> int:
    """Enters the maple nodes of attributes that a guest_memfd keeps itself; returns the most pages taken."""
    calls = sum(event.pages for event in events if event.kind is ATTRIBUTES_STORED)
    if not calls:
        return 0
    most = physics.MAPLE_PAGES + calls // physics.MAPLE_CALLS_PER_PAGE
    text = f"{calls} ranges of attributes stored in a maple tree: up to {most} slab pages taken or given back"
    ledger.allow("nr_slab_unreclaimable", -most, most, "slab", text)
    ledger.allow("F", -most, most, "slab", text)
    ledger.allow("pgalloc", 0, most, "slab", text)
    ledger.allow("pgfree", 0, most, "slab", text)
    return most
