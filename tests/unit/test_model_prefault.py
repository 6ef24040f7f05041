# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU that has KVM populate what it converted: as if the guest read each page of it, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model_tables import START

from harness.model import pages
from harness.model.designs import DESIGNS, design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.prediction import StepPrediction
from harness.model.prepared import prepared_regions
from harness.model.shared import ANON_4K
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Convert, PageRange, Populate, Side, Step, Touch

LEAVES_IT = HostFacts(ncpu=2)
POPULATES = replace(LEAVES_IT, prefaults=True)
WHERE = PageRange("g0.r0", 0, 600)
ALL = pages.span(0, 8 * 512)


def walked(
    facts: HostFacts, *steps: Step, design: str = "order0", begin: HostFacts = POPULATES
) -> list[StepPrediction]:
    chosen = design_named(design)
    regions = prepared_regions(chosen, ANON_4K, begin)
    return predict(Scenario("s", steps, chunks=8), chosen, START, facts, regions=regions)


def exact(step: StepPrediction, counter: str) -> int:
    bound = step.predictions[counter]
    assert bound.low == bound.high, counter
    return int(bound.low)


def test_the_preparation_leaves_all_of_the_region_mapped_to_the_zero_page() -> None:
    region = prepared_regions(design_named("order0"), ANON_4K, POPULATES)["g0.r0"]
    assert (region.leaf_zero, region.shared, region.private, region.tables) == (ALL, 0, 0, 0xFF)
    assert prepared_regions(design_named("order0"), ANON_4K, LEAVES_IT) == {}


def test_a_conversion_brings_the_pages_and_the_touch_after_it_none() -> None:
    there, touched, back, written = walked(
        POPULATES, Convert(WHERE, Side.PRIVATE), Populate(WHERE), Convert(WHERE, Side.SHARED), Populate(WHERE)
    )
    # 600 zero leaves go, 600 leaves to the guest_memfd come
    assert [exact(there, name) for name in ("gmem/g0", "nr_file_pages", "nr_anon_pages", "kvm/g0/pages_4k")] == [
        *(600, 600, 0, 0),
    ]
    assert exact(touched, "gmem/g0") == exact(touched, "nr_anon_pages") == exact(touched, "kvm/g0/pages_4k") == 0
    assert exact(back, "gmem/g0") == -600
    assert exact(back, "nr_anon_pages") == exact(back, "kvm/g0/pages_4k") == 0
    # a write under the zero page allocates; QEMU's page table is there since the zero page was mapped
    assert (exact(written, "nr_anon_pages"), exact(written, "nr_page_table_pages")) == (600, 0)


@pytest.mark.parametrize("design", sorted(DESIGNS))
@pytest.mark.parametrize("counter", ["gmem/g0", "nr_file_pages", "nr_anon_pages", "nr_page_table_pages"])
def test_it_is_a_conversion_and_a_read(design: str, counter: str) -> None:
    """The sum of two steps where QEMU leaves memory to the guest."""
    for side in (Side.PRIVATE, Side.SHARED):
        first = (Convert(WHERE, side.other), Convert(PageRange("g0.r0", 0, 512), side))
        read = Touch(PageRange("g0.r0", 0, 512), stride=1, write=False)
        reread = (first[0], Touch(WHERE, stride=1, write=False), first[1], read)
        *_, populated = walked(POPULATES, *first, design=design)
        *_, converted, touched = walked(LEAVES_IT, *reread, design=design)
        together = [converted.predictions[counter], touched.predictions[counter]]
        bound = populated.predictions[counter]
        assert (bound.low, bound.high) == (sum(part.low for part in together), sum(part.high for part in together))
