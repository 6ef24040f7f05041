# SPDX-License-Identifier: GPL-2.0-only
"""What can happen to the pages of a shared backing beyond anonymous 4 KiB memory; ``events.py`` says how to read it.

``unaccounted`` moves where a page is neither free nor in a counter of use: a page of a folio that is partly unmapped,
or one that only a reference keeps.  That is how memory shows that a conversion should have freed and did not.
"""

from __future__ import annotations

from functools import cache

from harness.model.aligned import PMD_ORDER, size_name
from harness.model.events import EventKind

SHARED_UNMAPPED = EventKind(
    # rmap.c:__folio_remove_rmap; the folio keeps its pages
    "shared page unmapped and kept",
    {"nr_anon_pages": -1, "unaccounted": +1},
)
KEPT_FREED = EventKind(
    # page_alloc.c:free_frozen_page_commit, for pages that no counter of use held any more
    "kept page freed",
    {"F": +1, "pgfree": +1, "unaccounted": -1},
    demand="Movable",
)
PMD_SPLIT = EventKind(
    # huge_memory.c:__split_huge_pmd_locked
    "huge mapping split",
    {"thp_split_pmd": +1},
)
ANON_PMD_UNMAPPED = EventKind(
    # rmap.c:__folio_mod_stat
    "huge mapping of an anonymous folio gone",
    {"nr_anon_transparent_hugepages": -1},
)
THP_FALLBACK = EventKind(
    # huge_memory.c:vma_alloc_anon_folio_pmd
    "huge folio not to be had",
    {"thp_fault_fallback": +1, f"mthp/{size_name(PMD_ORDER)}/anon_fault_fallback": +1},
)
HUGE_ZERO_MAPPED = EventKind(
    # huge_memory.c:set_huge_zero_folio; the folio itself is the host's and stays
    "huge zero folio mapped",
    {},
)
ANON_THP_FAULTED = EventKind(
    # huge_memory.c:map_anon_folio_pmd_pf; its 512 pages are an event of their own
    "anonymous huge folio faulted",
    {
        "thp_fault_alloc": +1,
        "nr_anon_transparent_hugepages": +1,
        f"mthp/{size_name(PMD_ORDER)}/anon_fault_alloc": +1,
        f"mthp/{size_name(PMD_ORDER)}/nr_anon": +1,
    },
)
ANON_THP_GONE = EventKind(
    # page_alloc.c:__free_pages_prepare
    "anonymous huge folio freed",
    {f"mthp/{size_name(PMD_ORDER)}/nr_anon": -1},
)
ANON_THP_QUEUED = EventKind(
    # huge_memory.c:deferred_split_folio
    "huge folio queued for a deferred split",
    {
        "thp_deferred_split_page": +1,
        f"mthp/{size_name(PMD_ORDER)}/split_deferred": +1,
        f"mthp/{size_name(PMD_ORDER)}/nr_anon_partially_mapped": +1,
    },
)
ANON_THP_UNQUEUED = EventKind(
    # huge_memory.c:__folio_unqueue_deferred_split
    "huge folio leaves the queue of deferred splits",
    {f"mthp/{size_name(PMD_ORDER)}/nr_anon_partially_mapped": -1},
)
ANON_THP_SPLIT = EventKind(
    # huge_memory.c:__folio_split, __split_unmapped_folio: uniformly to order 0
    "anonymous huge folio split",
    {
        "thp_split_page": +1,
        f"mthp/{size_name(PMD_ORDER)}/split": +1,
        f"mthp/{size_name(PMD_ORDER)}/nr_anon": -1,
    },
)

FILE_ALLOCATED = EventKind(
    # shmem.c:shmem_add_to_page_cache
    "shmem page allocated",
    {"nr_file_pages": +1, "nr_shmem": +1, "F": -1, "pgalloc": +1},
    demand="Movable",
)
FILE_FREED = EventKind(
    # filemap.c:filemap_unaccount_folio, page_alloc.c:free_frozen_page_commit
    "shmem page freed",
    {"nr_file_pages": -1, "nr_shmem": -1, "F": +1, "pgfree": +1},
    demand="Movable",
)
FILE_REMOVED = EventKind(
    # filemap.c:filemap_unaccount_folio; a reference keeps the page
    "shmem page leaves its file and is kept",
    {"nr_file_pages": -1, "nr_shmem": -1, "unaccounted": +1},
)
FILE_MAPPED = EventKind(
    # rmap.c:__folio_mod_stat
    "shmem page mapped",
    {"nr_mapped": +1},
)
FILE_UNMAPPED = EventKind("shmem page unmapped", {"nr_mapped": -1})
SHMEM_PMD_MAPPED = EventKind(
    # memory.c:do_set_pmd, rmap.c:__folio_mod_stat
    "huge mapping of a shmem folio made",
    {"nr_shmem_pmdmapped": +1, "thp_file_mapped": +1},
)
SHMEM_PMD_UNMAPPED = EventKind("huge mapping of a shmem folio gone", {"nr_shmem_pmdmapped": -1})
SHMEM_THP_FREED = EventKind(
    # filemap.c:filemap_unaccount_folio
    "shmem huge folio freed whole",
    {"nr_shmem_hugepages": -1},
)
SHMEM_THP_FALLBACK = EventKind(
    # shmem.c:shmem_alloc_and_add_folio
    "shmem huge folio not to be had",
    {"thp_file_fallback": +1, f"mthp/{size_name(PMD_ORDER)}/shmem_fallback": +1},
)
SHMEM_THP_ALLOCATED = EventKind(
    # shmem.c:shmem_get_folio_gfp, shmem_add_to_page_cache
    "shmem huge folio allocated",
    {"thp_file_alloc": +1, "nr_shmem_hugepages": +1, f"mthp/{size_name(PMD_ORDER)}/shmem_alloc": +1},
)


@cache
def file_split(order: int) -> EventKind:
    """A shmem folio of that order is split (huge_memory.c:__folio_split)."""
    moves = {f"mthp/{size_name(order)}/split": +1}
    if order == PMD_ORDER:
        moves |= {"thp_split_page": +1, "nr_shmem_hugepages": -1}
    return EventKind(f"shmem folio of {size_name(order)} split", moves, splits=order)


@cache
def split_failed(order: int) -> EventKind:
    """A split is refused for an unexpected reference (huge_memory.c:__folio_split)."""
    moves = {f"mthp/{size_name(order)}/split_failed": +1}
    if order == PMD_ORDER:
        moves |= {"thp_split_page_failed": +1}
    return EventKind(f"split of a folio of {size_name(order)} refused", moves)


@cache
def pool_taken(order: int) -> EventKind:
    """A page of a hugetlb pool comes into use, out of the file's reservation (hugetlb.c:alloc_hugetlb_folio)."""
    pool = f"hugetlb/{size_name(order)}"
    moves = {"nr_hugetlb": 1 << order, f"{pool}/free_hugepages": -1, f"{pool}/resv_hugepages": -1}
    return EventKind(f"hugetlb page of {size_name(order)} taken", moves)


@cache
def pool_returned(order: int) -> EventKind:
    """A page goes back to its hugetlb pool, its reservation was used up (fs/hugetlbfs: remove_inode_hugepages)."""
    moves = {"nr_hugetlb": -(1 << order), f"hugetlb/{size_name(order)}/free_hugepages": +1}
    return EventKind(f"hugetlb page of {size_name(order)} returned", moves)
