# SPDX-License-Identifier: GPL-2.0-only
"""What can happen to memory, and which counters move by how much for each page it happens to.

Rules speak in events; this table turns them into counters.  ``{guest}`` stands for the guest's name.
Sources: table of operations in ``docs/model.md``, with the kernel function beside each row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from harness.model.prediction import Flow, Reason


@dataclass(frozen=True)
class EventKind:
    """One kind of event: counters per page."""

    name: str
    moves: Mapping[str, int]
    demand: str = ""
    """Migratetype whose free lists it draws from or refills: Unmovable, Movable or '' for none."""
    order: int = 0
    """The pages come in blocks of that order from the free lists."""
    splits: int = 0
    """Order of the folio of the page cache that it splits; 0: none."""

    def __hash__(self) -> int:
        return hash(self.name)


PRIVATE_ALLOCATED = EventKind(
    # filemap.c:__filemap_add_folio, swap.c/folio.c:lru_add; GFP_HIGHUSER without __GFP_MOVABLE
    "private page allocated",
    {
        "nr_file_pages": +1,
        "nr_unevictable": +1,
        "nr_zone_unevictable": +1,
        "unevictable_pgs_culled": +1,
        "gmem/{guest}": +1,
        "F": -1,
        "pgalloc": +1,
    },
    demand="Unmovable",
)


@cache
def private_allocated(order: int) -> EventKind:
    """Pages of whole folios of ``2**order``; a large folio is on the LRU at once, without a batch."""
    return replace(PRIVATE_ALLOCATED, order=order) if order else PRIVATE_ALLOCATED


PRIVATE_FREED = EventKind(
    # filemap.c:filemap_unaccount_folio, __page_cache_release, page_alloc.c:free_frozen_page_commit
    "private page freed",
    {
        "nr_file_pages": -1,
        "nr_unevictable": -1,
        "nr_zone_unevictable": -1,
        "gmem/{guest}": -1,
        "F": +1,
        "pgfree": +1,
    },
    demand="Unmovable",
)
SHARED_ALLOCATED = EventKind(
    # memory.c:do_anonymous_page or wp_page_copy, rmap.c:folio_add_new_anon_rmap
    "shared page allocated",
    {"nr_anon_pages": +1, "F": -1, "pgalloc": +1},
    demand="Movable",
)
SHARED_FREED = EventKind(
    # memory.c:zap_pte_range, rmap.c:__folio_remove_rmap
    "shared page freed",
    {"nr_anon_pages": -1, "F": +1, "pgfree": +1},
    demand="Movable",
)
TABLE_ALLOCATED = EventKind(
    # memory.c:pte_alloc_one
    "page table allocated",
    {"nr_page_table_pages": +1, "F": -1, "pgalloc": +1},
    demand="Unmovable",
)
TABLE_FREED = EventKind(
    # memory.c:zap_empty_pte_table, mmu_gather.c:__tlb_remove_table_free after a grace period
    "page table freed",
    {"nr_page_table_pages": -1, "F": +1, "pgfree": +1},
    demand="Unmovable",
)
PAGE_IN_PASSING = EventKind(
    # mmu_gather.c:tlb_next_batch, tlb_remove_table
    "page allocated and freed within the step",
    {"pgalloc": +1, "pgfree": +1},
)
LEAF_INSTALLED = EventKind(
    # mmu/tdp_mmu.c:kvm_tdp_mmu_map; kvm_update_page_stats
    "leaf installed",
    {"kvm/{guest}/pages_4k": +1},
)
LEAF_ZAPPED = EventKind(
    # mmu/tdp_mmu.c:tdp_mmu_zap_leafs
    "leaf zapped",
    {"kvm/{guest}/pages_4k": -1},
)
ATTRIBUTES_STORED = EventKind(
    # lib/maple_tree.c:mas_store_prealloc; nodes are slab objects, see slab.py
    "range of attributes stored in the guest_memfd",
    {},
)


@dataclass(frozen=True)
class Event:
    """``pages`` events of one kind in one guest, and the sentence of the rule that says so.

    Kinds that happen to folios or tables count those instead of pages.
    """

    kind: EventKind
    guest: str
    pages: int
    rule: str
    text: str
    cpu: int | None = None
    """Host CPU it happens on; None: any."""

    def moves(self) -> list[tuple[str, int]]:
        """Counters with their differences."""
        return [
            (counter.format(guest=self.guest), per_page * self.pages) for counter, per_page in self.kind.moves.items()
        ]

    def reason(self, difference: int) -> Reason:
        """Why a counter moves by ``difference``."""
        return Reason(self.rule, self.text, difference)


def traffic_by_cpu(events: Iterable[Event]) -> dict[int | None, dict[str, Flow]]:
    """Pages that the events take from and give back to the free lists: per CPU and migratetype."""
    found: dict[int | None, dict[str, Flow]] = {}
    for event in events:
        moved = event.pages * event.kind.moves.get("F", 0)
        if event.kind.demand and moved:
            flows = found.setdefault(event.cpu, {})
            flow = flows.get(event.kind.demand, Flow())
            flows[event.kind.demand] = Flow(flow.allocated + max(0, -moved), flow.freed + max(0, moved))
    return found
