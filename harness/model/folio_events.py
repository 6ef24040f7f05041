# SPDX-License-Identifier: GPL-2.0-only
"""What can happen to a folio of the guest_memfd as a whole, and to KVM's leaves and tables of more than 4 KiB.

The pages of a folio are events of their own (``events.py``); these count folios, leaves and tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from harness.model.aligned import PMD_ORDER, PUD_ORDER, size_name
from harness.model.events import LEAF_INSTALLED, LEAF_ZAPPED, EventKind

LEAF_COUNTERS: Mapping[int, str] = {PMD_ORDER: "kvm/{guest}/pages_2m", PUD_ORDER: "kvm/{guest}/pages_1g"}
"""KVM's counter of leaves of an order; 4 KiB leaves count in pages_4k (x86.c:kvm_vm_stats_desc)."""


def _file_huge(order: int) -> int:
    """Units of nr_file_hugepages in a folio: vmstat prints pages of PMD-mappable folios in huge pages."""
    return 1 << order - PMD_ORDER if order >= PMD_ORDER else 0


def _moving(moves: dict[str, int]) -> dict[str, int]:
    return {counter: by for counter, by in moves.items() if by}


@cache
def folio_added(order: int) -> EventKind:
    """A whole folio enters the page cache (filemap.c:__filemap_add_folio)."""
    return EventKind(f"folio of {size_name(order)} added", _moving({"nr_file_hugepages": _file_huge(order)}))


@cache
def folio_removed(order: int) -> EventKind:
    """A whole folio leaves the page cache (filemap.c:filemap_unaccount_folio): no split counter moves."""
    return EventKind(f"folio of {size_name(order)} removed", _moving({"nr_file_hugepages": -_file_huge(order)}))


@cache
def folio_split(order: int) -> EventKind:
    """A folio is split, in whatever shape (huge_memory.c:__folio_split, __folio_freeze_and_split_unmapped).

    thp_split_page counts PMD-sized folios only (is_pmd_order), the mTHP statistics end at that size (mod_mthp_stat).
    """
    moves = {"nr_file_hugepages": -_file_huge(order), "thp_split_page": int(order == PMD_ORDER)}
    if order <= PMD_ORDER:
        moves[f"mthp/{size_name(order)}/split"] = +1
    return EventKind(f"folio of {size_name(order)} split", _moving(moves), splits=order)


@cache
def folio_split_refused(order: int) -> EventKind:
    """A split fails for a reference nobody expected (huge_memory.c:__folio_split: -EAGAIN)."""
    moves = {"thp_split_page_failed": int(order == PMD_ORDER)}
    if order <= PMD_ORDER:
        moves[f"mthp/{size_name(order)}/split_failed"] = +1
    return EventKind(f"split of a folio of {size_name(order)} refused", _moving(moves))


@cache
def folio_collapsed(order: int) -> EventKind:
    """The pieces of a folio become one again, on the same pages; no event counter of the kernel counts it."""
    return EventKind(
        f"folio of {size_name(order)} put together again", _moving({"nr_file_hugepages": _file_huge(order)})
    )


PRIVATE_REMOVED = EventKind(
    # filemap.c:filemap_unaccount_folio; __page_cache_release waits for the last reference
    "private page leaves its file and is kept",
    {"nr_file_pages": -1, "gmem/{guest}": -1, "unaccounted": +1},
)
KEPT_PRIVATE_FREED = EventKind(
    # swap.c/folio.c:__page_cache_release, page_alloc.c:free_frozen_page_commit
    "kept private page freed",
    {"nr_unevictable": -1, "nr_zone_unevictable": -1, "F": +1, "pgfree": +1, "unaccounted": -1},
    demand="Unmovable",
)
NESTED_TABLE_LINKED = EventKind(
    # mmu/tdp_mmu.c:tdp_mmu_link_sp: a page of the vCPU's cache, counted by no item before
    "nested page table linked",
    {"nr_sec_page_table_pages": +1, "unaccounted": -1},
)
NESTED_TABLE_FREED = EventKind(
    # mmu/tdp_mmu.c:handle_removed_pt, tdp_mmu_free_sp_rcu_callback
    "nested page table freed",
    {"nr_sec_page_table_pages": -1, "F": +1, "pgfree": +1},
    demand="Unmovable",
)


@cache
def leaf_installed(order: int) -> EventKind:
    """A leaf that maps ``2**order`` pages (mmu/tdp_mmu.c:kvm_tdp_mmu_map; kvm_update_page_stats)."""
    return EventKind(f"leaf of {size_name(order)} installed", {LEAF_COUNTERS[order]: +1}) if order else LEAF_INSTALLED


@cache
def leaf_zapped(order: int) -> EventKind:
    """Such a leaf goes (mmu/tdp_mmu.c:tdp_mmu_zap_leafs, handle_removed_pt)."""
    return EventKind(f"leaf of {size_name(order)} zapped", {LEAF_COUNTERS[order]: -1}) if order else LEAF_ZAPPED
