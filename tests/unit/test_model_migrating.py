# SPDX-License-Identifier: GPL-2.0-only
"""Shared folios that are moved, split and held, and the state in which a testbed is restored."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.errors import UsageError
from harness.model.designs import BACKINGS, backing_named, design_named
from harness.model.facts import HostFacts
from harness.model.migrating import pages_on
from harness.model.predict import predict
from harness.model.prediction import StepPrediction
from harness.model.prepared import prepared_regions
from harness.scenario.region import G0
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Check, Convert, Migrate, Pin, Populate, Side, Split, Step, Unpin
from tests.unit.model_tables import START

PRIVATE = Side.PRIVATE
WINDOW, PAGE = G0[512:1024], G0[700]


def walked(backing: str, *steps: Step, pt_reclaim: bool = True) -> list[StepPrediction]:
    scenario = Scenario("case", steps)
    facts = HostFacts(2, nodes=scenario.nodes, pt_reclaim=pt_reclaim, tables_present=not pt_reclaim)
    record, design = backing_named(backing), design_named("order0")
    begin = prepared_regions(design, record, facts)
    return predict(scenario, design, START, facts, backing=record, regions=begin)


def moves(step: StepPrediction, *counters: str) -> list[int]:
    bounds = [step.predictions[counter] for counter in counters]
    assert all(bound.low == bound.high for bound in bounds)
    return [bound.low for bound in bounds]


MIGRATION = (
    "pgmigrate_success",
    "pgmigrate_fail",
    "thp_migration_success",
    "thp_migration_fail",
    "F",
    "thp_split_page",
)


@pytest.mark.parametrize("backing", ["anon-thp", "shmem-thp"])
def test_a_huge_folio_moves_whole_there_and_back(backing: str) -> None:
    steps = walked(backing, Populate(WINDOW), Migrate(PAGE), Migrate(WINDOW), Migrate(PAGE, node=0))
    assert moves(steps[1], *MIGRATION) == [512, 0, 1, 0, 0, 0]
    assert moves(steps[1], "kvm/g0/pages_2m", "pgalloc", "pgfree") == [-1, 512, 512]
    assert moves(steps[2], *MIGRATION) == [0] * 6
    assert moves(steps[3], *MIGRATION) == [512, 0, 1, 0, 0, 0]
    assert set(pages_on(steps[1].regions["g0.r0"], 512, 512)) == {1}
    assert set(pages_on(steps[3].regions["g0.r0"], 0, 4096)) == {0}


@pytest.mark.parametrize("backing", ["anon-4k", "memfd-4k"])
def test_small_pages_move_one_by_one(backing: str) -> None:
    steps = walked(backing, Populate(WINDOW), Migrate(G0[512:520]))
    assert moves(steps[1], *MIGRATION) == [8, 0, 0, 0, 0, 0]


def test_what_is_given_up_comes_back_on_the_first_node() -> None:
    steps = walked("anon-4k", Populate(PAGE), Migrate(PAGE), Convert(PAGE, PRIVATE), Convert(PAGE, Side.SHARED))
    assert [pages_on(step.regions["g0.r0"], 700, 1) for step in steps] == [[0], [1], [0], [0]]


def test_a_partly_mapped_folio_is_split_to_move() -> None:
    """300 unmapped pages come free; all 512 count as moved, one huge folio as failed and split."""
    steps = walked("anon-thp", Populate(WINDOW), Convert(G0[600:900], PRIVATE), Migrate(G0[512]))
    assert moves(steps[2], *MIGRATION) == [512, 0, 0, 1, 300, 1]
    assert moves(steps[2], "thp_migration_split", "pgalloc", "pgfree", "unaccounted") == [1, 212, 512, -300]
    assert sum(pages_on(steps[2].regions["g0.r0"], 512, 512)) == 212


def test_a_held_folio_stays_and_moves_when_it_is_let_go() -> None:
    steps = walked("shmem-thp", Populate(WINDOW), Pin(PAGE), Migrate(WINDOW), Unpin(PAGE), Migrate(WINDOW))
    assert moves(steps[2], *MIGRATION) == [0, 512, 0, 1, 0, 0]
    assert moves(steps[2], "pgalloc", "pgfree", "kvm/g0/pages_2m") == [1024, 1024, -1]
    assert moves(steps[4], *MIGRATION) == [512, 0, 1, 0, 0, 0]


def test_what_a_call_did_before_a_held_folio_is_not_guessed() -> None:
    steps = (Populate(WINDOW), Convert(G0[512], PRIVATE), Populate(G0[513:1024]), Pin(G0[800]), Migrate(WINDOW))
    with pytest.raises(UsageError, match="the kernel ends a call at a large folio that somebody holds"):
        walked("shmem-thp", *steps)


@pytest.mark.parametrize(
    ("backing", "wanted"), [("anon-thp", [1, 1, 0, 0, -1, 0]), ("shmem-thp", [1, 1, 0, -512, 0, -1])]
)
def test_a_split_that_is_asked_for(backing: str, wanted: Sequence[int]) -> None:
    steps = walked(backing, Populate(WINDOW), Split(PAGE), Split(WINDOW))
    counters = ("thp_split_page", "thp_split_pmd", "unaccounted", "nr_mapped", "nr_anon_transparent_hugepages")
    counters = (*counters, "nr_shmem_hugepages")
    got = [steps[1].predictions[name].low if name in steps[1].predictions else 0 for name in counters]
    assert got == wanted
    assert moves(steps[2], "thp_split_page", "thp_split_pmd") == [0, 0]


def test_pages_of_zeroes_go_with_a_split() -> None:
    """Of 512 pages the guest wrote one; the others hold zeroes, and the zero page takes their place."""
    steps = walked("anon-thp", Populate(PAGE), Split(WINDOW))
    assert moves(steps[1], "nr_anon_pages", "F") == [-511, 511]


def test_a_held_folio_is_passed_over() -> None:
    steps = walked("shmem-thp", Populate(WINDOW), Pin(PAGE), Split(WINDOW), Unpin(PAGE), Split(WINDOW))
    assert moves(steps[2], "thp_split_page", "thp_split_page_failed", "thp_split_pmd") == [0, 0, 0]
    assert moves(steps[4], "thp_split_page") == [1]


@pytest.mark.parametrize("step", [Migrate(WINDOW), Split(WINDOW)])
def test_no_rule_is_made_up_for_hugetlb(step: Step) -> None:
    with pytest.raises(UsageError, match="no rule of hugetlb says what happens then"):
        walked("hugetlb", step)


@pytest.mark.parametrize("pt_reclaim", [True, False])
@pytest.mark.parametrize("backing", [name for name in BACKINGS if name != "hugetlb-1g"])  # no testbed has that one
def test_what_a_testbed_is_restored_with(backing: str, pt_reclaim: bool) -> None:
    """Where the kernel keeps empty page tables, 4 KiB backings have them; huge mappings took theirs along."""
    (step,) = walked(backing, Populate(WINDOW), pt_reclaim=pt_reclaim)
    region = prepared_regions(
        design_named("order0"), backing_named(backing), HostFacts(2, tables_present=not pt_reclaim)
    ).get("g0.r0")
    tables = {"anon-4k": 1, "memfd-4k": 1, "anon-thp": 1, "shmem-thp": 0, "hugetlb": 0}[backing]
    small = backing in ("anon-4k", "memfd-4k")
    assert moves(step, "nr_page_table_pages") == [tables if pt_reclaim or not small else 0]
    if backing == "hugetlb":
        assert region is not None
        assert region.shared.bit_count() == 4096
        assert moves(step, "nr_hugetlb", "kvm/g0/pages_2m") == [0, 1]


def test_a_pool_page_shows_what_the_preparation_wrote() -> None:
    steps = walked("hugetlb", Check(PAGE, "pattern"), Convert(PAGE, PRIVATE), Check(PAGE, "zero"))
    assert [(run.start, run.generation) for run in steps[0].contents] == [(700, 0)]
