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
IN_PLACE = [("inplace", 0), ("inplace-thp", 2), ("inplace-thp", 9), ("hugetlb", 9)]
BACKINGS = ["anon-4k", "memfd-4k", "anon-thp", "shmem-thp", "hugetlb"]

Event = tuple[int, bool]


def events(most_page: int) -> st.SearchStrategy[list[Event]]:
    """Conversions of single pages, dense enough that windows are emptied and filled again."""
    return st.lists(st.tuples(st.integers(0, most_page), st.booleans()), min_size=1, max_size=60)


def curves(design: str, order: int, backing: str, drawn: list[Event], *, uniform: bool = False) -> Curves:
    stream = Stream(np.array([page for page, _ in drawn], np.int64), np.array([to for _, to in drawn]), PAGES)
    name = "thp-discard-uniform" if uniform and design == "thp-discard" else design
    record = design_named(name, order if order else None)
    return simulate(stream, record, backing_named(backing), HostMemory.synthetic(PAGES), points=len(drawn) + 1)


def predictions(
    design: str, order: int, backing: str, drawn: list[Event], *, uniform: bool = False
) -> list[StepPrediction]:
    """Two steps to begin with, then two for each conversion: it and the guest's touch."""
    walk = [Convert(ALL, Side.PRIVATE), Populate(ALL)]
    for page, to_shared in drawn:
        where = PageRange("g0.r0", page, 1)
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


def both(found: list[StepPrediction], moment: int) -> tuple[int, int]:
    """Pages held on the private and on the shared side after a conversion."""
    region = found[1 + 2 * moment].regions["g0.r0"]
    return region.private.bit_count(), region.shared.bit_count()


@pytest.mark.parametrize(("design", "order", "uniform"), DISCARDS)
@settings(max_examples=40, deadline=None)
@given(drawn=events(40))
def test_discard_agrees(design: str, order: int, uniform: bool, drawn: list[Event]) -> None:
    ours = curves(design, order, "anon-4k", drawn, uniform=uniform)
    theirs = predictions(design, order, "anon-4k", drawn, uniform=uniform)
    held = [both(theirs, moment) for moment in range(len(drawn) + 1)]
    assert list(zip(ours["private"].tolist(), ours["shared"].tolist(), strict=True)) == held
    assert ours["extra"].tolist() == [sum(pages) - PAGES for pages in held]
    if order:
        folios = [step.regions["g0.r0"].private_folios.count(order) for step in theirs[1::2]]
        assert ours["huge"].tolist() == folios
    assert ours["splits"].tolist() == total(theirs, "kB/split")
    moved = [after - before for before, after in pairwise(total(theirs, "nr_file_pages"))]
    assert np.diff(ours["private"]).tolist() == moved
