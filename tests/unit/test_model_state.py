# SPDX-License-Identifier: GPL-2.0-only
"""What the model keeps of a region, piece by piece: patterns, references, windows cut out and put together."""

from __future__ import annotations

import dataclasses

import pytest

from harness.errors import UsageError
from harness.model import pages
from harness.model.aligned import Blocks, full_groups, size_name, spread
from harness.model.context import Context, Outcome, chain
from harness.model.designs import BACKINGS, DESIGNS, FAMILIES, backing_named, design_named
from harness.model.facts import HostFacts
from harness.model.hostwide import PARTLY_MAPPED, loose, split_perhaps
from harness.model.parked import Parked
from harness.model.shared import ANON_4K
from harness.model.splitting import Cut, buddy_pieces, cut
from harness.model.state import Patterns, RegionState, window_starts
from harness.model.uncertain import _only, _outcomes, _parked_in, _united, _within, split_up, unsure, window_order
from harness.scenario.steps import Compact, DropCaches, PageRange, Populate, Pressure, Touch
from tests.unit.state_bench import ONE, TWO

ORDERS = {name: family.orders for name, family in FAMILIES.items()}


def test_a_region_begins_empty() -> None:
    state = RegionState.empty(3)
    assert state.tables == 0b111
    for known in dataclasses.fields(state):
        value = getattr(state, known.name)
        if known.name not in ("chunks", "tables"):
            assert not value or value in (Patterns(), Parked()), known.name
    assert RegionState.empty(3, tables=False) == RegionState(3)
    assert RegionState.empty(1, nested=Blocks().add(9, 1)).nested_missing.count(9) == 1


def test_patterns_join_where_they_speak_of_the_same_writing() -> None:
    left = Patterns().write(0b1, 1).write(0b10, 2)
    assert left.join([(None, 0b1000), (2, 0b100), (3, 0b10000)]).layers == ((1, 0b1), (2, 0b110), (3, 0b10000))
    assert list(left.within(0b111)) == [(1, 0b1), (2, 0b10), (None, 0b100)]
    assert list(left.within(0b10)) == [(2, 0b10)]
    assert left.write(0, 9) is left
    assert left.write(0b1, 3).layers == ((2, 0b10), (3, 0b1))


def test_contents_are_those_of_the_side_that_the_attribute_names() -> None:
    state = RegionState(1, attr_private=0b11).write(0b1111, 1)
    assert (state.private_patterns.layers, state.shared_patterns.layers) == (((1, 0b11),), ((1, 0b1100),))
    assert state.contents(0b11110) == [(1, 0b10), (1, 0b1100), (None, 0b10000)]


class TestParked:
    def test_one_page_may_be_kept_several_times(self) -> None:
        kept = Parked().park_pages(0b011).park_pages(0b110)
        assert kept.singles == (0b111, 0b010)
        assert kept.frames() == 4
        assert kept.park_pages(0b010).singles == (0b111, 0b010, 0b010)
        assert kept.park_pages(0) == kept
        left, singles, folios = kept.release(0b010)
        assert (left.singles, singles, folios) == ((0b101,), 2, ())

    def test_a_folio_is_kept_by_its_last_reference(self) -> None:
        kept = Parked().park_folio(2, 4, 0b110000).park_folio(9, 512, 1 << 513, queued=True)
        assert (kept.frames(), kept.queued()) == (516, 1)
        left, singles, folios = kept.release(0b010000)
        assert (left.frames(), left.folios[0][2], singles, folios) == (516, 0b100000, 0, ())
        left, _, folios = left.release(0b100000)
        assert (left.frames(), folios, left.queued()) == (512, (2,), 1)
        assert left.release(TWO)[0] == Parked()


class TestWindows:
    FULL = RegionState(
        4, attr_private=ONE | TWO, private=ONE | TWO, shared=ONE << 1024, leaf_private=ONE, leaf_shared=TWO << 1024,
        leaf_zero=ONE << 1024, tables=0b1111, private_patterns=Patterns().write(1, 1).write(TWO, 2),
        private_folios=Blocks().add(9, 1 | 1 << 512), private_held=1 | 1 << 600,
        shared_parked=Parked((0b1 | 1 << 513, 0b1), ((9, 0, 3, False), (9, 512, 1 << 515, True))),
    )  # fmt: skip

    def test_one_window_of_a_region(self) -> None:
        assert _only(self.FULL, TWO) == RegionState(
            4, attr_private=TWO, private=TWO, tables=0b10, private_patterns=Patterns().write(TWO, 2),
            private_folios=Blocks().add(9, 1 << 512), private_held=1 << 600,
            shared_parked=Parked((1 << 513,), ((9, 512, 1 << 515, True),)),
        )  # fmt: skip

    @pytest.mark.parametrize(("order", "count"), [(9, 4), (10, 2), (18, 1)])
    def test_cut_up_and_put_together_it_is_the_region(self, order: int, count: int) -> None:
        worlds = split_up(self.FULL, order)
        assert list(worlds) == list(range(count))
        together = RegionState(4)
        for (state,) in worlds.values():
            together = _united(together, state)
        assert together == dataclasses.replace(
            self.FULL, shared_parked=dataclasses.replace(together.shared_parked, singles=(1 | 1 << 513, 1))
        )

    def test_a_region_that_is_no_whole_number_of_windows(self) -> None:
        assert list(split_up(RegionState(3), 10)) == [0, 1]

    def test_what_references_keep_belongs_to_the_window_of_its_first_page(self) -> None:
        kept = Parked((0b1, 0b1), ((9, 0, 1, False), (9, 512, 1 << 600, False)))
        assert _parked_in(kept, ONE) == Parked((1, 1), ((9, 0, 1, False),))
        assert _parked_in(kept, TWO) == Parked((), ((9, 512, 1 << 600, False),))

    @pytest.mark.parametrize(
        ("start", "count", "stride", "first", "end", "part"),
        [
            (0, 1024, 1, 512, 1024, (512, 512)), (100, 100, 1, 0, 512, (100, 100)), (100, 100, 1, 512, 1024, None),
            (500, 24, 1, 0, 512, (500, 12)), (500, 24, 1, 512, 1024, (512, 12)), (0, 512, 1, 512, 1024, None),
            (0, 1024, 100, 512, 1024, (600, 424)), (10, 1014, 502, 512, 1024, (512, 512)),
            (0, 513, 400, 512, 1024, None), (0, 801, 400, 512, 1024, (800, 1)), (512, 1, 7, 512, 1024, (512, 1)),
        ],
    )  # fmt: skip
    def test_the_part_of_a_step_in_a_window(
        self, start: int, count: int, stride: int, first: int, end: int, part: tuple[int, int] | None
    ) -> None:
        """Strided touches go on at their own pages, not at the window's edge."""
        found = _within(Touch(PageRange("g0.r0", start, count), stride=stride), first, end)
        assert (found and (found.ranges()[0].start, found.ranges()[0].count)) == part
        if stride == 1:
            plain = _within(Populate(PageRange("g0.r0", start, count)), first, end)
            assert (plain and (plain.ranges()[0].start, plain.ranges()[0].count)) == part

    @pytest.mark.parametrize(
        ("falls_back", "known", "outcomes"),
        [
            (True, True, (True, False)), (True, None, (True, False)), (True, False, (False,)),
            (False, True, (True,)), (False, None, (True,)), (False, False, (False,)),
        ],
    )  # fmt: skip
    def test_luck(self, falls_back: bool, known: bool | None, outcomes: tuple[bool, ...]) -> None:
        assert _outcomes(falls_back, known) == outcomes

    def test_which_pairs_may_get_something_smaller(self) -> None:
        facts = HostFacts(ncpu=2)
        assert not unsure(design_named("order0"), ANON_4K, facts)
        assert unsure(design_named("thp-discard"), ANON_4K, facts)
        assert unsure(design_named("order0"), backing_named("anon-thp"), facts)
        assert not unsure(design_named("thp-discard"), ANON_4K, dataclasses.replace(facts, large_folios=False))
        assert not unsure(design_named("hugetlb"), backing_named("hugetlb"), facts)
        orders = [window_order(design_named(name), ANON_4K) for name in ("order0", "thp-discard:4", "thp-discard:11")]
        assert orders == [9, 9, 11]
        assert window_order(design_named("order0"), backing_named("hugetlb-1g")) == 18


class TestBlocks:
    def test_sizes(self) -> None:
        assert [size_name(order) for order in (0, 1, 9, 18)] == ["4kB", "8kB", "2048kB", "1048576kB"]
        assert spread(1 | 1 << 8, 2) == 0xF0F
        assert full_groups(0xF7F, 2) == 1 | 1 << 8
        assert full_groups(0xF7F, 3) == 0
        assert full_groups(0, 3) == 0
        assert full_groups(0b110, 1) == 0, "aligned groups only"
        assert window_starts(0b1011) == 1 | 1 << 512 | 1 << 1536

    def test_sets_of_blocks(self) -> None:
        some = Blocks().add(2, 1 | 1 << 4).add(1, 1 << 8)
        assert some.layers == ((1, 1 << 8), (2, 1 | 1 << 4))
        assert some.covered() == 0x3FF
        assert some.touching(1 << 6).layers == ((2, 1 << 4),)
        assert some.inside(0x2FF).layers == ((2, 1 | 1 << 4),)
        assert some.inside(0x3F0).layers == ((1, 1 << 8), (2, 1 << 4))
        assert some.without(Blocks().add(2, 1)).layers == ((1, 1 << 8), (2, 1 << 4))
        assert some.remove(1, 1 << 8).layers == ((2, 1 | 1 << 4),)
        assert some.join(Blocks().add(1, 1 << 10)).count(1) == 2
        assert (some.starts(3), some.count(3), bool(some), bool(Blocks())) == (0, 0, True, False)

    @pytest.mark.parametrize(
        ("page", "pieces"),
        [
            (0, [(1, 2), (2, 4)]),
            (1, [(1, 2), (2, 4)]),
            (2, [(1, 0), (2, 4)]),
            (5, [(1, 6), (2, 0)]),
            (7, [(1, 4), (2, 0)]),
        ],
    )
    def test_pieces_of_a_folio_of_eight(self, page: int, pieces: list[tuple[int, int]]) -> None:
        assert buddy_pieces(3, page) == Blocks(tuple((order, 1 << first) for order, first in pieces))

    @pytest.mark.parametrize(
        ("start", "end", "splits", "left"),
        [
            (2, 3, (3,), {1: [0], 2: [4]}),  # page 3 is single already
            (3, 4, (3, 2), {1: [0, 6]}),  # the piece that begins behind the hole is split too
            (0, 4, (3, 2), {1: [2, 6]}),  # the one at the edge stays in the hole and is freed with it
            (4, 8, (3,), {1: [6], 2: [0]}),
            (0, 8, (), {3: [0]}),
            (6, 12, (3,), {1: [4], 2: [0]}),
            (8, 9, (), {3: [0]}),
        ],
    )
    def test_holes(self, start: int, end: int, splits: tuple[int, ...], left: dict[int, list[int]]) -> None:
        """truncate_inode_partial_folio on one clean folio of eight pages."""
        found = cut(Blocks().add(3, 1), start, end, dirty=0, held=0, uniform=False)
        starts = {order: [run for run in range(16) if at >> run & 1] for order, at in found.folios}
        assert (starts, found.splits, found.refused, found.lost, found.kept) == (left, splits, (), 0, 0)
        assert found.removed == pages.span(start, end - start)

    def test_holes_with_references(self) -> None:
        folio, hole = Blocks().add(3, 1), pages.span(2, 3)
        clean = cut(folio, 2, 5, dirty=0, held=1 << 7, uniform=False)
        assert clean == Cut(folio, 0xFF, 0, (), (3,), 0xFF & ~hole)
        dirty = cut(folio, 2, 5, dirty=0xFF, held=1 << 7, uniform=False)
        assert dirty == Cut(folio, 0, hole, (), (3,), 0)
        assert cut(folio, 2, 5, dirty=0xFF, held=1 << 8, uniform=True) == Cut(Blocks(), hole, 0, (3,), (), 0)


class TestRecords:
    def test_designs_and_their_orders(self) -> None:
        """(A pool refuses parts of huge pages by a check of its own.)"""
        assert [(name, design.order) for name, design in DESIGNS.items()] == [
            ("order0", 0), ("inplace", 0), ("thp-discard", 9), ("thp-2m-truncate", 9), ("thp-2m-truncate-noop", 9),
            ("inplace-thp", 9), ("inplace-thp-noop", 9), ("hugetlb", 9), ("hugetlb-no-hvo", 9),
        ]  # fmt: skip
        assert {name: (orders[0], orders[-1], len(orders)) for name, orders in ORDERS.items()} == {
            **{name: (1, 18, 18) for name in FAMILIES if not name.startswith("hugetlb")},
            "hugetlb": (9, 18, 2), "hugetlb-no-hvo": (9, 18, 2),
        }  # fmt: skip
        told = {
            name: (d.refuses_partial, d.vmemmap_optimised, d.attributes_in_file, d.falls_back)
            for name, d in DESIGNS.items()
        }
        assert told == {
            "order0": (False, False, False, False), "inplace": (False, False, True, False),
            "thp-discard": (False, False, False, True), "thp-2m-truncate": (True, False, False, True),
            "thp-2m-truncate-noop": (False, False, False, True), "inplace-thp": (True, False, True, True),
            "inplace-thp-noop": (False, False, True, True), "hugetlb": (False, True, True, False),
            "hugetlb-no-hvo": (False, False, True, False),
        }  # fmt: skip

    def test_backings_and_their_orders(self) -> None:
        assert {
            name: (b.folio_orders[0], b.folio_orders[-1], b.file_backed, b.falls_back) for name, b in BACKINGS.items()
        } == {
            "anon-4k": (0, 0, False, False), "anon-thp": (0, 9, False, True), "memfd-4k": (0, 0, True, False),
            "shmem-thp": (0, 9, True, True), "hugetlb": (9, 9, True, False), "hugetlb-1g": (18, 18, True, False),
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("thp-discard:0", "orders are 1 .8kB. to 18"), ("thp-discard:19", "are 1"), ("hugetlb:4", "9 and 18"),
            ("thp-discard:x", "after the colon"), ("order0:1", "no folio order to choose"), ("none", "are order0"),
        ],
    )  # fmt: skip
    def test_designs_that_are_not(self, name: str, says: str) -> None:
        with pytest.raises(UsageError, match=says):
            design_named(name)

    def test_the_plain_name_is_the_order_of_a_pmd(self) -> None:
        assert design_named("thp-discard:9") is design_named("thp-discard") is design_named("thp-discard", 9)
        assert design_named("hugetlb", 18).order == 18
        with pytest.raises(UsageError, match="known are anon-4k"):
            backing_named("anon")

    def test_rules_after_a_refusal_are_not_applied(self) -> None:
        context = Context(HostFacts(ncpu=2), design_named("order0"), ANON_4K, "g0", "here")
        start, done = RegionState(1), []

        def rule(mark: int, refused: object = None):  # type: ignore[no-untyped-def]
            def apply(context: Context, region: RegionState, where: int) -> Outcome:
                done.append(mark)
                return Outcome(dataclasses.replace(region, private=mark), (), refused)  # type: ignore[arg-type]

            return apply

        assert chain(context, start, 1).region == start
        assert chain(context, start, 1, rule(1), rule(2)).region.private == 2
        found = chain(context, start, 1, rule(1), rule(4, "no"), rule(8))
        assert (found.region.private, found.refused, done) == (4, "no", [1, 2, 1, 4])


class TestHostWide:
    def test_leaves_that_nobody_knows(self) -> None:
        assert loose(DropCaches(), ANON_4K) == ((), "")
        assert loose(Compact(), ANON_4K)[0] == ("kvm/{guest}/pages_4k",)
        large = ("kvm/{guest}/pages_4k", "kvm/{guest}/pages_2m", "kvm/{guest}/pages_1g")
        assert loose(Compact(), backing_named("anon-thp"))[0] == large

    def test_partly_mapped_folios_may_be_split_by_pressure(self) -> None:
        partly = RegionState(1, shared=1, shared_in_folio=1, shared_folios=Blocks().add(9, 1))
        whole = dataclasses.replace(partly, shared=ONE, shared_in_folio=ONE)
        thp, pressure = backing_named("anon-thp"), Pressure("anon", 100)
        assert set(split_perhaps(pressure, thp, [whole, partly])) == set(PARTLY_MAPPED)
        assert "1 huge folios" in split_perhaps(pressure, thp, [whole, partly])["F"]
        assert split_perhaps(pressure, thp, [whole]) == {}
        assert split_perhaps(pressure, ANON_4K, [partly]) == {}
        assert split_perhaps(Compact(), thp, [partly]) == {}
