# SPDX-License-Identifier: GPL-2.0-only
"""Curves in single calls: the memory of the shared side, its backings, the columns of a point, names and streams."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import UsageError
from harness.model.curves.designs import BACKINGS, DESIGNS, backing_named, design_named
from harness.model.curves.frames import Frames, OutOfMemory, Supply
from harness.model.curves.host import HostMemory
from harness.model.curves.movable import Movable
from harness.model.curves.shared import HugeFaults, HugePool, SmallPages
from harness.model.curves.simulate import COLUMNS, POINTS, simulate
from harness.model.curves.streams import MOST_CONVERSIONS, MOST_PAGES, Stream, StreamSpec
from harness.model.curves.touched import Touched
from harness.model.curves.whatif import scenario_named


def memory(free: int, blocks: int, *pages: int) -> tuple[Movable, Supply, Frames]:
    """Free memory, and a guest_memfd of which these pages were touched."""
    supply = Supply(HostMemory("x", free=free, blocks=blocks, huge_for_guest=9))
    touched = Touched(Stream(np.array(pages or (0,), np.int64), np.ones(len(pages) or 1, bool), 4 * 512))
    frames = Frames(supply, touched, 0)
    return Movable(supply, frames), supply, frames


def cells(*pages: int, order: int = 0) -> Touched:
    return Touched(Stream(np.array(pages, np.int64), np.ones(len(pages), bool), 4 * 512, order))


class TestMovable:
    def test_scattered_pages_then_a_block_then_its_rest(self) -> None:
        shared, supply, _ = memory(1027, 2)
        shared.take(5)
        assert (supply.scattered, supply.blocks, shared.loose, shared.scattered) == (0, 1, 510, 3)
        shared.take(510)
        assert (supply.blocks, shared.loose) == (1, 0)
        shared.take(512)
        assert (supply.blocks, shared.loose) == (0, 0)
        with pytest.raises(OutOfMemory):
            shared.take(1)

    def test_more_than_a_block_at_once(self) -> None:
        shared, supply, _ = memory(3 * 512, 3)
        shared.take(1025)
        assert (supply.blocks, shared.loose) == (0, 511)

    def test_what_is_given_back_makes_blocks_again(self) -> None:
        shared, supply, _ = memory(1027, 2)
        shared.take(600)
        assert (supply.blocks, shared.loose, shared.scattered) == (0, 427, 3)
        shared.give(2)
        assert (supply.scattered, shared.scattered, shared.loose) == (2, 1, 427)
        shared.give(85)
        assert (supply.scattered, shared.scattered, shared.loose, supply.blocks) == (3, 0, 511, 0)
        shared.give(1)
        assert (shared.loose, supply.blocks) == (0, 1)
        shared.give(512)
        assert (shared.loose, supply.blocks) == (0, 2)

    def test_holes_of_the_guest_memfd_are_taken_last_and_given_back_first(self) -> None:
        shared, _, frames = memory(1, 0, 5, 600)
        frames.give(0)
        frames.give(1)
        shared.take(3)
        assert frames.holes == 0
        with pytest.raises(OutOfMemory):
            shared.take(1)
        shared.give(1)
        assert (frames.holes, shared.scattered) == (1, 1)
        shared.give(2)
        assert (frames.holes, shared.scattered, shared.loose) == (2, 0, 0)

    def test_blocks_come_from_the_host_and_then_from_the_guest_memfd(self) -> None:
        shared, supply, frames = memory(512, 1, *range(512))
        for cell in range(512):
            frames.give(cell)
        assert shared.take_block()
        assert (supply.blocks, frames.whole) == (0, 1)
        assert shared.take_block()
        assert (supply.blocks, frames.whole) == (0, 0)
        assert not shared.take_block()
        shared.give_block()
        assert supply.blocks == 1


class TestBackings:
    def test_small_pages_hold_what_is_shared(self) -> None:
        shared, supply, _ = memory(10, 0)
        side = SmallPages(cells(0), shared)
        for converted, free in ((4, 6), (4, 6), (1, 9), (10, 0)):
            side.settle(converted)
            assert (side.pages, supply.scattered) == (converted, free)

    def test_anonymous_huge_pages_go_with_their_last_page(self) -> None:
        shared, supply, _ = memory(512 + 9, 1)
        side = HugeFaults(cells(*range(512)), shared, frees=False)
        side.touch(3)
        assert (side.pages, supply.blocks) == (512, 0)
        for cell in range(511):
            side.discard(cell)
            assert (side.pages, supply.blocks) == (512, 0)
        side.touch(0)
        assert (side.pages, supply.scattered) == (513, 8), "a page of its own: the page table is there"
        side.touch(0)
        assert side.pages == 513
        side.discard(511)
        assert (side.pages, supply.blocks) == (1, 1)
        side.discard(511)
        side.discard(0)
        assert (side.pages, supply.blocks, supply.scattered) == (0, 1, 9)
        side.touch(7)
        assert (side.pages, supply.blocks) == (1, 1), "the page table stays, so that no huge page comes"

    def test_shmem_frees_what_is_punched_and_an_empty_window_is_huge_again(self) -> None:
        shared, supply, _ = memory(512, 1)
        side = HugeFaults(cells(*range(512)), shared, frees=True)
        side.touch(0)
        for left in range(511, 0, -1):
            side.discard(left)
            assert side.pages == left
        assert (supply.blocks, shared.loose) == (0, 511)
        side.touch(5)
        assert (side.pages, shared.loose) == (2, 510)
        side.discard(5)
        side.discard(0)
        assert (side.pages, supply.blocks) == (0, 1)
        side.touch(5)
        assert (side.pages, supply.blocks) == (512, 0)

    def test_whole_windows_free_their_page_table(self) -> None:
        shared, supply, _ = memory(512, 1)
        side = HugeFaults(cells(0, 2, order=9), shared, frees=False)
        for _ in range(2):
            side.touch(1)
            assert (side.pages, supply.blocks) == (512, 0)
            side.discard(1)
            assert (side.pages, supply.blocks) == (0, 1)

    def test_without_a_block_pages_are_single(self) -> None:
        shared, supply, _ = memory(5, 0)
        for frees in (True, False):
            side = HugeFaults(cells(0, 1), shared, frees=frees)
            side.touch(0)
            side.touch(1)
            assert (side.pages, supply.scattered) == (2, 3)
            side.discard(0)
            side.discard(1)
            assert (side.pages, supply.scattered) == (0, 5)

    @pytest.mark.parametrize(("order", "pages"), [(9, (512, 512, 1024)), (18, (1 << 18, 1 << 18, 1 << 18))])
    def test_a_pool_gives_whole_pages_and_gets_none_back(self, order: int, pages: tuple[int, ...]) -> None:
        side = HugePool(cells(5, 6, 600), memory(0, 0)[0], order=order)
        found = []
        for cell in range(3):
            side.touch(cell)
            side.discard(cell)
            found.append(side.pages)
        assert tuple(found) == pages
        assert HugePool(cells(5), memory(0, 0)[0])._huge_page == 512


class TestPoints:
    def test_every_column_of_two_points(self) -> None:
        """Pages 1 and 700 of a guest of 8 MiB leave folios of 2 MiB; the first comes back."""
        host = HostMemory("x", free=3 * 512 + 10, blocks=3, huge_for_guest=4)
        drawn = Stream(np.array([1, 700, 1]), np.array([True, True, False]), 4 * 512)
        found = simulate(drawn, design_named("thp-discard"), backing_named("anon-4k"), host, points=4)
        assert {name: values.tolist() for name, values in found.columns.items()} == {
            "conversions": [0, 1, 2, 3], "converted": [0, 1, 2, 1], "private": [2048, 2047, 2046, 2047],
            "shared": [0, 1, 2, 1], "extra": [0, 0, 0, 0], "huge": [4, 3, 2, 2],
            # page 1 is odd and the piece behind it, pages 2 and 3, is split too; page 700 - 512 is even
            "splits": [0, 2, 3, 3], "merges": [0, 0, 0, 0], "free": [1546, 1546, 1546, 1546],
            # holes and no loose page: the shared side took scattered ones
            "unusable": [0, 1, 2, 1],
            "unusable_part": pytest.approx([10 / 1546] * 4), "pinned": [0, 1, 2, 1],
            "reused": [0, 0, 0, 1], "fresh": [0, 0, 0, 0],
        }  # fmt: skip
        assert [column.name for column in COLUMNS] == list(found.columns)
        assert found.last("private") == 2047
        assert not found.ended

    def test_a_curve_has_150_points_unless_told(self) -> None:
        drawn = StreamSpec("share").draw(4 * 512, 1000, seed=1)
        host = HostMemory.synthetic(4 * 512)
        found = simulate(drawn, design_named("inplace"), backing_named("anon-4k"), host)
        assert len(found["conversions"]) == POINTS == 150
        assert found["conversions"][[0, -1]].tolist() == [0, 1000]

    def test_converted_pages_of_whole_windows(self) -> None:
        drawn = Stream(np.array([1, 3, 1, 1]), np.array([True, True, False, True]), 4 * 512, 9)
        host = HostMemory("x", free=2048, blocks=4, huge_for_guest=4)
        found = simulate(drawn, design_named("order0"), backing_named("memfd-4k"), host, points=5)
        assert found["converted"].tolist() == found["shared"].tolist() == [0, 512, 1024, 512, 1024]
        assert found["private"].tolist() == [2048, 1536, 1024, 1536, 1024]
        assert found["unusable"].tolist() == [0] * 5
        assert found["free"].tolist() == [2048] * 5

    def test_a_stream_that_shares_what_is_shared(self) -> None:
        drawn = Stream(np.array([4, 4, 4]), np.array([True, True, False]), 512)
        host = HostMemory("x", free=9, blocks=0, huge_for_guest=0)
        found = simulate(drawn, design_named("order0"), backing_named("anon-4k"), host, points=4)
        assert found["converted"].tolist() == found["shared"].tolist() == [0, 1, 1, 0]
        assert found["unusable_part"].tolist() == [1, 1, 1, 1]

    def test_a_host_without_memory_ends_the_curve(self) -> None:
        drawn = Stream(np.array([4, 5, 600]), np.array([True, True, True]), 1024)
        host = HostMemory("x", free=0, blocks=0, huge_for_guest=0)
        found = simulate(drawn, design_named("inplace"), backing_named("anon-4k"), host, points=4)
        assert (found["free"].tolist(), found["unusable_part"].tolist()) == ([0] * 4, [0.0] * 4)
        held = simulate(drawn, design_named("thp-2m-truncate"), backing_named("anon-4k"), host, points=4)
        assert held.ended == "the host runs out of memory between 0 and 1 of 3 conversions"
        assert held["conversions"].tolist() == [0]


class TestNames:
    @pytest.mark.parametrize(
        ("named", "nearly", "nearest"),
        [
            (design_named, "thp-discrad", "thp-discard"), (design_named, "thp-discrad:4", "thp-discard"),
            (backing_named, "anon-4", "anon-4k"), (scenario_named, "partial-fre", "partial-free"),
        ],
    )  # fmt: skip
    def test_the_nearest_is_offered(self, named, nearly: str, nearest: str) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(UsageError, match=f"unknown .*{nearly}.* did you mean '{nearest}'"):
            named(nearly)
        assert named(nearest).name == nearest

    @pytest.mark.parametrize(
        ("named", "known"),
        [
            (design_named, "known are order0, thp-discard"),
            (backing_named, "known are anon-4k"),
            (scenario_named, "gmem model --list shows them"),
        ],
    )
    def test_what_is_like_nothing(self, named, known: str) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(UsageError, match=known):
            named("zzzzzzzz")

    def test_patterns(self) -> None:
        with pytest.raises(UsageError, match="did you mean 'random'"):
            StreamSpec("randm")
        with pytest.raises(UsageError, match="known are random, share, strided, bounce, reuse"):
            StreamSpec("zzzz")

    def test_orders(self) -> None:
        assert {name: design.order for name, design in DESIGNS.items()} == {
            name: 0 if name in ("order0", "inplace") else 9 for name in DESIGNS
        }
        most = {name: design.most_order for name, design in DESIGNS.items() if design.most_order != 9}
        assert most == {"order0": 0, "inplace": 0, "hugetlb": 18, "hugetlb-no-hvo": 18}
        assert [design_named("thp-discard", order).order for order in (0, 4, 9)] == [0, 4, 9]
        assert design_named("thp-discard:4", 5).order == 4
        for name, order in (("thp-discard", 10), ("thp-discard", -1), ("order0", 1), ("hugetlb", 19)):
            with pytest.raises(UsageError, match=f"folios of order {order} for design"):
                design_named(name, order)
        with pytest.raises(UsageError, match="after the colon"):
            design_named("thp-discard:x")
        assert [name for name, design in DESIGNS.items() if design.uniform] == ["thp-discard-uniform"]
        assert list(BACKINGS) == ["anon-4k", "memfd-4k", "anon-thp", "shmem-thp", "hugetlb", "hugetlb-1g"]


class TestStreams:
    def test_cells_of_whole_windows(self) -> None:
        one = np.ones(1, bool)
        assert Stream(np.array([3]), one, 4 * 512, 9).guest_cells == 4
        assert Stream(np.array([2047]), one, 4 * 512).guest_cells == 2048
        with pytest.raises(UsageError, match="cells 0 to 3"):
            Stream(np.array([4]), one, 4 * 512, 9)

    @pytest.mark.parametrize("name", ["live", "run", "stride"])
    def test_numbers_of_cells(self, name: str) -> None:
        for wrong in (0, MOST_PAGES + 1):
            with pytest.raises(UsageError, match=f"{name} of a stream is {wrong}"):
                StreamSpec(**{name: wrong})
        assert StreamSpec(**{name: 1}) != StreamSpec(**{name: MOST_PAGES})

    def test_limits(self) -> None:
        assert (MOST_CONVERSIONS, MOST_PAGES) == (20_000_000, 1 << 36)
        assert StreamSpec().draw(512, 1, seed=1).cells.size == 1
        assert StreamSpec().draw(MOST_PAGES, 1, seed=1).guest_pages == MOST_PAGES
        for pages, count in ((512, MOST_CONVERSIONS + 1), (512, 0), (511, 1), (MOST_PAGES + 512, 1)):
            with pytest.raises(UsageError, match="can be followed"):
                StreamSpec().draw(pages, count, seed=1)

    @pytest.mark.parametrize(
        ("regions", "words"),
        [
            (("5",), "not of the form"),
            (("5:5",), "not of the form"),
            (("6:5",), "not of the form"),
            (("0:1025",), "ends outside the guest, which has 1024 pages"),
            (("0:10", "9:20"), "overlap: 0:10 and the one from page 9"),
            (("512:1024", "0:513"), "overlap: 0:513 and the one from page 512"),
        ],
    )
    def test_regions_that_cannot_be(self, regions: tuple[str, ...], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            StreamSpec(regions=regions).draw(1024, 1, seed=1)

    def test_overlaps_are_told_in_pages(self) -> None:
        spec = StreamSpec(cell_order=9, regions=("512:2048", "1024:1536"))
        with pytest.raises(UsageError, match="overlap: 512:2048 and the one from page 1024"):
            spec.draw(2048, 1, seed=1)

    def test_strides_wrap_one_cell_further(self) -> None:
        drawn = StreamSpec("strided", stride=300, regions=("0:700",)).draw(1024, 7, seed=1)
        assert drawn.cells.tolist() == [0, 300, 600, 1, 301, 601, 2]
        wide = StreamSpec("strided", stride=9000, regions=("0:3",)).draw(512, 5, seed=1)
        assert wide.cells.tolist() == [0, 1, 2, 0, 1]
        assert wide.to_shared.tolist() == [True, True, True, False, False]

    def test_bouncing_cells_go_back_oldest_first(self) -> None:
        drawn = StreamSpec("bounce", live=3).draw(1 << 20, 9, seed=4)
        first = drawn.cells[:3].tolist()
        assert drawn.to_shared.tolist() == [True, True, True, False, True, False, True, False, True]
        assert drawn.cells[[3, 5, 7]].tolist() == first
        assert StreamSpec("bounce", live=3).draw(1 << 20, 3, seed=4).to_shared.all()

    def test_a_bounce_is_no_longer_than_its_region(self) -> None:
        drawn = StreamSpec("bounce", live=100, run=100, regions=("512:520",)).draw(1024, 8, seed=1)
        assert drawn.cells.tolist() == list(range(512, 520))

    def test_reuse_of_as_many_cells_as_there_are(self) -> None:
        drawn = StreamSpec("reuse", live=100, regions=("0:8",)).draw(512, 24, seed=1)
        rounds = drawn.cells.reshape(3, 8)
        assert [sorted(cells) for cells in rounds.tolist()] == [list(range(8))] * 3
        assert drawn.to_shared.reshape(3, 8).all(axis=1).tolist() == [True, False, True]
        few = StreamSpec("reuse", live=2, regions=("0:9",)).draw(512, 4, seed=1)
        assert len(set(few.cells.tolist())) == 2
