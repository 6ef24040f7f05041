# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of every shared backing, whatever is done to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from backing_walk import FACTS, PUNCH, Operation, Walk
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model import pages
from harness.model.overhead import extra_pages, shared_frames
from harness.model.state import RegionState

CHUNKS = 2
PAGES = CHUNKS * 512
NAMES = ("anon-4k", "anon-thp", "memfd-4k", "shmem-thp", "hugetlb")
WHATS = ("write", "read", "discard", "to_private", "to_shared", "punch", "pin", "unpin", "shrink")
THP = "mthp/2048kB"
EVENTS = ("thp_", "pgalloc", "pgfree", f"{THP}/split", f"{THP}/anon_fault", f"{THP}/shmem")
"""Counters that only grow; all others are levels and begin at what the walk takes for 0."""


@st.composite
def _operations(draw: st.DrawFn, whats: Sequence[str] = WHATS) -> Operation:
    """Ranges that like to begin and end where something begins or ends."""
    edges = st.sampled_from([0, 1, 5, 16, 64, 255, 256, 511, 512, 513, 768, 1023, 1024])
    first, last = sorted((draw(edges), draw(edges)))
    first = min(first, PAGES - 1)
    return draw(st.sampled_from(whats)), first, max(1, last - first)


LISTS = st.lists(_operations(), max_size=10)
UNPINNED = st.lists(_operations(tuple(what for what in WHATS if what != "pin")), max_size=10)
FACT_SETS = st.builds(
    lambda **changes: replace(FACTS, **changes),
    pt_reclaim=st.booleans(),
    use_zero_page=st.booleans(),
    thp_available=st.sampled_from([True, True, True, False]),
    uniform_split=st.booleans(),
    mirrored_tdp=st.booleans(),
)
common = settings(max_examples=120, deadline=None)
backings = pytest.mark.parametrize("name", NAMES)


def walked(name: str, operations: Sequence[Operation], facts=FACTS, *, kvm: bool = True) -> Walk:
    walk = Walk(name, facts, chunks=CHUNKS)
    for operation in operations:
        if operation[0] != "punch" or name in PUNCH:
            walk.do(operation, kvm=kvm)
            sound(walk.region)
    return walk


def sound(region: RegionState) -> None:
    """No set contradicts another."""
    huge, covered = region.shared_huge.covered(), region.shared_folios.covered()
    assert not huge & ~region.shared_in_folio, "a huge mapping of what is not there"
    assert not region.shared_in_folio & ~(covered & region.shared)
    assert not region.shared_mapped & ~region.shared
    assert not region.shared_held & ~region.shared
    assert not region.shared_lost & (~covered | region.shared_in_folio)
    assert not region.zero_huge.covered() & region.shared
    assert not region.leaf_shared & (~region.shared | region.attr_private)
    assert not region.leaf_shared_large.covered() & (~huge | region.attr_private)
    assert not region.leaf_zero_large.covered() & ~region.zero_huge.covered()
    leaves = [
        region.leaf_shared,
        region.leaf_shared_large.covered(),
        region.leaf_zero,
        region.leaf_zero_large.covered(),
    ]
    assert sum(leaf.bit_count() for leaf in leaves) == (leaves[0] | leaves[1] | leaves[2] | leaves[3]).bit_count()
    assert extra_pages(region) >= 0
    for order, starts in region.shared_folios:
        assert not starts & ~pages.strided(0, PAGES, 1 << order), "a folio that is not aligned to its size"
    spans = sum(starts.bit_count() << order for order, starts in region.shared_folios)
    assert spans == covered.bit_count(), "folios overlap"


@backings
@common
@given(operations=LISTS, facts=FACT_SETS)
def test_levels_are_what_the_state_says(name, operations, facts):
    walk = walked(name, operations, facts)
    region, levels = walk.region, walk.levels
    assert levels["nr_page_table_pages"] == region.tables.bit_count()
    present = region.shared.bit_count()
    assert levels["nr_anon_pages"] == (present if name.startswith("anon") else 0)
    assert levels["nr_shmem"] == levels["nr_file_pages"] == (present if "mem" in name else 0)
    assert levels["nr_hugetlb"] == (shared_frames(region) if "hugetlb" in name else 0)
    assert levels["nr_mapped"] == region.shared_mapped.bit_count()
    assert levels["kvm/g0/pages_4k"] == region.mapped.bit_count()
    assert levels["kvm/g0/pages_2m"] == region.leaf_shared_large.count(9) + region.leaf_zero_large.count(9)
    huge, folios = region.shared_huge.count(9), region.shared_folios.count(9)
    if name == "anon-thp":
        parked = region.shared_parked
        partly = folios - region.shared_folios.inside(region.shared_in_folio).count(9)
        assert levels["nr_anon_transparent_hugepages"] == huge
        assert levels[f"{THP}/nr_anon"] == folios + len(parked.folios)
        assert levels[f"{THP}/nr_anon_partially_mapped"] == partly + parked.queued()
    if name == "shmem-thp":
        assert (levels["nr_shmem_hugepages"], levels["nr_shmem_pmdmapped"]) == (folios, huge)


@backings
@common
@given(operations=LISTS, facts=FACT_SETS)
def test_pages_are_conserved(name, operations, facts):
    walk = walked(name, operations, facts, kvm=False)
    levels = walk.levels
    taken = 0 if "hugetlb" in name else shared_frames(walk.region)
    assert -levels["F"] == taken + levels["nr_page_table_pages"], "frames occupied are what F lost"
    assert levels["pgalloc"] - levels["pgfree"] == -levels["F"]
    used = sum(levels[c] for c in ("F", "nr_anon_pages", "nr_file_pages", "nr_page_table_pages"))
    assert levels["unaccounted"] == -used, "what is neither free nor counted is unaccounted"


@backings
@common
@given(operations=LISTS, facts=FACT_SETS)
def test_no_level_falls_below_zero_and_no_event_is_taken_back(name, operations, facts):
    walk = Walk(name, facts, chunks=CHUNKS)
    for operation in operations:
        if operation[0] == "punch" and name not in PUNCH:
            continue
        moved = walk.do(operation, kvm=False)
        for counter, by in moved.items():
            if counter.startswith(EVENTS):
                assert by > 0, counter
            elif counter.startswith(("nr_", f"{THP}/nr_")):
                assert walk.levels[counter] >= 0, counter


@backings
@common
@given(operations=LISTS)
def test_a_region_given_up_gives_everything_back(name, operations):
    walk = walked(name, operations, kvm=False)
    walk.do(("unpin", 0, PAGES), kvm=False)
    walk.do(("punch" if "hugetlb" in name else "discard", 0, PAGES), kvm=False)
    assert shared_frames(walk.region) == 0
    left = {
        c: level
        for c, level in walk.levels.items()
        if level and not (c.startswith((*EVENTS, "hugetlb/")) or c.endswith(("/split", "/split_failed")))
    }
    assert left == {}


@pytest.mark.parametrize("name", ["anon-4k", "anon-thp", "memfd-4k", "shmem-thp"])
@common
@given(operations=UNPINNED, cuts=st.lists(st.integers(1, PAGES - 1), max_size=5), facts=FACT_SETS)
def test_a_discard_frees_what_its_parts_free(name, operations, cuts, facts):
    whole, cut = (walked(name, operations, facts, kvm=False) for _ in range(2))
    whole.do(("discard", 0, PAGES), kvm=False)
    for start, end in pairwise(sorted({0, PAGES, *cuts})):
        cut.do(("discard", start, end - start), kvm=False)
    for counter in ("nr_anon_pages", "nr_file_pages", "nr_shmem", "nr_mapped", "unaccounted", f"{THP}/nr_anon"):
        assert whole.levels[counter] == cut.levels[counter] == 0, counter
    # page tables are given back by whole chunks only, so that parts may leave theirs
    for walk in (whole, cut):
        assert walk.levels["F"] == -walk.levels["nr_page_table_pages"]


@backings
@common
@given(operations=LISTS, where=_operations(("discard",)))
def test_a_discard_made_twice_does_nothing_the_second_time(name, operations, where):
    walk = walked(name, operations)
    walk.do(where)
    before = walk.region
    again = walk.do(where)
    # what a pin keeps in the file is tried again
    assert {c: by for c, by in again.items() if not c.endswith(("split_page_failed", "split_failed"))} == {}
    assert replace(walk.region, shared_patterns=before.shared_patterns) == before


@common
@given(operations=UNPINNED)
def test_huge_folios_hold_at_most_one_folio_of_nothing_per_chunk(operations):
    assert extra_pages(walked("anon-thp", operations).region) <= CHUNKS * 512
