# SPDX-License-Identifier: GPL-2.0-only
"""When a window of a shared backing is not huge: no huge folio to be had, or a page table of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from backing_walk import FACTS, THP, Walk


@pytest.mark.parametrize(
    ("backing", "fallback"),
    [
        ("anon-thp", {"thp_fault_fallback": 1, f"{THP}/anon_fault_fallback": 1, "nr_anon_pages": 3}),
        (
            "shmem-thp",
            {"thp_file_fallback": 1, f"{THP}/shmem_fallback": 1, "nr_shmem": 3, "nr_file_pages": 3, "nr_mapped": 3},
        ),
    ],
)
def test_without_a_huge_folio_a_window_falls_back_once(backing, fallback):
    walk = Walk(backing, replace(FACTS, thp_available=False))
    small = {"F": -4, "pgalloc": 4, "nr_page_table_pages": 1}
    assert walk.do(("write", 5, 3), kvm=False) == dict(sorted((small | fallback).items()))
    again = walk.do(("write", 9, 1), kvm=False)
    assert not [counter for counter in again if "fallback" in counter]


def test_the_write_to_the_huge_zero_folio_falls_back_to_a_split():
    walk = Walk("anon-thp", replace(FACTS, thp_available=False))
    walk.do(("read", 0, 1))
    moved = walk.do(("write", 5, 3), kvm=False)
    assert moved == {
        "F": -3, "pgalloc": 3, "nr_anon_pages": 3, "thp_fault_fallback": 1, f"{THP}/anon_fault_fallback": 1,
        "thp_split_pmd": 1,
    }  # fmt: skip


def test_a_page_table_of_its_own_keeps_a_window_at_4k():
    walk = Walk("anon-thp", tables=True)
    assert walk.do(("write", 5, 3), kvm=False) == {"F": -3, "nr_anon_pages": 3, "pgalloc": 3}


@pytest.mark.parametrize(("pt_reclaim", "again"), [(True, 512), (False, 1)])
def test_a_window_becomes_huge_again_only_without_its_page_table(pt_reclaim, again):
    walk = Walk("anon-thp", replace(FACTS, pt_reclaim=pt_reclaim))
    for operation in [("write", 0, 1), ("discard", 5, 1), ("discard", 0, 512)]:
        walk.do(operation)
    assert walk.do(("write", 0, 1))["nr_anon_pages"] == again
