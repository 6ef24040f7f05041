# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of every design, whatever the scenario: pages are conserved, in place nothing comes or goes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model import pages
from harness.model.context import Design
from harness.model.designs import DESIGNS, design_named
from harness.model.facts import HostFacts
from harness.model.hugetlb import vmemmap_pages
from harness.model.predict import predict
from harness.model.prediction import StepPrediction
from harness.model.state import RegionState
from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    Check,
    Convert,
    Fallocate,
    PageRange,
    Pin,
    Populate,
    PunchHole,
    Side,
    Step,
    Touch,
    Unpin,
)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "model.md"
HEADINGS = set(re.findall(r"^### ([\w-]+)", DOCUMENT.read_text(encoding="utf-8"), re.M))
CHUNKS = 2
PAGES = CHUNKS * 512
START = {"gmem/g0": 5, "hugetlb/2048kB/free_hugepages": 9, "thp_split_page": 0, "mthp/2048kB/split": 0}
WHOLE = PageRange("g0.r0", 0, PAGES)
NAMES = [*DESIGNS, "thp-discard:4", "inplace-thp:3", "thp-2m-truncate-noop:6"]
IN_PLACE = [name for name in NAMES if design_named(name).shared_side]

common = settings(max_examples=40, deadline=None)
every_design = pytest.mark.parametrize("name", NAMES)


@st.composite
def _ranges(draw: st.DrawFn) -> PageRange:
    edges = st.sampled_from([0, 1, 5, 8, 63, 64, 65, 100, 255, 256, 511, 512, 513, 576, 1016, 1023, 1024])
    first, last = sorted((draw(edges), draw(edges)))
    return PageRange("g0.r0", min(first, 1023), max(1, last - first))


RANGES = _ranges()
SIDES = st.sampled_from([Side.PRIVATE, Side.SHARED])
MOVES = st.one_of(
    st.builds(Convert, RANGES, SIDES),
    st.builds(Populate, RANGES),
    st.builds(Touch, RANGES, st.integers(1, 70), st.booleans()),
    st.builds(Check, RANGES, st.just("either")),
    st.builds(Fallocate, RANGES),
    st.builds(PunchHole, RANGES),
)
STEPS = st.one_of(MOVES, st.builds(Pin, RANGES), st.builds(Unpin, RANGES))
LISTS = st.lists(STEPS, max_size=8)
FACTS = st.builds(
    HostFacts,
    ncpu=st.just(2),
    regions=st.just({"g0.r0": CHUNKS}),
    uniform_split=st.booleans(),
    large_folios=st.sampled_from([True, True, False]),
)


def run(name: str, steps: Sequence[Step], facts: HostFacts) -> list[StepPrediction]:
    return predict(Scenario("drawn", tuple(steps), chunks=CHUNKS), design_named(name), START, facts)


def total(steps: Sequence[StepPrediction], counter: str) -> int:
    for step in steps:
        assert step.predictions[counter].exact, f"{counter} of {step.step.text()}: {step.predictions[counter].reasons}"
    return sum(step.predictions[counter].low for step in steps)


def huge_in(region: RegionState) -> int:
    return sum(starts.bit_count() << order - 9 for order, starts in region.private_folios if order >= 9)


def vmemmap(design: Design, region: RegionState) -> int:
    return sum(starts.bit_count() for _, starts in region.private_apart) * vmemmap_pages(design)


@every_design
@common
@given(LISTS, FACTS)
def test_levels_are_what_the_state_holds(name, steps, facts):
    """Each counter of state, summed over the steps, is a fact about the region after the last of them."""
    design, predicted = design_named(name), run(name, steps, facts)
    for upto in range(1, len(predicted) + 1):
        region, so_far = predicted[upto - 1].regions["g0.r0"], predicted[:upto]
        present, parked = region.private.bit_count(), region.private_parked.frames()
        assert total(so_far, "gmem/g0") == present
        if "nr_hugetlb" in design.resident_counters:
            assert total(so_far, "nr_hugetlb") == present
            assert total(so_far, "nr_file_pages") == total(so_far, "nr_unevictable") == 0
        else:
            assert total(so_far, "nr_file_pages") == present
            assert total(so_far, "nr_unevictable") == present + parked
            assert total(so_far, "nr_file_hugepages") == huge_in(region)
        assert total(so_far, "kvm/g0/pages_4k") == region.mapped.bit_count()
        large = region.leaf_private_large
        assert total(so_far, "kvm/g0/pages_2m") == large.count(9)
        lacked = CHUNKS if design.order >= 9 and facts.large_folios else 0
        lacks = region.nested_missing.count(9)
        assert total(so_far, "nr_sec_page_table_pages") == lacked - lacks


@every_design
@common
@given(LISTS, FACTS)
def test_the_state_is_whole(name, steps, facts):
    for step in run(name, steps, facts):
        region = step.regions["g0.r0"]
        folios = region.private_folios.covered()
        assert folios.bit_count() == sum(starts.bit_count() << order for order, starts in region.private_folios)
        assert not folios & ~region.private, "a folio with absent pages"
        assert not region.private_dirty & ~region.private
        assert not region.private_held & ~region.private
        large = region.leaf_private_large.covered()
        assert not large & region.mapped, "mapped twice"
        assert not large & ~(folios & region.attr_private), "a large leaf without a folio or over shared pages"
        assert not region.leaf_private & ~(region.private & region.attr_private)
        assert not pages.groups(region.mapped, 9) & region.nested_missing.starts(9), "a leaf without a table"
        if design_named(name).shared_side:
            assert region.shared == 0
            assert not folios & ~region.attr_private, "shared memory in large folios"
        for layers, side in ((region.private_patterns, region.private), (region.shared_patterns, ~0)):
            assert all(not held & ~side for _, held in layers.layers)


@every_design
@common
@given(LISTS, FACTS)
def test_free_memory_and_what_is_held_stay_the_same(name, steps, facts):
    """F and everything that has pages add up; only slabs and KVM's cache of tables leave room."""
    for step in run(name, steps, facts):
        bounds = step.predictions
        items = ["nr_file_pages", "nr_anon_pages", "nr_page_table_pages", "nr_sec_page_table_pages"]
        held = sum(bounds[counter].low for counter in items)
        assert all(bounds[counter].exact for counter in items)
        free, loose = bounds["F"], bounds["unaccounted"]
        slabs = [bounds[counter] for counter in ("nr_slab_reclaimable", "nr_slab_unreclaimable")]
        assert free.low == -held - loose.high - sum(bound.high for bound in slabs)
        assert free.high == -held - loose.low - sum(bound.low for bound in slabs)


@every_design
@common
@given(st.lists(MOVES, max_size=8), FACTS)
def test_a_window_that_is_given_up_whole_is_empty(name, steps, facts):
    last = run(name, [*steps, Convert(WHOLE, Side.SHARED), PunchHole(WHOLE)], facts)
    region = last[-1].regions["g0.r0"]
    assert last[-1].refused is None
    assert not region.private
    assert not region.private_folios
    assert not region.private_apart
    assert not region.leaf_private
    assert total(last, "gmem/g0") == 0
    assert total(last, "nr_file_hugepages") == 0


@pytest.mark.parametrize("name", IN_PLACE)
@common
@given(LISTS, FACTS, RANGES, SIDES)
def test_in_place_a_conversion_keeps_every_page_and_what_is_in_it(name, steps, facts, where, to):
    predicted = run(name, [*steps, Convert(where, to), Check(WHOLE, "either")], facts)
    before = predicted[-3].regions["g0.r0"] if steps else RegionState.empty(CHUNKS)
    convert, after = predicted[-2], predicted[-2].regions["g0.r0"]
    assert after.private == before.private
    for counter in ("gmem/g0", "nr_file_pages", "nr_unevictable", "nr_anon_pages", "nr_page_table_pages"):
        assert total([convert], counter) == 0
    every = pages.span(0, PAGES)
    assert dict(_merged(after.contents(every))) == dict(_merged(before.contents(every)))
    assert bool(convert.refused) == bool(convert.refused and before.private_held)


def _merged(contents: list[tuple[int | None, int]]) -> list[tuple[int | None, int]]:
    found: dict[int | None, int] = {}
    for generation, held in contents:
        found[generation] = found.get(generation, 0) | held
    return list(found.items())


@common
@given(st.lists(st.integers(0, 511), max_size=6, unique=True), st.booleans())
def test_splitting_and_then_freeing_all_is_freeing_whole(holes, uniform):
    facts = HostFacts(ncpu=2, regions={"g0.r0": CHUNKS}, uniform_split=uniform)
    chunk = PageRange("g0.r0", 0, 512)
    begin = [Convert(chunk, Side.PRIVATE), Populate(chunk)]
    cuts = [PunchHole(PageRange("g0.r0", page, 1)) for page in holes]
    whole = run("thp-discard", [*begin, PunchHole(chunk)], facts)
    parts = run("thp-discard", [*begin, *cuts, PunchHole(chunk)], facts)
    assert whole[-1].regions == parts[-1].regions
    for counter in ("nr_file_pages", "nr_unevictable", "nr_file_hugepages", "gmem/g0", "kvm/g0/pages_2m"):
        assert total(whole[2:], counter) == total(parts[2:], counter)
    assert whole[-1].predictions["pgfree"].low == sum(step.predictions["pgfree"].low for step in parts[2:]) == 512


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("order0", "thp-2m-truncate")])
@common
@given(st.lists(MOVES, max_size=4), FACTS, st.sampled_from([Side.PRIVATE, Side.SHARED]))
def test_a_conversion_by_chunks_does_what_the_whole_does(name, steps, facts, to):
    whole = run(name, [*steps, Convert(WHOLE, to)], facts)
    cut = run(name, [*steps, *(Convert(piece, to) for piece in WHOLE.pieces())], facts)[len(steps) :]
    assert whole[-1].regions == cut[-1].regions
    for counter in ("nr_file_pages", "nr_file_hugepages", "gmem/g0", "kvm/g0/pages_2m", "kvm/g0/pages_4k"):
        assert total(whole[-1:], counter) == total(cut, counter)


@pytest.mark.parametrize("name", ["inplace", "inplace-thp"])
@common
@given(RANGES, st.lists(st.integers(1, 1023), max_size=4), SIDES)
def test_in_place_it_does_not_matter_how_a_conversion_is_cut(name, where, cuts, to):
    facts = HostFacts(ncpu=2, regions={"g0.r0": CHUNKS})
    inside = sorted({where.start, where.end, *(cut for cut in cuts if where.start < cut < where.end)})
    pieces = [PageRange("g0.r0", a, b - a) for a, b in pairwise(inside)]
    before = [Populate(WHOLE), Convert(PageRange("g0.r0", 0, 700), Side.PRIVATE), Populate(WHOLE)]
    whole = run(name, [*before, Convert(where, to)], facts)
    cut = run(name, [*before, *(Convert(piece, to) for piece in pieces)], facts)
    assert whole[-1].regions["g0.r0"].attr_private == cut[-1].regions["g0.r0"].attr_private
    assert whole[-1].regions["g0.r0"].private_folios == cut[-1].regions["g0.r0"].private_folios
    for counter in ("nr_file_pages", "nr_file_hugepages", "gmem/g0"):
        assert total(whole[3:], counter) == total(cut[3:], counter)


@every_design
@common
@given(LISTS, FACTS)
def test_every_bound_has_a_reason_and_exact_ones_add_up(name, steps, facts):
    for step in run(name, steps, facts):
        for counter, bound in step.predictions.items():
            parts = [reason.pages for reason in bound.reasons]
            if None not in parts:
                assert sum(parts) == bound.low == bound.high, counter


@every_design
@common
@given(LISTS, FACTS)
def test_every_rule_has_its_place_in_the_document(name, steps, facts):
    for step in run(name, steps, facts):
        said = {reason.rule for bound in step.predictions.values() for reason in bound.reasons}
        said |= {step.refused.reason.rule} if step.refused else set()
        assert {rule.partition(" (")[0] for rule in said} <= HEADINGS


@every_design
@common
@given(LISTS, FACTS)
def test_pages_per_cpu_are_those_of_the_counters(name, steps, facts):
    for step in run(name, steps, facts):
        flows = [flow for per_type in step.traffic_by_cpu.values() for flow in per_type.values()]
        net = sum(flow.freed - flow.allocated for flow in flows)
        free, slabs = (
            step.predictions["F"],
            [step.predictions[f"nr_slab_{kind}"] for kind in ("reclaimable", "unreclaimable")],
        )
        cache = step.predictions["unaccounted"].high - step.predictions["unaccounted"].low
        assert free.high - sum(-bound.low for bound in slabs) == net
        assert free.low + sum(bound.high for bound in slabs) + cache == net
