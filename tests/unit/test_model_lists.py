# SPDX-License-Identifier: GPL-2.0-only
"""Pageblock types from numbers, rule by rule: claims, what merges, what the lists hold afterwards; all by hand.

mm/page_alloc.c: __rmqueue_claim takes whole order-10 blocks, two pageblocks each; __free_one_page merges.
"""

from __future__ import annotations

import pytest
from test_model_contents import scenario_of

from harness.model import blocks
from harness.model.blocks import Claims, FreeLists, _after, _in_blocks, _pieces, claims, demand_of, post_blocks
from harness.model.demand import Demand
from harness.model.designs import design_named
from harness.model.events import (
    LEAF_INSTALLED,
    PRIVATE_FREED,
    SHARED_ALLOCATED,
    SHARED_FREED,
    TABLE_ALLOCATED,
    Event,
    EventKind,
    private_allocated,
)
from harness.model.facts import HostFacts
from harness.model.ledger import Ledger
from harness.model.predict import predict

FACTS = HostFacts(ncpu=2)
KINDS = ("Unmovable", "Movable", "Reclaimable")
SAMPLE = {"free/Unmovable": 100, "free/Reclaimable": 50, "free_order/10": 5}


def event(kind: EventKind, pages: int) -> Event:
    return Event(kind, "g0", pages, "rule", "a sentence of words")


def asked(taken: int = 0, freed: int = 0, *, slab: tuple[int, int] = (0, 0), large: int = 0, over: int = 0) -> Demand:
    """Unmovable pages taken and freed; ``large``: of the taken ones those in large folios."""
    return Demand(
        taken, (taken, taken), (taken - large, taken - large), large,
        {"Unmovable": (taken, freed), "Movable": (0, 0), "Reclaimable": slab}, over,
    )  # fmt: skip


def lists(
    unmovable: tuple[int, int] = (0, 0), reclaimable: tuple[int, int] = (0, 0), claimable: int = 1 << 20,
    small: int = 0, single: int = 0,
) -> FreeLists:  # fmt: skip
    return FreeLists(unmovable, reclaimable, claimable, dict.fromkeys(KINDS, small), dict.fromkeys(KINDS, single))


def posted(before: FreeLists, demand: Demand) -> tuple[dict[str, tuple[int, int]], FreeLists | None]:
    ledger = Ledger()
    ledger.open(blocks.BLOCK_COUNTERS, "claim", "nothing moves it")
    after, _ = post_blocks(ledger, before, demand)
    bounds = {name.removeprefix("blocks/"): (told.low, told.high) for name, told in ledger.close().items()}
    return bounds, after


class TestSample:
    def test_a_host_of_one_zone(self) -> None:
        found = FreeLists.from_sample(SAMPLE | {"pcp": 7}, FACTS)
        plenty = dict.fromkeys(KINDS, 1 << 62)
        assert found == FreeLists(
            (100, 107), (50, 57), 5 * 1024 - 150, plenty | {"Unmovable": 100, "Reclaimable": 50}, plenty
        )

    def test_the_zone_that_is_asked_first(self) -> None:
        first = {"first_zone/Unmovable": 10, "first_zone/Reclaimable": 20, "first_zone/whole": 3}
        found = FreeLists.from_sample(SAMPLE | first | {"pcp": 0}, FACTS)
        assert found is not None
        assert (found.unmovable, found.reclaimable, found.claimable) == ((10, 10), (20, 20), 3 * 1024 - 30)
        assert found.small["Unmovable"] == 100, "what merges may be in any zone"
        del first["first_zone/whole"]
        found = FreeLists.from_sample(SAMPLE | first, FACTS)
        assert found is not None
        assert found.unmovable[0] == 100

    def test_what_the_lists_hide_unless_told(self) -> None:
        found = FreeLists.from_sample(SAMPLE, FACTS)
        assert found is not None
        assert found.unmovable == (100, 100 + 2 * 252 * 2)

    def test_pieces_by_type(self) -> None:
        told = {f"free_small/{kind}": at for at, kind in enumerate(KINDS, 5)}
        told |= {f"free_single/{kind}": at for at, kind in enumerate(KINDS, 8)}
        found = FreeLists.from_sample(SAMPLE | told, FACTS)
        assert found is not None
        assert (dict(found.small), dict(found.single)) == (
            {"Unmovable": 5, "Movable": 6, "Reclaimable": 7}, {"Unmovable": 8, "Movable": 9, "Reclaimable": 10},
        )  # fmt: skip

    def test_fewer_whole_blocks_than_pages_of_the_types(self) -> None:
        found = FreeLists.from_sample(SAMPLE | {"free_order/10": 0}, FACTS)
        assert found is not None
        assert found.claimable == 0

    @pytest.mark.parametrize("name", SAMPLE)
    def test_a_sample_that_lacks_a_list(self, name: str) -> None:
        assert FreeLists.from_sample({key: at for key, at in SAMPLE.items() if key != name}, FACTS) is None


@pytest.mark.parametrize(
    ("free", "demand", "over", "whole", "wanted"),
    [
        ((0, 0), (1, 1), 0, 0, (2, 2)), ((0, 0), (1024, 1024), 0, 0, (2, 2)), ((0, 0), (1025, 1025), 0, 0, (4, 4)),
        ((5, 9), (9, 9), 0, 0, (0, 2)), ((5, 9), (10, 10), 0, 0, (2, 2)), ((0, 0), (0, 1), 0, 0, (0, 2)),
        ((9, 9), (9, 9), 1, 0, (0, 2)), ((9, 9), (0, 0), 99, 0, (0, 0)), ((9, 9), (0, 0), 99, 1, (0, 2)),
        ((0, 0), (1024, 1024), 0, 1024, (2, 4)), ((5000, 5000), (1, 1), 0, 1025, (0, 4)),
    ],
)  # fmt: skip
def test_claims(free: tuple[int, int], demand: tuple[int, int], over: int, whole: int, wanted: tuple[int, int]) -> None:
    assert claims(free, demand, over, whole) == Claims(*wanted)
    assert claims(free, demand, over) == claims(free, demand, over, 0)


@pytest.mark.parametrize(
    ("free", "demand", "claimed", "back", "lost", "wanted"),
    [
        ((100, 200), (50, 60), (0, 0), (0, 0), 0, (40, 150)), ((100, 200), (50, 60), (0, 2), (3, 5), 0, (43, 1179)),
        ((100, 200), (500, 600), (2, 2), (0, 0), 0, (524, 724)), ((10, 20), (50, 60), (0, 0), (7, 8), 0, (7, 8)),
        ((2000, 2000), (0, 0), (0, 0), (0, 0), 3, (464, 2000)), ((100, 100), (0, 0), (0, 0), (0, 0), 1, (0, 100)),
    ],
)  # fmt: skip
def test_what_is_free_afterwards(
    free: tuple[int, int], demand: tuple[int, int], claimed: tuple[int, int], back: tuple[int, int], lost: int,
    wanted: tuple[int, int],
) -> None:  # fmt: skip
    assert _after(free, demand, Claims(*claimed), back, lost) == wanted


class TestPieces:
    def test_what_is_freed_completes_blocks_as_far_as_there_are_pieces(self) -> None:
        moved = {"Unmovable": (0, 8)}
        for small, single, merged in ((4096, 9, 8), (2048, 9, 4), (4096, 2, 4), (503, 9, 0), (504, 9, 1), (4096, 0, 0)):
            found, after = _pieces(lists(small=small, single=single), moved, 0)
            assert found == {"Unmovable": merged, "Movable": 0, "Reclaimable": 0}, small
            completed = min(8, (small + 8) // 512)
            assert after.small["Unmovable"] == small + 8
            assert (after.small["Movable"], after.single["Movable"]) == (small, single)
            assert after.single["Unmovable"] == single + completed

    def test_lists_push_out_as_much_as_they_hold(self) -> None:
        found, after = _pieces(lists(small=4096, single=99), {"Movable": (0, 1)}, 5)
        assert found == {"Unmovable": 0, "Movable": 6, "Reclaimable": 0}
        assert (after.small["Movable"], after.single["Movable"]) == (4102, 105)

    def test_nothing_freed_completes_nothing(self) -> None:
        found, after = _pieces(lists(small=4096, single=99), {"Unmovable": (0, 0), "Reclaimable": (0, 0)}, 500)
        assert found == dict.fromkeys(KINDS, 0)
        assert after == lists(small=4096, single=99)

    def test_what_is_taken_splits_blocks(self) -> None:
        """A block of order 10 that is split leaves a pageblock and 511 pages in pieces of the other at most."""
        for taken, over, splits in ((1, 0, 1), (1024, 0, 1), (1024, 1, 2), (1025, 0, 2)):
            _, after = _pieces(lists(), {"Reclaimable": (taken, 0)}, over)
            assert (after.small["Reclaimable"], after.single["Reclaimable"]) == (511 * splits, splits)
            assert (after.small["Movable"], after.single["Movable"]) == (0, 0)


class TestDemand:
    def test_single_pages_and_tables_and_slabs(self) -> None:
        happened = [
            event(private_allocated(0), 10), event(TABLE_ALLOCATED, 1), event(PRIVATE_FREED, 4),
            event(LEAF_INSTALLED, 9), event(SHARED_ALLOCATED, 7), event(SHARED_FREED, 3),
        ]  # fmt: skip
        assert demand_of(FACTS, happened, (8, 4)) == Demand(
            wanted=11, unmovable=(11, 13), pieces=(11, 13), in_blocks=0,
            moved={"Unmovable": (13, 4), "Movable": (7, 3), "Reclaimable": (8, 4)}, overshoot=2 * 252,
        )  # fmt: skip
        assert demand_of(FACTS, happened, (0, 0)).unmovable == (11, 11)
        assert demand_of(FACTS, happened, (0, 1), 5).unmovable == (11, 18)
        assert (demand_of(FACTS, happened, (8, 4)).freed, demand_of(FACTS, happened, (8, 4)).slab) == (4, (8, 4))

    @pytest.mark.parametrize(("order", "along"), [(9, 2 * 512), (8, 0), (10, 0)])
    def test_large_folios_come_whole(self, order: int, along: int) -> None:
        """The per-CPU list of order 9 draws one more on each CPU (nr_pcp_alloc: at least two)."""
        happened = [event(private_allocated(order), 1 << order), event(private_allocated(0), 3)]
        found = demand_of(FACTS, happened, (0, 0))
        assert (found.wanted, found.pieces) == ((1 << order) + 3, (3, 3))
        assert found.in_blocks == _in_blocks(happened, FACTS) == (1 << order) + along


class TestBounds:
    def test_a_claim_for_what_is_missing(self) -> None:
        bounds, after = posted(lists((100, 100), (7, 9)), asked(1000))
        assert bounds == {"Unmovable": (2, 2), "Movable": (-2, 0), "Reclaimable": (-2, 0)}
        assert after is not None
        assert (after.unmovable, after.claimable) == ((124, 124), (1 << 20) - 1024)
        assert after.reclaimable == (0, 9), "two of its blocks may have gone"

    def test_slabs_may_claim_too(self) -> None:
        bounds, after = posted(lists((100, 100), (3, 3)), asked(slab=(4, 2)))
        assert bounds == {"Unmovable": (-2, 0), "Movable": (-2, 0), "Reclaimable": (0, 2)}
        assert after is not None
        assert (after.unmovable, after.reclaimable) == ((0, 100), (0, 1029))

    def test_large_folios_beside_single_pages(self) -> None:
        """512 pages in one folio and 88 alone: what is free may serve all, or the folio needs a claim, or the pages."""
        bounds, _ = posted(lists((600, 600)), asked(600, large=512))
        assert bounds["Unmovable"] == (0, 2)
        bounds, _ = posted(lists((80, 80)), asked(600, large=512))
        assert bounds["Unmovable"] == (2, 2)
        bounds, _ = posted(lists((80, 80)), asked(1200, large=1024))
        assert bounds["Unmovable"] == (4, 4)

    def test_freed_pages_retype_what_they_merge_with(self) -> None:
        bounds, after = posted(lists((0, 0), small=4096, single=9), asked(freed=3))
        assert bounds == {"Unmovable": (0, 3), "Movable": (-3, 0), "Reclaimable": (-3, 0)}
        assert after is not None
        assert (after.unmovable, after.reclaimable) == ((3, 3), (0, 0))
        demand = Demand(
            0, (0, 0), (0, 0), 0, {"Unmovable": (0, 1), "Movable": (0, 2), "Reclaimable": (0, 4)}, 0
        )  # fmt: skip
        bounds, after = posted(lists((9999, 9999), (9999, 9999), small=4096, single=9), demand)
        assert bounds == {"Unmovable": (-6, 1), "Movable": (-5, 2), "Reclaimable": (-3, 4)}
        assert after is not None
        assert (after.unmovable[0], after.reclaimable[0]) == (10_000 - 6 * 512, 9999 - 3 * 512)

    def test_whole_blocks_that_may_run_out(self) -> None:
        assert posted(lists(claimable=2048), asked(1025))[1] is not None
        assert posted(lists(claimable=2047), asked(1025))[1] is None
        assert posted(lists(claimable=1024), asked(1, slab=(1, 0)))[1] is None
        assert posted(lists(claimable=2048), asked(1, slab=(1, 0)))[1] is not None


class TestSteps:
    def test_runs_of_one_writing_are_one_run_on_both_sides(self) -> None:
        steps = (
            "{do: convert, range: 'g0.r0[4:8]', to: private}", "{do: populate, range: 'g0.r0[2:10]'}",
            "{do: populate, range: 'g0.r0[12:13]'}", "{do: check, range: 'g0.r0[0:16]', expect: either}",
        )  # fmt: skip
        facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
        found = predict(scenario_of(steps), design_named("order0"), {}, facts)[-1].contents
        assert [(run.start, run.count, run.generation) for run in found] == [
            (0, 2, None), (2, 8, 1), (10, 2, None), (12, 1, 2), (13, 3, None),
        ]  # fmt: skip

    def test_after_a_step_that_fails_in_some_cases_only_nothing_is_said(self) -> None:
        """A held page refuses a conversion if it is one of a large folio, which nobody knows."""
        steps = (
            "{do: convert, range: 'g0.r0[0:512]', to: private}", "{do: touch, range: 'g0.r0[0:1]'}",
            "{do: pin, range: 'g0.r0[0:1]'}", "{do: convert, range: 'g0.r0[8:16]', to: shared}", "{do: empty}",
        )  # fmt: skip
        facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8}, large_folios=None)
        predicted = predict(scenario_of(steps), design_named("inplace-thp"), {"gmem/g0": 0, "gmem/g1": 0}, facts)
        assert predicted[2].predictions["nr_file_pages"].exact
        for step in predicted[3:]:
            assert not step.predictions
            assert "fails in some cases only" in step.unpredicted["nr_file_pages"]

    def test_a_refusal_in_every_case_is_one(self) -> None:
        facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8}, large_folios=None)
        steps = ("{do: convert, range: 'g0.r0[0:512]', to: private}", "{do: punch, range: 'g0.r0[0:8]'}")
        step = predict(scenario_of(steps), design_named("thp-2m-truncate"), {}, facts)[1]
        assert step.refused is not None
        assert step.refused.errno == "EINVAL"

    def test_why_small_pages_are_never_huge(self) -> None:
        facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
        (step,) = predict(scenario_of(("{do: empty}",)), design_named("order0"), {}, facts)
        text = step.predictions["nr_file_hugepages"].reasons[0].text
        assert text == "no page of guest_memfd or of anonymous 4 KiB memory is a huge page"

    def test_a_huge_page_of_a_pool_split_and_put_together(self) -> None:
        facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
        whole, page = "g0.r0[0:512]", "g0.r0[7:8]"
        steps = (
            f"{{do: convert, range: '{whole}', to: private}}", f"{{do: populate, range: '{whole}'}}",
            f"{{do: convert, range: '{page}', to: shared}}", f"{{do: convert, range: '{page}', to: private}}",
            f"{{do: convert, range: '{whole}', to: shared}}", f"{{do: populate, range: '{whole}'}}",
            f"{{do: punch, range: '{whole}'}}", f"{{do: check, range: '{whole}', expect: either}}",
        )  # fmt: skip
        start = {"hugetlb/2048kB/free_hugepages": 9, "hugetlb/2048kB/resv_hugepages": 9}
        predicted = predict(scenario_of(steps), design_named("hugetlb"), start, facts)
        states = [step.regions["g0.r0"] for step in predicted]
        assert [state.private_folios.count(9) for state in states] == [0, 1, 0, 1, 0, 0, 0, 0]
        assert [state.private_apart.count(9) for state in states] == [0, 0, 1, 0, 1, 1, 0, 1], (
            "the read at the end brings a huge page, split at once"
        )
        assert [(run.count, run.generation) for run in predicted[-1].contents] == [(512, None)]
        split, merged = (predicted[at].predictions["unaccounted"].reasons for at in (2, 3))
        assert any("7 pages of page structures taken for 1 huge page(s) that are split" in r.text for r in split)
        assert any("returned by 1 huge page(s) that are put together again" in r.text for r in merged)
