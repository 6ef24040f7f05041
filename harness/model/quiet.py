# SPDX-License-Identifier: GPL-2.0-only
"""Counters that stand still, and why: a kernel that moves one of them does something the design does not do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache

from harness.model.blocks import BLOCK_COUNTERS
from harness.model.context import Backing, Design
from harness.model.ledger import Ledger

MOVING = (
    "nr_file_pages", "nr_unevictable", "nr_zone_unevictable", "unevictable_pgs_culled", "nr_anon_pages",
    "nr_page_table_pages", "nr_slab_reclaimable", "nr_slab_unreclaimable", "F", "pgfree", "pgalloc", "unaccounted",
    "movable_balance", *BLOCK_COUNTERS,
)  # fmt: skip
"""Host counters that some step moves; 0 where no rule of the step speaks of them."""

MOVING_PER_GUEST = ("gmem/{guest}", "kvm/{guest}/pages_4k")

QUIET: Mapping[str, tuple[str, ...]] = {
    "no page of guest_memfd or of anonymous 4 KiB memory is a huge page": (
        "nr_file_hugepages", "nr_anon_transparent_hugepages", "nr_shmem_hugepages", "nr_file_pmdmapped",
        "nr_shmem_pmdmapped",
    ),
    "neither side of a conversion is shared memory of a file (tmpfs, memfd)": ("nr_shmem",),
    "no page comes from the hugetlb pools": ("nr_hugetlb",),
    "free memory is plenty: nothing compacts, and compaction skips guest_memfd": (
        "compact_stall", "compact_fail", "compact_success", "compact_isolated", "compact_migrate_scanned",
        "compact_free_scanned",
    ),
    "guest_memfd pages cannot migrate and nothing asks the others to": ("pgmigrate_success", "pgmigrate_fail"),
    "unevictable pages are neither scanned nor rescued, and none is mlocked": (
        "unevictable_pgs_scanned", "unevictable_pgs_rescued", "unevictable_pgs_mlocked", "unevictable_pgs_munlocked",
        "unevictable_pgs_cleared", "unevictable_pgs_stranded", "nr_mlock",
    ),
    "the nested page tables of the regions exist and a zap removes leaves only": ("nr_sec_page_table_pages",),
}  # fmt: skip

QUIET_PREFIXES: Mapping[str, str] = {
    "thp_": "no page of guest_memfd or of anonymous 4 KiB memory is allocated, split or collapsed as a huge page",
    "mthp/": "no folio of an order above 0 is allocated, split or collapsed",
    "hugetlb/": "no page comes from the hugetlb pools",
}
"""Families of counters, as far as the first sample has them."""

QUIET_PER_GUEST: Mapping[str, str] = {
    "kvm/{guest}/pages_2m": "private folios are of order 0 and shared ones of 4 KiB: KVM maps neither by 2 MiB",
    "kvm/{guest}/pages_1g": "private folios are of order 0 and shared ones of 4 KiB: KVM maps neither by 1 GiB",
}


ORDER_0_ONLY = (
    *next(counters for text, counters in QUIET.items() if "huge page" in text),
    "thp_*", "mthp/*", "kvm/*/pages_2m", "kvm/*/pages_1g",
)  # fmt: skip
"""Counters whose reason above holds only where neither side has folios above order 0."""


ANON_4K_SAYS = "anonymous 4 KiB memory"
"""How the reasons above name the shared side; each backing's record has words of its own."""


def open_counters(
    ledger: Ledger, start: Mapping[str, int], running: Iterable[str], step: str, design: Design, backing: Backing
) -> None:
    """Opens every counter the model speaks of, at 0 and with the reason for it."""
    rule = f"untouched ({design.name})"
    still = f"nothing in this step ({step}) moves it"
    ledger.open(MOVING, rule, still)
    small = (design.folio_orders, backing.folio_orders) == ((0,), (0,))
    moves = (*backing.moves, *design.moves)

    def quiet(counters: Iterable[str], text: str) -> None:
        if small and not moves:
            ledger.open(counters, rule, text)
            return
        for counter in counters:
            if matches(counter, moves):
                ledger.open((counter,), rule, still)
            elif small or not matches(counter, ORDER_0_ONLY):
                ledger.open((counter,), rule, text)
            else:
                ledger.open((counter,), rule, f"no rule of {design.name} and {backing.name} moves it in this step")

    named = (counter for counter in moves if "*" not in counter and not counter.startswith(("mthp/", "hugetlb/")))
    quiet(named, still)
    for text, counters in QUIET.items():
        quiet(counters, text.replace(ANON_4K_SAYS, backing.says))
    for prefix, text in QUIET_PREFIXES.items():
        found = (counter for counter in start if counter.startswith(prefix))
        quiet(found, text.replace(ANON_4K_SAYS, backing.says))
    for guest in running:
        ledger.open((counter.format(guest=guest) for counter in MOVING_PER_GUEST), rule, f"{still} in guest {guest}")
        for counter, text in QUIET_PER_GUEST.items():
            quiet((counter.format(guest=guest),), text)


@cache
def matches(counter: str, patterns: tuple[str, ...]) -> bool:
    """Whether a counter is one of a record's patterns (``thp_split_*``)."""
    return any(fnmatchcase(counter, pattern) for pattern in patterns)
