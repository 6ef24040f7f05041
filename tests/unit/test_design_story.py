# SPDX-License-Identifier: GPL-2.0-only
"""The story of suites/designs is told differently by every design: nobody can pass as another, whatever is measured."""

from __future__ import annotations

from itertools import permutations

import pytest

from harness.model.designs import DESIGNS, design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.prediction import StepPrediction
from harness.scenario.scenario import Scenario
from suites.designs.test_designs import STORY

START = {"gmem/g0": 0, "nr_file_hugepages": 0, "thp_split_page": 0, "mthp/2048kB/split": 0, "nr_hugetlb": 0}


def told(name: str) -> list[StepPrediction]:
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8}, large_folios=True)
    return predict(Scenario("story", STORY), design_named(name), START, facts)


def difference(one: str, other: str) -> tuple[int, str] | None:
    """First step and counter of which no observation fits both designs."""
    for mine, theirs in zip(told(one), told(other), strict=True):
        if (mine.refused is None) != (theirs.refused is None):
            return mine.index, "refused"
        for counter in sorted(mine.predictions.keys() & theirs.predictions.keys()):
            a, b = mine.predictions[counter], theirs.predictions[counter]
            if a.low > b.high or b.low > a.high:
                return mine.index, counter
    return None


@pytest.mark.parametrize(("one", "other"), sorted(permutations(DESIGNS, 2)))
def test_no_observation_fits_two_designs(one: str, other: str) -> None:
    assert difference(one, other) is not None, f"{one} passes as {other}"
