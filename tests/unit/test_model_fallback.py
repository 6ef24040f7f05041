# SPDX-License-Identifier: GPL-2.0-only
"""Where large allocations may fail: bounds hold whatever each window gets, and are no wider than they have to be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_tables import FILL, PRIVATE, START
from test_model_contents import scenario_of
from test_model_every_design import CHUNKS, LISTS

from harness.model import pages
from harness.model.context import Context
from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.shared import ANON_4K
from harness.model.state import RegionState
from harness.model.steprules import RANGE_RULES
from harness.model.uncertain import _only, _within, split_up
from harness.scenario.scenario import Scenario

MAYBE = HostFacts(ncpu=2, regions={"g0.r0": CHUNKS}, large_folios=None)
COUNTERS = (
    "nr_file_pages", "nr_unevictable", "nr_file_hugepages", "gmem/g0", "kvm/g0/pages_4k", "kvm/g0/pages_2m",
    "thp_split_page", "mthp/2048kB/split", "nr_anon_pages", "nr_sec_page_table_pages", "pgfree", "pgalloc",
)  # fmt: skip
NAMES = ["thp-discard", "thp-2m-truncate-noop", "inplace-thp"]


def bounds(step, counter):
    return step.predictions[counter].low, step.predictions[counter].high


def maybe(steps, design="thp-discard"):
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8}, large_folios=None)
    return predict(scenario_of(steps), design_named(design), START, facts)


def test_what_either_outcome_gives():
    steps = [
        PRIVATE, "{do: touch, range: 'g0.r0[0:1]'}", FILL, "{do: convert, range: 'g0.r0[0:1]', to: shared}",
        "{do: convert, range: 'g0.r0[0:512]', to: shared}",
    ]  # fmt: skip
    predicted = maybe(steps)
    assert [bounds(step, "nr_file_pages") for step in predicted] == [(0, 0), (1, 512), (0, 511), (-1, -1), (-511, -511)]
    assert [bounds(step, "nr_file_hugepages") for step in predicted] == [(0, 0), (0, 1), (0, 0), (-1, 0), (0, 0)]
    assert [bounds(step, "kvm/g0/pages_2m") for step in predicted] == [(0, 0), (0, 1), (0, 0), (-1, 0), (0, 0)]
    assert bounds(predicted[3], "thp_split_page") == (0, 1)
    assert bounds(predicted[4], "thp_split_page") == (0, 0)
    assert "may have got a large folio or not" in predicted[1].predictions["nr_file_pages"].reasons[0].text


def test_windows_are_independent():
    steps = ["{do: convert, range: 'g0.r0[0:1024]', to: private}", "{do: touch, range: 'g0.r0[0:1024]', stride: 512}"]
    assert bounds(maybe(steps)[1], "nr_file_pages") == (2, 1024)
    assert bounds(maybe(steps)[1], "nr_file_hugepages") == (0, 2)


def test_a_window_given_up_is_known_again():
    steps = [PRIVATE, FILL, "{do: convert, range: 'g0.r0[0:512]', to: shared}", "{do: populate, range: 'g0.r0[0:9]'}"]
    assert bounds(maybe(steps)[3], "nr_anon_pages") == (9, 9)
    assert bounds(maybe(steps)[3], "nr_file_pages") == (0, 0)


def test_what_does_not_depend_on_luck_stays_exact():
    steps = [PRIVATE, FILL, "{do: populate, range: 'g0.r0[600:700]'}"]
    _, fill, shared = maybe(steps)
    assert bounds(fill, "nr_file_pages") == bounds(fill, "gmem/g0") == (512, 512)
    assert bounds(fill, "nr_file_hugepages") == (0, 1)
    assert bounds(shared, "nr_anon_pages") == (100, 100)


def test_pressure_makes_large_allocations_unsure_and_designs_without_any_do_not_care():
    steps = [PRIVATE, "{do: pressure, kind: fragment, pages: 10000}", FILL, "{do: close, guest: g0}"]
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
    for design, huge in (("thp-discard", (0, 1)), ("order0", (0, 0)), ("inplace", (0, 0))):
        predicted = predict(scenario_of(steps), design_named(design), START, facts)
        assert bounds(predicted[2], "nr_file_hugepages") == huge
        assert bounds(predicted[2], "gmem/g0") == (512, 512)
        for counter in ("nr_unevictable", "nr_zone_unevictable", "gmem/g0", "kvm/g0/pages_2m", "nr_file_hugepages"):
            assert bounds(predicted[1], counter) == (0, 0)
        for counter in ("nr_file_pages", "F", "pgfree", "nr_anon_pages", "thp_fault_alloc", "kvm/g0/pages_4k"):
            assert len(predicted[1].unpredicted[counter].split()) > 5
            assert counter not in predicted[1].predictions


def test_a_host_that_has_no_large_folios_stays_sure():
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8}, large_folios=False)
    steps = [PRIVATE, "{do: pressure, kind: anon, pages: 1}", "{do: touch, range: 'g0.r0[0:1]'}"]
    last = predict(scenario_of(steps), design_named("thp-discard"), START, facts)[2]
    assert bounds(last, "nr_file_pages") == (1, 1)


def test_compaction_and_dropped_caches_leave_guest_memfd_alone():
    steps = [PRIVATE, FILL, "{do: compact}", "{do: drop_caches}", "{do: place, guest: g0, cpu: 1}", FILL]
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
    start = START | {"compact_isolated": 0, "compact_stall": 0, "pgmigrate_success": 0}
    predicted = predict(scenario_of(steps), design_named("thp-discard"), start, facts)
    compact, drop, place, again = predicted[2:]
    for step in (compact, drop, place, again):
        for counter in ("nr_unevictable", "gmem/g0", "nr_file_hugepages", "kvm/g0/pages_2m", "nr_anon_pages"):
            assert bounds(step, counter) == (0, 0)
    assert {"compact_isolated", "pgmigrate_success", "blocks/Movable", "kvm/g0/pages_4k"} <= set(compact.unpredicted)
    assert bounds(compact, "F") == bounds(compact, "nr_file_pages") == (0, 0)
    assert {"nr_file_pages", "F", "nr_slab_reclaimable"} <= set(drop.unpredicted)
    assert bounds(drop, "compact_isolated") == (0, 0)
    assert "moved shared pages" in again.unpredicted["kvm/g0/pages_4k"]


def test_a_placed_guest_frees_and_allocates_on_its_cpu():
    steps = [
        "{do: place, guest: g0, cpu: 0}", PRIVATE, FILL, "{do: place, guest: g0, cpu: 1}",
        "{do: convert, range: 'g0.r0[0:4]', to: shared}", "{do: populate, range: 'g1.r0[0:3]'}",
    ]  # fmt: skip
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
    predicted = predict(scenario_of(steps), design_named("order0"), START, facts)
    assert predicted[0].traffic_by_cpu == {}
    flows = predicted[2].traffic_by_cpu[0]["Unmovable"]
    assert (flows.allocated, flows.freed) == (512, 0)
    flows = predicted[4].traffic_by_cpu[1]["Unmovable"]
    assert (flows.allocated, flows.freed) == (0, 4)
    assert list(predicted[5].traffic_by_cpu) == [None]
    assert predicted[5].traffic_by_cpu[None]["Movable"].allocated == 3


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(LISTS, st.randoms(use_true_random=False))
def test_bounds_hold_whatever_each_window_gets(name, steps, luck):
    """A walk that draws the luck of every allocation stays within the bounds, counter by counter and step by step."""
    design = design_named(name)
    predicted = predict(Scenario("drawn", tuple(steps), chunks=CHUNKS), design, START, MAYBE)
    missing = pages.strided(0, CHUNKS * 512, 512) if luck.random() < 0.5 else 0
    state = RegionState.empty(CHUNKS)
    if missing:
        state = RegionState.empty(CHUNKS, nested=type(state.nested_missing)().add(9, missing))
    worlds = {number: seen[0] for number, seen in split_up(state, 9).items()}
    backing = design.shared_side or ANON_4K
    for index, step in enumerate(steps):
        if predicted[index].unpredicted.get("nr_file_pages"):
            return
        moved = dict.fromkeys(COUNTERS, 0)
        for number in sorted(worlds):
            part = _within(step, number * 512, (number + 1) * 512)
            if part is None:
                continue
            facts = HostFacts(ncpu=2, regions={"g0.r0": CHUNKS}, large_folios=luck.random() < 0.5)
            context = Context(facts, design, backing, "g0", str(part.range))
            outcome = RANGE_RULES[type(part)](context, worlds[number], part, index + 1)
            worlds[number] = _only(outcome.region, pages.span(number * 512, 512))
            for event in outcome.events:
                for counter, difference in event.moves():
                    if counter in moved:
                        moved[counter] += difference
            if outcome.refused:
                break
        for counter, value in moved.items():
            assert value in predicted[index].predictions[counter], (counter, step.text())
