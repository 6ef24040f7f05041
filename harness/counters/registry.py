# SPDX-License-Identifier: GPL-2.0-only
"""What is known about the counters that the model speaks of: unit, origin, what moves them, how exact they are.

A record's name may end in ``*`` parts (``"gmem/*"``, ``"mthp/*/split"``); ``find`` matches a counter to its record.
Counters without a record are recorded in samples but never judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final


class Kind(Enum):
    """How a counter behaves over time."""

    UNSET = "unset"
    ITEM = "item"  # a level: falls when what it counts goes away
    EVENT = "event"  # only ever grows
    DERIVED = "derived"  # computed from others by harness.counters.sample


class Exactness(Enum):
    """What a difference of two settled samples is worth."""

    UNSET = "unset"
    EXACT = "exact"  # read at the source, or summed over CPUs when read
    AFTER_REFRESH = "after stat_refresh"  # per-CPU differences are folded in by `settle`
    AFTER_DRAIN = "after LRU drain"  # also lags by up to 31 folios per CPU, which `settle` drains
    PCP = "off by pages on per-CPU lists"  # free pages that the lists hide; capped by `pcpcap`


@dataclass(frozen=True)
class CounterSpec:
    """One counter, or a family of them."""

    name: str
    unit: str  # "pages", "huge pages", "pageblocks", "blocks", "events", "mappings"
    interface: str  # where the kernel prints it
    kind: Kind
    exactness: Exactness
    moved_by: str
    note: str = ""  # since when, and traps


VMSTAT: Final = "/proc/vmstat"
ZONEINFO: Final = "/proc/zoneinfo"
PAGETYPEINFO: Final = "/proc/pagetypeinfo"
_MTHP: Final = "/sys/kernel/mm/transparent_hugepage/hugepages-*/stats"


def _item(name: str, moved_by: str, note: str = "", exactness: Exactness = Exactness.AFTER_REFRESH) -> CounterSpec:
    return CounterSpec(name, "pages", VMSTAT, Kind.ITEM, exactness, moved_by, note)


def _event(name: str, moved_by: str, note: str = "", exactness: Exactness = Exactness.EXACT) -> CounterSpec:
    return CounterSpec(name, "events", VMSTAT, Kind.EVENT, exactness, moved_by, note)


_LRU_NOTE: Final = "a new order-0 folio is counted when its per-CPU batch is drained"

COUNTERS: Final[tuple[CounterSpec, ...]] = (
    CounterSpec(
        "F", "pages", ZONEINFO, Kind.DERIVED, Exactness.AFTER_REFRESH,
        "each page allocated (-1) and freed (+1), wherever it comes from",
        "free pages on buddy and per-CPU lists; nr_free_pages alone misses the latter",
    ),
    CounterSpec(
        "pcp", "pages", ZONEINFO, Kind.DERIVED, Exactness.EXACT,
        "frees fill the list of the freeing CPU, allocations and stat_refresh empty it",
    ),
    CounterSpec(
        "unaccounted", "pages", "zoneinfo and vmstat", Kind.DERIVED, Exactness.AFTER_REFRESH,
        "pages that left the free lists and are in no counter of use: a leak, or memory the kernel does not account",
        "an offset without meaning; only differences count",
    ),
    CounterSpec(
        "vmalloc", "pages", "vmstat nr_vmalloc, else meminfo VmallocUsed", Kind.DERIVED, Exactness.AFTER_REFRESH,
        "vmalloc memory, which holds the kernel stacks: a thread that comes or goes is foreign activity",
    ),
    CounterSpec(
        "movable_balance", "pages", PAGETYPEINFO, Kind.DERIVED, Exactness.PCP,
        "falls when pages are taken from Movable lists without claiming their whole pageblock",
    ),
    _item("nr_free_pages", "the buddy lists only", "per-CPU lists take and return in batches", Exactness.PCP),
    _item("nr_file_pages", "guest_memfd, page cache and shmem folios added (+) and removed (-)", "pages of any order"),
    _item("nr_unevictable", "guest_memfd folios on the unevictable list", _LRU_NOTE, Exactness.AFTER_DRAIN),
    _item("nr_zone_unevictable", "as nr_unevictable, counted by zone", _LRU_NOTE, Exactness.AFTER_DRAIN),
    _item("nr_anon_pages", "anonymous memory touched (+) and discarded (-): the shared side with memory-backend-ram"),
    _item("nr_inactive_anon", "new anonymous and shmem folios", _LRU_NOTE, Exactness.AFTER_DRAIN),
    _item("nr_active_anon", "anonymous folios that reclaim found in use", _LRU_NOTE, Exactness.AFTER_DRAIN),
    _item("nr_inactive_file", "page cache; never guest_memfd, which is unevictable", "", Exactness.AFTER_DRAIN),
    _item("nr_active_file", "page cache; never guest_memfd", "", Exactness.AFTER_DRAIN),
    _item("nr_shmem", "shmem pages: the shared side with memory-backend-memfd; never guest_memfd"),
    _item("nr_mapped", "file pages mapped into processes; private memory is not"),
    _item("nr_dirty", "writeback; never guest_memfd (KVM sets the flag without accounting)"),
    _item("nr_slab_reclaimable", "xarray nodes of the page cache: one per 64 pages, 14 to an order-1 slab, freed late"),
    _item("nr_slab_unreclaimable", "kernel objects"),
    _item("nr_page_table_pages", "page tables of processes"),
    _item("nr_sec_page_table_pages", "KVM's page tables: the NPT of guests"),
    _item("nr_kernel_stack", "threads", "in kB, not pages"),
    _item("nr_hugetlb", "hugetlb pages in use", "absent in 6.12"),
    CounterSpec(
        "nr_file_hugepages", "huge pages", VMSTAT, Kind.ITEM, Exactness.AFTER_REFRESH,
        "PMD-sized folios in the page cache: guest_memfd of the thp designs",
    ),
    CounterSpec(
        "nr_shmem_hugepages", "huge pages", VMSTAT, Kind.ITEM, Exactness.AFTER_REFRESH,
        "PMD-sized shmem folios: the shared side with memory-backend-memfd",
    ),
    CounterSpec(
        "nr_shmem_pmdmapped", "huge pages", VMSTAT, Kind.ITEM, Exactness.AFTER_REFRESH, "shmem THP mapped by a PMD"
    ),
    CounterSpec(
        "nr_anon_transparent_hugepages", "huge pages", VMSTAT, Kind.ITEM, Exactness.AFTER_REFRESH,
        "anonymous THP mapped by a PMD",
    ),
    _event("pgalloc", "each page allocated", "sum of pgalloc_* over zones"),
    _event("pgfree", "each page freed, slab and page tables too", "counted when the page reaches a free list"),
    _event("pgfault", "page faults of processes, QEMU's on the shared side; not KVM's faults on private memory"),
    _event("pgmajfault", "faults that read from disk: foreign activity"),
    _event("unevictable_pgs_culled", "folios that went to the unevictable list", _LRU_NOTE, Exactness.AFTER_DRAIN),
    _event("unevictable_pgs_scanned", "never guest_memfd"),
    _event("unevictable_pgs_rescued", "never guest_memfd"),
    _event("unevictable_pgs_cleared", "mlocked pages freed; never guest_memfd"),
    _event("thp_fault_alloc", "anonymous THP faults; guest_memfd of any design does not count here"),
    _event("thp_fault_fallback", "anonymous faults that wanted a THP and did not get one"),
    _event("thp_file_alloc", "shmem THP; not guest_memfd"),
    _event("thp_file_fallback", "shmem faults that wanted a THP and did not get one"),
    _event("thp_file_mapped", "shmem THP mapped by a PMD"),
    _event("thp_split_page", "a huge folio split to smaller ones"),
    _event("thp_split_page_failed", "a split refused, mostly for an unexpected reference"),
    _event("thp_split_pmd", "a huge mapping split, the folio stays whole"),
    _event("thp_deferred_split_page", "a partly unmapped anonymous THP queued: its pages are not free yet"),
    _event("thp_collapse_alloc", "khugepaged allocated a huge folio"),
    _event("compact_*", "memory compaction; guest_memfd folios are never migrated"),
    _event("pgmigrate_*", "pages migrated; guest_memfd folios never are"),
    CounterSpec(
        "free/*", "pages", PAGETYPEINFO, Kind.ITEM, Exactness.PCP,
        "free pages on the buddy lists of one migratetype",
        "unknown once a list has more than 100000 entries: the kernel stops counting",
    ),
    CounterSpec(
        "free_small/*", "pages", PAGETYPEINFO, Kind.ITEM, Exactness.PCP,
        "free pages of one migratetype in blocks smaller than a pageblock",
    ),
    CounterSpec(
        "free_single/*", "blocks", PAGETYPEINFO, Kind.ITEM, Exactness.PCP,
        "free blocks of one migratetype that are exactly a pageblock: what a completed pageblock can merge with",
    ),
    CounterSpec(
        "first_zone/*", "pages", PAGETYPEINFO, Kind.ITEM, Exactness.PCP,
        "free/* of the zone that allocations are asked of first; whole: its free blocks of order 10",
        "absent on a machine of several nodes",
    ),
    CounterSpec(
        "blocks/*", "pageblocks", PAGETYPEINFO, Kind.ITEM, Exactness.EXACT,
        "an allocation that claims blocks of another type; freeing does not give them back",
    ),
    CounterSpec(
        "free_order/*", "blocks", "/proc/buddyinfo", Kind.ITEM, Exactness.PCP, "splitting and merging of free blocks"
    ),
    CounterSpec(
        "mthp/*/split", "events", _MTHP, Kind.EVENT, Exactness.EXACT, "a folio of this size split", "since 6.10"
    ),
    CounterSpec(
        "mthp/*", "events", _MTHP, Kind.EVENT, Exactness.EXACT, "folios of this size", "nr_* are levels"
    ),
    CounterSpec(
        "hugetlb/*", "huge pages", "/sys/kernel/mm/hugepages", Kind.ITEM, Exactness.EXACT, "the hugetlb pools"
    ),
    CounterSpec("meminfo/*", "kB", "/proc/meminfo", Kind.ITEM, Exactness.AFTER_REFRESH, "many; printed for people"),
    CounterSpec(
        "gmem/*", "pages", "cachestat(2) on the guest_memfd", Kind.ITEM, Exactness.EXACT,
        "pages present in one guest's guest_memfd", "since 6.5, needs CONFIG_CACHESTAT_SYSCALL",
    ),
    CounterSpec(
        "memcg/*/file", "pages", "memory.stat of the cgroup of one bare guest", Kind.ITEM, Exactness.EXACT,
        "pages of the guest_memfd that the guest's process allocated, until they go",
        "cache in cgroup v1; the kernel sums up now and then, harness/native/bare makes it do so",
    ),
    CounterSpec(
        "memcg/*/unevictable", "pages", "memory.stat of the cgroup of one bare guest", Kind.ITEM, Exactness.AFTER_DRAIN,
        "as file; also memory that the process locked, which stays the same",
    ),
    CounterSpec(
        "memcg/*/file_mapped", "pages", "memory.stat of the cgroup of one bare guest", Kind.ITEM, Exactness.EXACT,
        "pages of the guest_memfd that the guest's process touched, until they are punched", "mapped_file in cgroup v1",
    ),
    CounterSpec(
        "kvm/*/pages_*", "mappings", "debugfs kvm/PID-FD", Kind.ITEM, Exactness.EXACT,
        "leaf entries of one size in a guest's NPT or EPT, private and shared together",
        "installed by the guest's touch, removed by conversion and discard",
    ),
)  # fmt: skip


def find(counter: str) -> CounterSpec | None:
    """The record for a counter's name: an exact one before a family, a longer family before a shorter."""
    matches = [spec for spec in COUNTERS if fnmatchcase(counter, spec.name)]
    return max(matches, key=lambda spec: ("*" not in spec.name, len(spec.name)), default=None)
