# SPDX-License-Identifier: GPL-2.0-only
"""Each shared backing by hand, rule by rule: everything an operation moves, and nothing else.

The first table is what was measured on hardware (6.18, per-CPU lists capped); docs/model.md, "Shared backings".
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from backing_walk import FACTS, THP, Operation, Walk

from harness.model.aligned import Blocks

FAULTED = {
    "F": -513, "nr_anon_pages": 512, "nr_anon_transparent_hugepages": 1, "nr_page_table_pages": 1, "pgalloc": 513,
    "thp_fault_alloc": 1, f"{THP}/anon_fault_alloc": 1, f"{THP}/nr_anon": 1,
}  # fmt: skip
PARTLY = {
    "nr_anon_transparent_hugepages": -1, "thp_split_pmd": 1, "thp_deferred_split_page": 1, "unaccounted": 1,
    "nr_anon_pages": -1, f"{THP}/split_deferred": 1, f"{THP}/nr_anon_partially_mapped": 1,
}  # fmt: skip
SHMEM_HUGE = {
    "F": -512, "nr_file_pages": 512, "nr_shmem": 512, "nr_mapped": 512, "nr_shmem_hugepages": 1,
    "nr_shmem_pmdmapped": 1, "thp_file_alloc": 1, "thp_file_mapped": 1, f"{THP}/shmem_alloc": 1,
    # the page table taken in advance and not needed
    "pgalloc": 513, "pgfree": 1,
}  # fmt: skip
SHMEM_CUT = {
    "F": 1, "nr_file_pages": -1, "nr_shmem": -1, "nr_mapped": -512, "nr_shmem_hugepages": -1, "pgfree": 1,
    "nr_shmem_pmdmapped": -1, "thp_split_page": 1, "thp_split_pmd": 1, f"{THP}/split": 1,
}  # fmt: skip

# Backing, what goes before, the operation, all that it moves on the host's side.
MEASURED: dict[str, tuple[str, list[Operation], Operation, dict[str, int]]] = {
    "anon 4K touch": (
        "anon-4k", [("write", 0, 1)], ("write", 1, 9), {"nr_anon_pages": 9, "F": -9, "pgalloc": 9},
    ),
    "anon 4K DONTNEED": (
        "anon-4k", [("write", 0, 9)], ("discard", 0, 6), {"nr_anon_pages": -6, "F": 6, "pgfree": 6},
    ),
    "anon THP touch": ("anon-thp", [], ("write", 7, 1), FAULTED),
    "anon THP touch of two windows": ("anon-thp", [], ("write", 511, 2), {c: 2 * by for c, by in FAULTED.items()}),
    "DONTNEED 4K inside that THP frees nothing": ("anon-thp", [("write", 0, 1)], ("discard", 5, 1), PARTLY),
    "refault of that 4K costs one page more": (
        "anon-thp",
        [("write", 0, 1), ("discard", 5, 1)],
        ("write", 5, 1),
        {"nr_anon_pages": 1, "F": -1, "pgalloc": 1},
    ),
    "DONTNEED of the whole THP": (
        "anon-thp",
        [("write", 0, 1)],
        ("discard", 0, 512),
        {
            "nr_anon_transparent_hugepages": -1, "nr_anon_pages": -512, "pgfree": 513, "F": 513,
            "nr_page_table_pages": -1, f"{THP}/nr_anon": -1,
        },
    ),
    "memfd 4K touch": (
        "memfd-4k",
        [("write", 0, 1)],
        ("write", 1, 9),
        {"nr_file_pages": 9, "nr_shmem": 9, "nr_mapped": 9, "F": -9, "pgalloc": 9},
    ),
    "memfd 4K punch": (
        "memfd-4k",
        [("write", 0, 9)],
        ("punch", 2, 6),
        {"nr_file_pages": -6, "nr_shmem": -6, "nr_mapped": -6, "F": 6, "pgfree": 6},
    ),
    "shmem THP punch 4K": ("shmem-thp", [("write", 0, 1)], ("punch", 256, 1), SHMEM_CUT),
    "hugetlb touch": (
        "hugetlb",
        [],
        ("write", 0, 1024),
        {"nr_hugetlb": 1024, "hugetlb/2048kB/free_hugepages": -2, "hugetlb/2048kB/resv_hugepages": -2},
    ),
    "hugetlb punch 4K": ("hugetlb", [("write", 0, 512)], ("punch", 0, 1), {}),
    "hugetlb punch 2M": (
        "hugetlb",
        [("write", 0, 512)],
        ("punch", 0, 512),
        {"nr_hugetlb": -512, "hugetlb/2048kB/free_hugepages": 1},
    ),
}  # fmt: skip

# The same for what was read in the source.
READ: dict[str, tuple[str, list[Operation], Operation, dict[str, int]]] = {
    "a read of an empty window maps the huge zero folio": (
        "anon-thp", [], ("read", 3, 1), {"F": -1, "nr_page_table_pages": 1, "pgalloc": 1},
    ),
    "a write replaces it, the page table is there": (
        "anon-thp",
        [("read", 3, 1)],
        ("write", 9, 1),
        FAULTED | {"F": -512, "pgalloc": 512, "nr_page_table_pages": 0},
    ),
    "a part of it discarded splits the mapping only": (
        "anon-thp", [("read", 3, 1)], ("discard", 3, 1), {"thp_split_pmd": 1},
    ),
    "the whole of it discarded gives the deposited page table back": (
        "anon-thp", [("read", 3, 1)], ("discard", 0, 512), {"F": 1, "nr_page_table_pages": -1, "pgfree": 1},
    ),
    "a write after that split takes an order-0 page": (
        "anon-thp",
        [("read", 3, 1), ("discard", 3, 1)],
        ("write", 4, 1),
        {"F": -1, "nr_anon_pages": 1, "pgalloc": 1},
    ),
    "a second discard inside the THP does not queue it again": (
        "anon-thp",
        [("write", 0, 1), ("discard", 5, 1)],
        ("discard", 9, 2),
        {"nr_anon_pages": -2, "unaccounted": 2},
    ),
    "the last page of the THP brings the other 511 back": (
        "anon-thp",
        [("write", 0, 1), ("discard", 0, 500)],
        ("discard", 500, 12),
        {
            # the notifier saw less than a page table; a run of 12 takes two entries of the list
            "F": 512, "pgfree": 512, "nr_anon_pages": -12, "unaccounted": -500,
            f"{THP}/nr_anon": -1, f"{THP}/nr_anon_partially_mapped": -1,
        },
    ),
    "the THP and an order-0 page in its hole, discarded at once": (
        "anon-thp",
        [("write", 0, 1), ("discard", 5, 1), ("write", 5, 1)],
        ("discard", 0, 512),
        {
            # 513 pages, the page table, and the page in which the table travels; 5 entries of the list
            "F": 514, "pgfree": 515, "pgalloc": 1, "nr_anon_pages": -512, "unaccounted": -1,
            "nr_page_table_pages": -1, f"{THP}/nr_anon": -1, f"{THP}/nr_anon_partially_mapped": -1,
        },
    ),
    "memory pressure frees what nothing maps, and what holds zeroes": (
        "anon-thp",
        [("write", 0, 500), ("discard", 0, 100)],
        ("shrink", 0, 512),
        {
            # 100 unmapped, 12 never written
            "F": 112, "pgfree": 112, "nr_anon_pages": -12, "unaccounted": -100, "thp_split_page": 1,
            f"{THP}/split": 1, f"{THP}/nr_anon": -1, f"{THP}/nr_anon_partially_mapped": -1,
        },
    ),
    "memory pressure leaves a whole THP alone": ("anon-thp", [("write", 0, 512)], ("shrink", 0, 512), {}),
    "a pin keeps a THP from being split": (
        "anon-thp",
        [("write", 0, 512), ("pin", 77, 1), ("discard", 0, 100)],
        ("shrink", 0, 512),
        {"thp_split_page_failed": 1, f"{THP}/split_failed": 1},
    ),
    "a pin of a discarded page, too": (
        "anon-thp",
        [("write", 0, 512), ("pin", 7, 1), ("discard", 0, 100)],
        ("shrink", 0, 512),
        {"thp_split_page_failed": 1, f"{THP}/split_failed": 1},
    ),
    "a pinned page of a THP keeps all 512": (
        "anon-thp",
        [("write", 0, 512), ("pin", 7, 1)],
        ("discard", 0, 512),
        {
            "F": 1, "pgfree": 1, "nr_page_table_pages": -1, "nr_anon_pages": -512, "unaccounted": 512,
            "nr_anon_transparent_hugepages": -1,
        },
    ),
    "and gives them back with the pin": (
        "anon-thp",
        [("write", 0, 512), ("pin", 7, 1), ("discard", 0, 512)],
        ("unpin", 0, 8),
        {"F": 512, "pgfree": 512, "unaccounted": -512, f"{THP}/nr_anon": -1},
    ),
    "huge mappings take one entry each in the list of what is freed": (
        "anon-thp",
        [("write", 0, 1536)],
        ("discard", 0, 1536),
        {
            "F": 3 * 513, "pgfree": 3 * 513, "nr_anon_pages": -3 * 512, "nr_anon_transparent_hugepages": -3,
            "nr_page_table_pages": -3, f"{THP}/nr_anon": -3,
        },
    ),
    "a pinned order-0 page is kept alone": (
        "anon-thp",
        [("write", 0, 1), ("discard", 5, 2), ("write", 5, 2), ("pin", 5, 1)],
        ("discard", 5, 2),
        {"F": 1, "pgfree": 1, "nr_anon_pages": -2, "unaccounted": 1},
    ),
    "the page that takes its place is not pinned": (
        "anon-thp",
        [("write", 0, 1), ("discard", 5, 2), ("write", 5, 2), ("pin", 5, 1), ("discard", 5, 2), ("write", 5, 2)],
        ("discard", 5, 2),
        {"F": 2, "pgfree": 2, "nr_anon_pages": -2},
    ),
    "nor is it with 4 KiB pages only": (
        "anon-4k",
        [("write", 5, 2), ("pin", 5, 1), ("discard", 5, 2), ("write", 5, 2)],
        ("discard", 5, 2),
        {"F": 2, "pgfree": 2, "nr_anon_pages": -2},
    ),
    "nor is the page that takes its place in a THP": (
        "anon-thp",
        [("write", 0, 512), ("pin", 3, 1), ("discard", 0, 4), ("write", 3, 1)],
        ("discard", 3, 1),
        {"F": 1, "pgfree": 1, "nr_anon_pages": -1},
    ),
    "and the THP goes with its last page once the pin is gone": (
        "anon-thp",
        [("write", 0, 512), ("pin", 3, 1), ("discard", 0, 4), ("write", 3, 1), ("unpin", 3, 1), ("discard", 4, 507)],
        ("discard", 511, 1),
        {
            "F": 512, "pgfree": 512, "nr_anon_pages": -1, "unaccounted": -511,
            f"{THP}/nr_anon": -1, f"{THP}/nr_anon_partially_mapped": -1,
        },
    ),
    "one page pinned twice is kept twice": (
        "anon-4k",
        [("write", 5, 1), ("pin", 5, 1), ("discard", 5, 1), ("write", 5, 1), ("pin", 5, 1), ("discard", 5, 1)],
        ("unpin", 0, 9),
        {"F": 2, "pgfree": 2, "unaccounted": -2},
    ),
    "nor is the page that takes its place in a memfd": (
        "memfd-4k",
        [("write", 5, 2), ("pin", 5, 1), ("discard", 5, 2), ("write", 5, 2)],
        ("discard", 5, 2),
        {"F": 2, "pgfree": 2, "nr_file_pages": -2, "nr_shmem": -2, "nr_mapped": -2},
    ),
    "a pinned huge page of a pool returns with the pin": (
        "hugetlb",
        [("write", 0, 512), ("pin", 9, 1), ("punch", 0, 512)],
        ("unpin", 0, 512),
        {"nr_hugetlb": -512, "hugetlb/2048kB/free_hugepages": 1},
    ),
    "a memfd page is allocated by a read, too": (
        "memfd-4k",
        [("write", 0, 1)],
        ("read", 1, 1),
        {"F": -1, "pgalloc": 1, "nr_file_pages": 1, "nr_shmem": 1, "nr_mapped": 1},
    ),
    "a whole chunk of a memfd discarded frees the page table": (
        "memfd-4k",
        [("write", 0, 5)],
        ("discard", 0, 512),
        {
            "F": 6, "pgfree": 7, "pgalloc": 1, "nr_file_pages": -5, "nr_shmem": -5, "nr_mapped": -5,
            "nr_page_table_pages": -1,
        },
    ),
    "seven mapped pages of a memfd need a page to list them": (
        "memfd-4k",
        [("write", 0, 7)],
        ("punch", 0, 7),
        {"F": 7, "pgfree": 8, "pgalloc": 1, "nr_file_pages": -7, "nr_shmem": -7, "nr_mapped": -7},
    ),
    "a pinned memfd page leaves the file and stays": (
        "memfd-4k",
        [("write", 0, 5), ("pin", 3, 1)],
        ("discard", 0, 5),
        {"F": 4, "pgfree": 4, "nr_file_pages": -5, "nr_shmem": -5, "nr_mapped": -5, "unaccounted": 1},
    ),
    "shmem THP touch": ("shmem-thp", [], ("read", 9, 1), SHMEM_HUGE),
    "a read of the rest of a cut THP maps 64 KiB": (
        "shmem-thp",
        [("write", 0, 1), ("punch", 256, 1)],
        ("read", 258, 1),
        {"F": -1, "pgalloc": 1, "nr_page_table_pages": 1, "nr_mapped": 15},
    ),
    "a write to it maps the folio that is left": (
        "shmem-thp",
        [("write", 0, 1), ("punch", 256, 1)],
        ("write", 3, 1),
        {"F": -1, "pgalloc": 1, "nr_page_table_pages": 1, "nr_mapped": 256},
    ),
    "the hole refaults as an order-0 page": (
        "shmem-thp",
        [("write", 0, 1), ("punch", 256, 1), ("write", 3, 1)],
        ("write", 256, 1),
        {"F": -1, "pgalloc": 1, "nr_file_pages": 1, "nr_shmem": 1, "nr_mapped": 1},
    ),
    "a second hole splits a smaller folio: thp_split_page stands still": (
        "shmem-thp",
        [("write", 0, 1), ("punch", 256, 1)],
        ("punch", 0, 1),
        {"F": 1, "pgfree": 1, "nr_file_pages": -1, "nr_shmem": -1, "mthp/1024kB/split": 1, "mthp/4kB/split": 0},
    ),
    "the whole huge page punched goes unsplit": (
        "shmem-thp",
        [("write", 0, 1)],
        ("punch", 0, 512),
        {
            "F": 512, "pgfree": 512, "nr_file_pages": -512, "nr_shmem": -512, "nr_mapped": -512,
            "nr_shmem_hugepages": -1, "nr_shmem_pmdmapped": -1,
        },
    ),
    "each folio of a memfd takes entries of its own in the list of what is unmapped": (
        "shmem-thp",
        [("write", 0, 1), ("punch", 0, 1), ("write", 1, 511)],
        ("punch", 1, 511),
        {
            # order-0 page 1 and folios of orders 1 to 8: 1 + 8 * 2 entries; the first 8 are on the stack
            "F": 511, "pgfree": 512, "pgalloc": 1, "nr_file_pages": -511, "nr_shmem": -511, "nr_mapped": -511,
        },
    ),
    "a pin keeps a shmem THP whole: the punch unmaps and frees nothing": (
        "shmem-thp",
        [("write", 0, 1), ("pin", 5, 1)],
        ("punch", 256, 1),
        {
            "nr_mapped": -512, "nr_shmem_pmdmapped": -1, "thp_split_pmd": 1, "thp_split_page_failed": 1,
            f"{THP}/split_failed": 1,
        },
    ),
    "QEMU does not discard hugetlb": ("hugetlb", [("write", 0, 512)], ("discard", 0, 512), {}),
    "hugetlb is taken by a read, too": (
        "hugetlb",
        [],
        ("read", 0, 1),
        {"nr_hugetlb": 512, "hugetlb/2048kB/free_hugepages": -1, "hugetlb/2048kB/resv_hugepages": -1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_what_was_measured(name):
    check(*MEASURED[name])


@pytest.mark.parametrize("name", READ)
def test_what_the_source_says(name):
    check(*READ[name])


def check(backing: str, before: list[Operation], operation: Operation, wanted: dict[str, int]) -> None:
    walk = Walk(backing)
    for earlier in before:
        walk.do(earlier)
    assert walk.do(operation, kvm=False) == {counter: by for counter, by in sorted(wanted.items()) if by}
    assert all(len(sentence.split()) >= 5 and "{" not in sentence for sentence in walk.sentences)


def test_a_huge_pool_page_of_1_gib():
    walk = Walk("hugetlb-1g", chunks=1024)
    taken = walk.do(("write", 300_000, 1), kvm=False)
    pool = "hugetlb/1048576kB"
    assert taken == {"nr_hugetlb": 262144, f"{pool}/free_hugepages": -1, f"{pool}/resv_hugepages": -1}
    assert walk.region.shared_huge == Blocks().add(18, 1 << 262144)


def test_uniform_splits_of_6_12_leave_order_0_everywhere():
    walk = Walk("shmem-thp", replace(FACTS, uniform_split=True))
    walk.do(("write", 0, 1))
    assert walk.do(("punch", 256, 1), kvm=False) == dict(sorted(SHMEM_CUT.items()))
    assert not walk.region.shared_folios


def test_halving_splits_leave_one_folio_of_each_order():
    walk = Walk("shmem-thp")
    walk.do(("write", 0, 1))
    walk.do(("punch", 256, 1))
    assert [(order, starts.bit_count()) for order, starts in walk.region.shared_folios] == [
        (order, 1) for order in range(1, 9)
    ]
    assert (walk.region.shared & ~walk.region.shared_in_folio).bit_count() == 1


def test_without_the_zero_page_a_read_faults_a_huge_folio():
    walk = Walk("anon-thp", replace(FACTS, use_zero_page=False))
    assert walk.do(("read", 5, 1), kvm=False) == dict(sorted(FAULTED.items()))
