# SPDX-License-Identifier: GPL-2.0-only
"""Drawn scenarios: the same from the same seed, all of them valid, together everywhere the model has a rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from harness.model import pages
from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.prediction import StepPrediction
from harness.scenario.generate import CALLS_MOST, CHUNKS, random_scenario
from harness.scenario.scenario import Scenario
from harness.scenario.steps import CHUNK_PAGES, Close, Convert, PageRange, Place, Side

SEEDS = range(500)
START = {"gmem/g0": 0, "gmem/g1": 0, "free/Unmovable": 20_000, "free/Reclaimable": 5_000, "free_order/10": 400}
REGIONS = {1: {"g0.r0": CHUNKS}, 2: {"g0.r0": CHUNKS, "g1.r0": CHUNKS}}
RULES = {
    "allocate", "fault", "shared-write", "zero-page", "zap", "punch", "discard-shared", "gather", "page-table", "slab",
    "claim", "per-cpu-lists", "close", "untouched (order0)",
}  # fmt: skip
"""Every rule of design order0 that moves a counter: the headings of docs/model.md but ``traffic``, whose allowances
are 0."""


@pytest.fixture(scope="module")
def drawn() -> list[Scenario]:
    return [random_scenario(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def predicted(drawn: list[Scenario]) -> list[list[StepPrediction]]:
    """What the model says on the default kernel: it empties page tables, and they are gone when a case begins."""
    return [
        predict(s, design_named("order0"), START, HostFacts(2, REGIONS[s.guests], tables_present=False)) for s in drawn
    ]


GOLDEN = """\
guests: 2
name: random-21
seed: 21
steps:
- {do: convert, range: 'g1.r0[3264:3393]', to: private}
- {do: touch, range: 'g0.r0[1753:1904]'}
- {do: fallocate, range: 'g0.r0[3072:3584]'}
- {do: empty}
- {do: check, expect: either, range: 'g1.r0[3264:3393]'}
- {do: touch, range: 'g1.r0[3264:3393]', write: false}
- {do: close, guest: g0}
- {do: populate, range: 'g1.r0[3264:3393]'}
"""


def test_a_seed_means_the_same_scenario_for_ever() -> None:
    """A seed that somebody wrote down a year ago has to replay: a change here makes every printed seed worthless."""
    assert random_scenario(21).to_yaml() == GOLDEN


def test_the_same_seed_gives_the_same_scenario(drawn: list[Scenario]) -> None:
    assert drawn == [random_scenario(seed) for seed in SEEDS]
    assert len({scenario.steps for scenario in drawn}) == len(SEEDS)


def test_name_and_seed_say_where_a_scenario_comes_from() -> None:
    scenario = random_scenario(123)
    assert (scenario.name, scenario.seed) == ("random-123", 123)
    assert Scenario.from_yaml(scenario.to_yaml()) == scenario


def test_every_scenario_changes_an_attribute(drawn: list[Scenario]) -> None:
    for scenario in drawn:
        private: dict[str, int] = dict.fromkeys(scenario.regions, 0)
        changed = 0
        for step in scenario.steps:
            if isinstance(step, Convert):
                span = pages.span(step.range.start, step.range.count)
                before = private[step.range.region]
                after = before | span if step.to is Side.PRIVATE else before & ~span
                private[step.range.region] = after
                changed += before != after
        assert changed, scenario.to_yaml()


def test_length_and_cost_are_bounded(drawn: list[Scenario]) -> None:
    assert {len(scenario.steps) for scenario in drawn} == set(range(4, 11))
    for scenario in drawn:
        for step in scenario.steps:
            if isinstance(step, Convert):
                assert len(step.calls()) <= CALLS_MOST, step.text()


def test_every_kind_of_step_is_drawn_often(drawn: list[Scenario]) -> None:
    seen = Counter(type(step).__name__ for scenario in drawn for step in scenario.steps)
    assert set(seen) == {
        "Populate", "Touch", "Convert", "Check", "Fallocate", "PunchHole", "Settle", "Empty", "Close",
    }  # fmt: skip
    assert min(seen.values()) >= 60, seen
    assert seen["Convert"] >= 2 * len(SEEDS)


def test_no_placement_without_cpus_and_some_with_them(drawn: list[Scenario]) -> None:
    assert not any(isinstance(step, Place) for scenario in drawn for step in scenario.steps)
    placed = [step for seed in SEEDS for step in random_scenario(seed, cpus=2).steps if isinstance(step, Place)]
    assert {step.cpu for step in placed} == {0, 1}
    assert len(placed) >= 100


def test_guests(drawn: list[Scenario]) -> None:
    """One guest and two, both used; a guest that ends is used no more, the other one is."""
    assert 0.2 < sum(scenario.guests == 2 for scenario in drawn) / len(SEEDS) < 0.4
    for name in ("g0", "g1"):
        assert sum(name in step.guest_names() for s in drawn for step in s.steps) > len(SEEDS) / 2
    beside = [s for s in drawn if s.guests == 2 and any(isinstance(step, Close) for step in s.steps)]
    assert beside
    assert all(not isinstance(s.steps[-1], Close) for s in beside)


def test_ranges_are_of_every_kind(drawn: list[Scenario]) -> None:
    kinds: Counter[str] = Counter()
    by: Counter[int] = Counter()
    for scenario in drawn:
        earlier: list[PageRange] = []
        for step in scenario.steps:
            for where in step.ranges():
                kinds.update(_kinds(where, earlier))
                earlier.append(where)
            if isinstance(step, Convert):
                by[step.by] += 1
    for kind in (
        "one page", "page 0", "page 511", "page 512", "chunk", "2 MiB unaligned", "chunks", "across chunks", "region",
        "whole nodes", "beside a node", "the same", "overlapping", "adjoining",
    ):  # fmt: skip
        assert kinds[kind] >= 10, (kind, kinds)
    assert {1, 2, 3, 7, 64, 100, 511, 512} <= set(by)
    assert by[1] >= 20


def _kinds(where: PageRange, earlier: list[PageRange]) -> set[str]:
    start, count, end = where.start, where.count, where.end
    aligned = start % CHUNK_PAGES == 0 and end % CHUNK_PAGES == 0
    facts = {
        "one page": count == 1,
        "page 0": start == 0,
        "page 511": start <= 511 < end,
        "page 512": start == 512,
        "chunk": aligned and count == CHUNK_PAGES,
        "2 MiB unaligned": not aligned and count == CHUNK_PAGES,
        "chunks": aligned and count > CHUNK_PAGES,
        "across chunks": not aligned and len(where.pieces()) > 1,
        "region": count == CHUNKS * CHUNK_PAGES,
        "whole nodes": start % 64 == 0 and end % 64 == 0,
        "beside a node": start % 64 == 0 and end % 64 in (1, 63),
    }
    for other in earlier:
        if other.region == where.region:
            facts["the same"] = facts.get("the same", False) or other == where
            meets = other != where and start < other.end and other.start < end
            facts["overlapping"] = facts.get("overlapping", False) or meets
            facts["adjoining"] = facts.get("adjoining", False) or start == other.end or other.start == end
    return {kind for kind, holds in facts.items() if holds}


def test_the_model_takes_every_one_and_every_rule_is_reached(predicted: list[list[StepPrediction]]) -> None:
    seen: Counter[str] = Counter()
    for steps in predicted:
        for step in steps:
            seen.update({reason.rule for p in step.predictions.values() for reason in p.reasons})
    assert set(seen) == RULES, set(seen) ^ RULES
    assert min(seen.values()) >= 50, seen


def test_every_counter_that_can_move_is_moved(predicted: list[list[StepPrediction]]) -> None:
    exact: Counter[str] = Counter()
    for steps in predicted:
        for step in steps:
            exact.update(_moved(step))
    up_and_down = (
        "nr_file_pages", "nr_unevictable", "nr_anon_pages", "nr_page_table_pages", "gmem/g0", "kvm/g0/pages_4k",
    )  # fmt: skip
    for counter in up_and_down:
        assert exact[f"{counter} +"] >= 20, (counter, exact)
        assert exact[f"{counter} -"] >= 20, (counter, exact)


def _moved(step: StepPrediction) -> set[str]:
    return {
        f"{name} {'+' if bound.low > 0 else '-'}"
        for name, bound in step.predictions.items()
        if bound.exact and bound.low
    }


def test_contents_of_every_kind_are_checked(predicted: list[list[StepPrediction]]) -> None:
    kinds: Mapping[str, int] = Counter(run.kind for steps in predicted for step in steps for run in step.contents)
    assert kinds["pattern"] >= 100
    assert kinds["zero"] >= 100
