# SPDX-License-Identifier: GPL-2.0-only
"""Whole scenarios on each shared backing: the table of a conversion's two touches, and what every prediction keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_model_properties import STEPS, common

from harness.errors import UsageError
from harness.model.designs import BACKINGS, backing_named, design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.prediction import StepPrediction
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Close, Convert, PageRange, Pin, Populate, Pressure, Side, Step, Unpin

FACTS = HostFacts(ncpu=2, regions={"g0.r0": 2}, tables_present=False)
START = {
    "gmem/g0": 0, "thp_fault_alloc": 4, "thp_split_pmd": 0, "thp_split_page": 0,
    "thp_collapse_alloc": 2, "thp_zero_page_alloc": 1, "mthp/2048kB/split": 0, "thp_fault_fallback": 0,
    "thp_file_fallback": 0, "thp_file_alloc": 0,
    "mthp/64kB/split": 0, "hugetlb/2048kB/free_hugepages": 8, "hugetlb/2048kB/nr_hugepages": 8,
}  # fmt: skip
SMALL = sorted(name for name in BACKINGS if name != "hugetlb-1g")
Bound = int | tuple[int, int]


def run(backing: str, *steps: Step, design: str = "order0", facts: HostFacts = FACTS) -> list[StepPrediction]:
    scenario = Scenario("drawn", steps, chunks=2)
    return predict(scenario, design_named(design), START, facts, backing=backing_named(backing))


def at(start: int, count: int) -> PageRange:
    return PageRange("g0.r0", start, count)


# What both halves of a round trip of three pages cost where everything was private, counted over all its steps:
# conversion to shared, first touch there.
THERE: dict[str, dict[str, Bound]] = {
    "anon-4k": {"nr_anon_pages": 3, "nr_shmem": 0, "nr_page_table_pages": 1, "F": -1},
    "anon-thp": {"nr_anon_pages": 512, "thp_fault_alloc": 1, "nr_page_table_pages": 1, "F": 3 - 513},
    "memfd-4k": {"nr_anon_pages": 0, "nr_shmem": 3, "nr_mapped": 3, "nr_page_table_pages": 1},
    "shmem-thp": {"nr_shmem": 512, "nr_shmem_hugepages": 1, "nr_mapped": 512, "nr_page_table_pages": 0},
    "hugetlb": {"nr_hugetlb": 512, "hugetlb/2048kB/free_hugepages": -1, "nr_page_table_pages": 0},
}

# And what the way back costs: conversion to private, first touch there.
BACK: dict[str, dict[str, Bound]] = {
    "anon-4k": {"nr_anon_pages": -3, "F": 0, "nr_file_pages": 3},
    # the memory of the huge folio stays: the private pages are pure extra cost
    "anon-thp": {"nr_anon_pages": -3, "F": -3, "nr_file_pages": 3, "unaccounted": 3, "thp_split_pmd": 1},
    "memfd-4k": {"nr_shmem": -3, "nr_file_pages": 0, "nr_mapped": -3},
    "shmem-thp": {"nr_shmem": -3, "nr_file_pages": 0, "nr_shmem_hugepages": -1, "thp_split_page": 1},
    "hugetlb": {"nr_hugetlb": 0, "F": -3, "nr_file_pages": 3, "thp_split_pmd": 0},
}


def moved(steps: list[StepPrediction], counter: str) -> Bound:
    low = sum(step.predictions[counter].low for step in steps)
    high = sum(step.predictions[counter].high for step in steps)
    return low if low == high else (low, high)


@pytest.mark.parametrize("backing", THERE)
def test_a_round_trip_of_three_pages(backing):
    everything, three = at(0, 512), at(8, 3)
    steps = run(
        backing,
        Convert(everything, Side.PRIVATE),
        Populate(everything),
        Convert(three, Side.SHARED),
        Populate(three),
        Convert(three, Side.PRIVATE),
        Populate(three),
    )
    for counter, wanted in THERE[backing].items():
        assert moved(steps[2:4], counter) == wanted, counter
    for counter, wanted in BACK[backing].items():
        assert moved(steps[4:6], counter) == wanted, counter
    assert moved(steps[2:6], "nr_unevictable") == 0
    assert moved(steps[2:6], "gmem/g0") == 0


def pins() -> st.SearchStrategy[Step]:
    where = st.builds(at, st.integers(0, 900), st.integers(1, 100))
    return st.one_of(st.builds(Pin, where), st.builds(Unpin, where))


LISTS = st.lists(st.one_of(STEPS, STEPS, STEPS, pins()), max_size=7)
SLABS = ("nr_slab_reclaimable", "nr_slab_unreclaimable")
USES = ("nr_file_pages", "nr_anon_pages", "nr_page_table_pages", "nr_sec_page_table_pages")


@pytest.mark.parametrize("backing", SMALL)
@pytest.mark.parametrize("design", ["order0", "thp-discard"])
@common
@given(steps=LISTS)
def test_what_is_neither_free_nor_used_is_unaccounted(design, backing, steps):
    for step in run(backing, *steps, design=design):
        found = step.predictions
        if set(USES) & set(step.unpredicted):
            continue
        uses = [found[counter] for counter in USES]
        if not all(bound.exact for bound in (*uses, found["unaccounted"])):
            continue
        rest = -sum(bound.low for bound in uses) - found["unaccounted"].low
        slabs = [found[counter] for counter in SLABS]
        assert found["F"].low == rest - sum(slab.high for slab in slabs)
        assert found["F"].high == rest - sum(slab.low for slab in slabs)


@pytest.mark.parametrize("backing", SMALL)
@common
@given(steps=LISTS)
def test_every_bound_has_its_sentence_and_no_sentence_speaks_of_another_backing(backing, steps):
    foreign = [] if backing == "anon-4k" else ["anonymous 4 KiB"]
    foreign += [] if backing.startswith("anon") else ["QEMU's anonymous memory", "zero folio"]
    for step in [*run(backing, *steps), *run(backing, Close("g0"))]:
        for counter, bound in step.predictions.items():
            for reason in bound.reasons:
                assert len(reason.text.split()) >= 4, counter
                assert "{" not in reason.text
                assert not [words for words in foreign if words in reason.text], (counter, reason.text)


@pytest.mark.parametrize("backing", SMALL)
def test_what_a_backing_moves_is_open_at_rest_and_unknown_at_close(backing):
    record = backing_named(backing)
    populate, close = run(backing, Populate(at(0, 600)), Close("g0"))
    for counter in ("nr_shmem", "nr_hugetlb", "thp_fault_alloc", "nr_anon_transparent_hugepages", "kvm/g0/pages_2m"):
        assert counter in populate.predictions
    for counter in record.moves:
        if "*" not in counter and ("/" not in counter or counter in START):
            assert counter in close.unpredicted, counter
    assert "thp_collapse_alloc" in populate.predictions
    assert ("nr_file_pages" in close.predictions) is not ("mem" in backing)


@pytest.mark.parametrize(("partly", "known"), [(True, False), (False, True)])
def test_pressure_may_split_what_is_partly_mapped(partly, known):
    steps = [Populate(at(0, 512)), Convert(at(0, 9), Side.PRIVATE)] if partly else [Populate(at(0, 512))]
    after = run("anon-thp", *steps, Pressure("anon", 100), Convert(at(0, 512), Side.PRIVATE))[-1]
    for counter in ("F", "unaccounted", "nr_anon_pages"):
        assert (counter in after.predictions) is known
        assert counter in after.predictions or "huge folios" in after.unpredicted[counter]


@pytest.mark.parametrize("backing", ["anon-thp", "shmem-thp"])
def test_where_memory_is_short_a_first_touch_is_bounded_by_both_outcomes(backing):
    maybe = replace(FACTS, thp_available=None)
    first, back = run(backing, Populate(at(0, 3)), Convert(at(0, 512), Side.PRIVATE), facts=maybe)
    present, wanted, missed = {
        "anon-thp": ("nr_anon_pages", "thp_fault_alloc", "thp_fault_fallback"),
        "shmem-thp": ("nr_shmem", "thp_file_alloc", "thp_file_fallback"),
    }[backing]
    assert (moved([first], present), moved([first], wanted), moved([first], missed)) == ((3, 512), (0, 1), (0, 1))
    assert moved([back], present) == (-512, -3)


@pytest.mark.parametrize("backing", ["anon-thp", "shmem-thp"])
@common
@given(steps=LISTS, available=st.booleans())
def test_what_happens_lies_within_the_bounds_of_what_may(backing, available, steps):
    maybe = run(backing, *steps, facts=replace(FACTS, thp_available=None))
    sure = run(backing, *steps, facts=replace(FACTS, thp_available=available))
    for wide, narrow in zip(maybe, sure, strict=True):
        for counter, bound in wide.predictions.items():
            if counter in narrow.predictions:
                assert bound.low <= narrow.predictions[counter].low, (counter, wide.step.text())
                assert narrow.predictions[counter].high <= bound.high, (counter, wide.step.text())


def test_a_region_that_no_gigabyte_fits_in_is_refused_in_a_sentence():
    with pytest.raises(UsageError, match="hugetlb-1g needs regions of whole pages of 1048576kB"):
        run("hugetlb-1g", Populate(at(0, 1)))
