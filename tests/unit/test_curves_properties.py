# SPDX-License-Identifier: GPL-2.0-only
"""The two readings of the designs agree: the curves and predict() over the same small scenarios.

They share no rule: one keeps sets of pages as integers and reasons step by step, the other counts in compact arrays.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model import designs as steps
from harness.model.curves.designs import backing_named, design_named
from harness.model.curves.host import HostMemory
from harness.model.curves.simulate import Curves, simulate
from harness.model.curves.streams import Stream
from harness.model.facts import HostFacts
from harness.model.overhead import shared_frames
from harness.model.predict import predict
from harness.model.prediction import StepPrediction
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Convert, PageRange, Populate, Side, Touch

CHUNKS = 2
PAGES = CHUNKS * 512
ALL = PageRange("g0.r0", 0, PAGES)

DISCARDS = [("order0", 0, False)] + [
    ("thp-discard", order, uniform) for order in (1, 2, 3, 4, 9) for uniform in (False, True)
]
KEEPING = [
    ("inplace", 0), ("inplace-thp", 1), ("inplace-thp", 3), ("inplace-thp", 9), ("hugetlb", 9), ("hugetlb-no-hvo", 9),
    ("thp-2m-truncate-noop", 1), ("thp-2m-truncate-noop", 3), ("thp-2m-truncate-noop", 9),
]  # fmt: skip
BACKINGS = ["anon-4k", "memfd-4k", "anon-thp", "shmem-thp", "hugetlb"]

Event = tuple[int, bool]


def events(most_page: int) -> st.SearchStrategy[list[Event]]:
    """Conversions of single pages, dense enough that windows are emptied and filled again."""
    return st.lists(st.tuples(st.integers(0, most_page), st.booleans()), min_size=1, max_size=60)


def curves(
    design: str, order: int, backing: str, drawn: list[Event], *, uniform: bool = False, cell_order: int = 0
) -> Curves:
    stream = Stream(
        np.array([page for page, _ in drawn], np.int64), np.array([to for _, to in drawn]), PAGES, cell_order
    )
    name = "thp-discard-uniform" if uniform and design == "thp-discard" else design
    record = design_named(name, order if order else None)
    return simulate(stream, record, backing_named(backing), HostMemory.synthetic(PAGES), points=len(drawn) + 1)


def predictions(
    design: str, order: int, backing: str, drawn: list[Event], *, uniform: bool = False, cell_order: int = 0
) -> list[StepPrediction]:
    """Two steps to begin with, then two for each conversion: it and the guest's touch."""
    walk = [Convert(ALL, Side.PRIVATE), Populate(ALL)]
    for page, to_shared in drawn:
        where = PageRange("g0.r0", page << cell_order, 1 << cell_order)
        walk += [Convert(where, Side.SHARED if to_shared else Side.PRIVATE), Touch(where)]
    facts = HostFacts(ncpu=2, regions={"g0.r0": CHUNKS}, uniform_split=uniform)
    return predict(
        Scenario("cross", tuple(walk), chunks=CHUNKS),
        steps.design_named(design, order if order not in (0, 9) else None),
        {"gmem/g0": 0},
        facts,
        backing=steps.backing_named(backing),
    )


def total(found: list[StepPrediction], ending: str) -> list[int]:
    """Sum so far of the exact counters whose name ends so, after the first two steps and after each conversion."""
    sums, so_far = [], 0
    for step in found:
        named = [p for name, p in step.predictions.items() if name.endswith(ending)]
        assert all(p.exact for p in named)
        so_far += sum(p.low for p in named)
        sums.append(so_far)
    return sums[1::2]


def held(found: list[StepPrediction]) -> list[tuple[int, int]]:
    """Pages of memory on the private and on the shared side, at the beginning and after each conversion."""
    regions = [step.regions["g0.r0"] for step in found[1::2]]
    return [(region.private.bit_count(), shared_frames(region)) for region in regions]


def check_pages(ours: Curves, theirs: list[StepPrediction], vmemmap: int = 0) -> None:
    """``vmemmap``: pages of struct pages for each folio that is split."""
    pages = held(theirs)
    assert list(zip(ours["private"].tolist(), ours["shared"].tolist(), strict=True)) == pages
    split = (ours["huge"][0] - ours["huge"]).tolist()
    assert ours["extra"].tolist() == [sum(both) - PAGES + vmemmap * n for both, n in zip(pages, split, strict=True)]


@pytest.mark.parametrize(("design", "order", "uniform"), DISCARDS)
@settings(max_examples=25, deadline=None)
@given(drawn=events(40))
def test_discard_agrees(design: str, order: int, uniform: bool, drawn: list[Event]) -> None:
    ours = curves(design, order, "anon-4k", drawn, uniform=uniform)
    theirs = predictions(design, order, "anon-4k", drawn, uniform=uniform)
    check_pages(ours, theirs)
    if order:
        folios = [step.regions["g0.r0"].private_folios.count(order) for step in theirs[1::2]]
        assert ours["huge"].tolist() == folios
    assert ours["splits"].tolist() == total(theirs, "kB/split")
    moved = [after - before for before, after in pairwise(total(theirs, "nr_file_pages"))]
    assert np.diff(ours["private"]).tolist() == moved


@pytest.mark.parametrize(("design", "order"), KEEPING)
@settings(max_examples=20, deadline=None)
@given(drawn=events(20))
def test_designs_that_free_nothing_agree(design: str, order: int, drawn: list[Event]) -> None:
    ours = curves(design, order, "anon-4k", drawn)
    theirs = predictions(design, order, "anon-4k", drawn)
    check_pages(ours, theirs, vmemmap=7 if design == "hugetlb" else 0)
    regions = [step.regions["g0.r0"] for step in theirs[1::2]]
    if order:
        assert ours["huge"].tolist() == [region.private_folios.count(order) for region in regions]
    shared = [PAGES - region.attr_private.bit_count() for region in regions]
    assert ours["converted"].tolist() == shared


@pytest.mark.parametrize("backing", BACKINGS)
@settings(max_examples=25, deadline=None)
@given(drawn=events(20))
def test_backings_agree(backing: str, drawn: list[Event]) -> None:
    check_pages(curves("order0", 0, backing, drawn), predictions("order0", 0, backing, drawn))


@settings(max_examples=20, deadline=None)
@given(drawn=st.lists(st.tuples(st.integers(0, CHUNKS - 1), st.booleans()), min_size=1, max_size=12), data=st.data())
def test_whole_windows_agree(drawn: list[Event], data: st.DataObject) -> None:
    """Conversions of 2 MiB at a time."""
    large = [
        ("thp-discard", 9),
        ("thp-discard", 4),
        ("thp-2m-truncate-noop", 9),
        ("inplace-thp", 9),
        ("inplace-thp", 3),
    ]
    design, order = data.draw(st.sampled_from([("order0", 0), *large]))
    backing = data.draw(st.sampled_from(BACKINGS[:4]))
    ours = curves(design, order, backing, drawn, cell_order=9)
    theirs = predictions(design, order, backing, drawn, cell_order=9)
    check_pages(ours, theirs)
    if order:
        assert ours["huge"].tolist() == [step.regions["g0.r0"].private_folios.count(order) for step in theirs[1::2]]
