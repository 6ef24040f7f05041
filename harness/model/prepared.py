# SPDX-License-Identifier: GPL-2.0-only
"""The state in which a testbed is saved: each page of a region was touched shared, then private, and is shared again.

``Backing.prepared`` says what that leaves of the shared side; on anonymous 4 KiB memory, nothing but page tables.
Where QEMU populates what it converts, the last conversion leaves the region as if the guest had read it; but where the
guest_memfd is the RAM, holes are cut afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.model import pages
from harness.model.aligned import PMD_ORDER, PUD_ORDER, Blocks
from harness.model.context import Backing, Context, Design, left_empty
from harness.model.facts import HostFacts
from harness.model.state import RegionState
from harness.model.steprules import read_access
from harness.scenario.steps import CHUNK_PAGES


def prepared_regions(design: Design, backing: Backing, facts: HostFacts) -> Mapping[str, RegionState]:
    """The regions of the testbed as they are restored, for ``predict``; none where all are canonically empty."""
    side = design.shared_side or backing
    stays = facts.prefaults and design.shared_side is None
    if side.prepared is left_empty and not stays:
        return {}
    regions = {
        name: side.prepared(facts, empty_region(design, facts, chunks)) for name, chunks in facts.regions.items()
    }
    if not stays:
        return regions
    return {name: _populated(design, backing, facts, name, region) for name, region in regions.items()}


def _populated(design: Design, backing: Backing, facts: HostFacts, name: str, region: RegionState) -> RegionState:
    context = Context(facts, design, backing, name.partition(".")[0], name)
    return read_access(context, region, pages.span(0, region.chunks * CHUNK_PAGES)).region


def empty_region(design: Design, facts: HostFacts, chunks: int) -> RegionState:
    """The canonical empty state: shared, nothing present on either side, nothing mapped."""
    return RegionState.empty(chunks, tables=facts.tables_present, nested=nested_missing(design, facts, chunks))


def nested_missing(design: Design, facts: HostFacts, chunks: int) -> Blocks:
    """Tables that KVM lacks in the canonical empty state: each page was touched shared, then private, then discarded.

    The private touch put a large leaf in the table's place wherever the design's folio was large enough.
    """
    order = 0 if facts.large_folios is False else design.order
    missing = Blocks()
    for leaf in (PMD_ORDER, PUD_ORDER):
        windows = chunks * CHUNK_PAGES >> max(leaf, order)
        if order >= leaf and windows:
            missing = missing.add(leaf, pages.strided(0, windows << max(leaf, order), 1 << leaf))
    return missing
