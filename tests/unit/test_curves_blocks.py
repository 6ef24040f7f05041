# SPDX-License-Identifier: GPL-2.0-only
"""Frames, blocks and folios of the curves one call at a time: numbers by hand, where a stream would need thousands."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_curves_frames import naive_splits

from harness.model.curves.frames import Frames, OutOfMemory, Supply
from harness.model.curves.host import HostMemory
from harness.model.curves.private import Discard, InPlace, InPlaceSplit, TruncateWhole
from harness.model.curves.streams import Stream
from harness.model.curves.touched import Touched


def host(free: int = 0, blocks: int = 0, given: int = 99) -> HostMemory:
    return HostMemory("x", free=free, blocks=blocks, huge_for_guest=given)


def touched(*pages: int, order: int = 0, guest: int = 4 * 512) -> Touched:
    """Cell n is the n-th of these pages (or windows)."""
    return Touched(Stream(np.array(pages, np.int64), np.ones(len(pages), bool), guest, order))


def frames(*pages: int, order: int = 0, lag: int = 0, **memory: int) -> tuple[Frames, Supply]:
    supply = Supply(host(**memory))
    return Frames(supply, touched(*pages, order=order), lag), supply


def counts(made: Frames) -> tuple[int, int, int]:
    return made.holes, made.pinned, made.whole


def test_a_block_is_pinned_from_its_first_hole_to_its_last_page() -> None:
    made, _ = frames(*range(512))
    assert counts(made) == (0, 0, 0)
    for cell in range(512):
        made.give(cell)
        assert counts(made) == (cell + 1, cell < 511, cell == 511)
    assert made.release_block(), "the first block, which has number 0"
    assert counts(made) == (0, 0, 0)
    assert not made.release_block()


def test_a_window_at_once_is_whole_and_never_pinned() -> None:
    made, _ = frames(0, 1, order=9)
    made.give(1)
    assert counts(made) == (512, 0, 1)
    made.take(1)
    assert counts(made) == (0, 0, 0)
    assert (made.reused, made.fresh) == (1, 0)


def test_a_block_that_others_use_never_merges() -> None:
    made, _ = frames(*range(512), given=0)
    for cell in range(512):
        made.give(cell)
    assert counts(made) == (512, 0, 0)
    assert not made.release_block()


def test_frames_come_back_last_in_first_out() -> None:
    made, _ = frames(0, 512, 1024)
    for cell in (0, 1, 2):
        made.give(cell)
    assert [made.take_raw(1) for _ in range(3)] == [2, 1, 0]
    assert (made.reused, made.fresh) == (3, 0)


def test_the_freeing_cpu_keeps_as_many_as_its_list_holds() -> None:
    made, _ = frames(0, 512, 1024, lag=2, free=512, blocks=1)
    made.give(0)
    made.give(1)
    fresh = made.take_raw(1)
    assert (fresh, made.reused, made.fresh) == (3, 0, 1)
    made.give(2)
    assert made.take_raw(1) == 0
    assert made.steal() == 1
    assert made.steal() == 2
    assert made.steal() == -1


def test_a_fresh_block_is_claimed_whole_and_cut_to_its_end() -> None:
    made, supply = frames(0, free=1030, blocks=2)
    assert supply.scattered == 6
    assert made.take_raw(1) == 1
    assert (supply.blocks, made.fresh) == (1, 1)
    assert counts(made) == (511, 1, 0)
    assert {made.take_raw(1) for _ in range(511)} == {1}
    assert (supply.blocks, made.fresh, *counts(made)) == (1, 512, 0, 0, 0)
    assert made.take_raw(1) == 2
    assert {made.take_raw(1) for _ in range(511)} == {2}
    assert [made.take_raw(1) for _ in range(6)] == [-1] * 6
    assert (supply.scattered, made.fresh) == (0, 1030)
    with pytest.raises(OutOfMemory):
        made.take_raw(1)
    made.give_raw(-1, 1)
    assert supply.scattered == 1
    assert made.take_raw(1) == -1


def test_a_window_is_never_made_of_scattered_pages() -> None:
    made, _ = frames(0, order=9, free=9000)
    with pytest.raises(OutOfMemory):
        made.take_raw(512)


def test_a_page_from_elsewhere_goes_back_there() -> None:
    made, supply = frames(0, free=1)
    made.give(0)
    made.give_raw(made.take_raw(1), 1)
    made.take_raw(1)
    made.take(0)
    assert supply.scattered == 0
    made.give(0)
    assert (supply.scattered, *counts(made)) == (1, 0, 0, 0)


def test_folios_below_a_block_are_cut_from_one() -> None:
    made, supply = frames(*range(4), free=1024, blocks=2)
    cells = touched(*range(4)).groups(2).members(0)
    assert made.take_folio(cells, 2)
    assert (supply.blocks, made.fresh, *counts(made)) == (1, 1, 508, 1, 0)
    for _ in range(127):
        assert made.take_folio(cells, 2)
    assert (supply.blocks, made.fresh, *counts(made)) == (1, 128, 0, 0, 0)
    assert made.take_folio(cells, 2)
    assert supply.blocks == 0
    assert made.take_folio(cells, 8)
    assert not made.take_folio(cells, 8), "252 pages are left, and no block"
    assert made.take_folio(cells, 2)
    assert made.take_raw(1) == 2, "the rest of the block serves single pages"
    for cell in range(3):
        made.give(cell)
        assert counts(made)[0] == 512 - 4 - 256 - 4 - 1 + cell + 1, "all four cells lie in the folio's block"


def test_what_a_new_block_leaves_of_the_last_serves_single_pages_later() -> None:
    made, _ = frames(*range(4), free=1024, blocks=2)
    cells = touched(*range(4)).groups(2).members(0)
    assert made.take_folio(cells, 8)
    assert made.take_folio(cells, 2)
    made.take_folio(touched(*range(256)).groups(8).members(0)[:1], 8)
    assert (made.fresh, made.reused) == (3, 0)
    assert [made.take_raw(1) for _ in range(252)] == [1] * 252
    assert made.reused == 252
    assert made.take_raw(1) == 2


def test_a_whole_folio_takes_a_merged_block_first() -> None:
    made, supply = frames(*range(512), free=512, blocks=1)
    cells = touched(*range(512)).groups(9).members(0)
    for cell in range(512):
        made.give(cell)
    assert made.take_folio(cells, 9)
    assert (made.reused, made.fresh, supply.blocks, *counts(made)) == (1, 0, 1, 0, 0, 0)
    assert made.take_folio(cells, 9)
    assert (made.reused, made.fresh, supply.blocks, *counts(made)) == (1, 1, 0, 0, 0, 0)
    assert not made.take_folio(cells, 9)
    made.give(7)
    assert made.steal() == 2, "blocks 1 and 2 are the merged one under its new number and the claimed one"


def test_a_merged_block_is_not_handed_out_in_pages_too() -> None:
    made, _ = frames(*range(512), 600)
    for cell in range(513):
        made.give(cell)
    assert made.release_block()
    assert made.take_raw(1) == 1
    with pytest.raises(OutOfMemory):
        made.take_raw(1)


class TestSplits:
    """mm/truncate.c:truncate_inode_partial_folio, with folio_split in halves."""

    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_every_order_of_holes_splits_what_a_list_of_pieces_says(self, order: int) -> None:
        """Every sequence of up to four holes in a folio of up to eight pages: about 2000."""
        size = 1 << order
        for length in range(1, min(size, 4) + 1):
            for holes in itertools.permutations(range(size), length):
                names = touched(*range(size))
                supply = Supply(host())
                side = Discard(names, order, Frames(supply, names, 0), host(), uniform=False)
                found = []
                for hole in holes:
                    side.share(hole)
                    found.append(side.splits)
                assert found == naive_splits(list(holes), order), holes

    def test_uniform_splits_happen_once(self) -> None:
        names = touched(*range(512))
        side = Discard(names, 9, Frames(Supply(host()), names, 0), host(), uniform=True)
        for hole in (255, 7, 8, 300):
            side.share(hole)
        assert (side.splits, side.folios, side.pages) == (1, 3, 4 * 512 - 4)
        side.share(300)
        assert side.pages == 4 * 512 - 4, "a hole in a hole"

    def test_an_empty_window_becomes_a_folio_again_and_splits_again(self) -> None:
        names = touched(*range(512))
        side = Discard(names, 9, Frames(Supply(host()), names, 0), host(), uniform=False)
        for hole in range(512):
            side.share(hole)
        before = side.splits
        assert (side.pages, side.folios) == (3 * 512, 3)
        side.take_back(5)
        assert (side.pages, side.folios) == (4 * 512, 4)
        side.take_back(6)
        assert side.pages == 4 * 512, "it came with its window"
        side.share(7)
        assert side.splits == before + 2, "an odd page, as the first time"
        side.share(6)
        side.take_back(7)
        assert (side.pages, side.folios) == (4 * 512 - 1, 3)

    def test_without_a_block_pages_come_one_by_one(self) -> None:
        names = touched(0, 1, guest=512)
        side = Discard(names, 1, Frames(Supply(host(free=9)), names, 0), host(free=9), uniform=False)
        side.share(0)
        side.share(1)
        side.take_back(0)
        assert (side.pages, side.folios) == (511, 255)
        side.share(0)
        assert side.splits == 1, "order 0 is not split"


class TestSides:
    @pytest.mark.parametrize(
        ("order", "cell_order", "huge", "folios"),
        [(9, 0, 3, 3), (9, 0, 9, 4), (4, 0, 2, 64), (9, 9, 2, 2), (4, 9, 2, 64), (0, 0, 4, 0), (0, 9, 4, 0)],
    )
    def test_folios_at_the_beginning(self, order: int, cell_order: int, huge: int, folios: int) -> None:
        """As many as the guest found 2 MiB blocks, at most its windows; order 0 counts none."""
        names = touched(0, order=cell_order)
        side = InPlace(names, order, Frames(Supply(host()), names, 0), host(given=huge))
        assert (side.folios, side.pages, side.splits, side.merges) == (folios, 2048, 0, 0)
        side.share(0)
        side.take_back(0)
        assert (side.folios, side.pages, side.splits, side.merges) == (folios, 2048, 0, 0)

    def test_whole_windows_of_small_folios_go_without_a_split(self) -> None:
        names = touched(0, 3, order=9)
        memory = host(given=3)
        side = Discard(names, 4, Frames(Supply(memory), names, 0), memory, uniform=False)
        side.share(0)
        assert (side.folios, side.splits, side.pages) == (64, 0, 3 * 512)
        side.share(1)
        assert (side.folios, side.splits, side.pages) == (64, 0, 2 * 512), "the last window never had folios"

    def test_truncation_of_a_part_of_a_window_does_nothing(self) -> None:
        names = touched(0, 1)
        side = TruncateWhole(names, 9, Frames(Supply(host()), names, 0), host(), uniform=False)
        side.share(0)
        assert (side.pages, side.folios) == (2048, 4)
        whole = touched(0, 1, order=9)
        side = TruncateWhole(whole, 9, Frames(Supply(host()), whole, 0), host(), uniform=False)
        side.share(0)
        assert (side.pages, side.folios, side.splits) == (3 * 512, 3, 0)

    @pytest.mark.parametrize(("order", "pages"), [(9, 7), (18, 4095)])
    def test_a_split_huge_page_needs_its_struct_pages_again(self, order: int, pages: int) -> None:
        """64 bytes for each page, of which hugetlb_vmemmap keeps one page: 32 KiB less 4 KiB, 16 MiB less 4 KiB."""
        names = touched(0, 1, guest=1 << 18)
        memory = host(free=5000)
        supply = Supply(memory)
        side = InPlaceSplit(names, order, Frames(supply, names, 0), memory, optimised=True)
        if order == 18:  # 512 blocks of 2 MiB make one
            memory = host(free=5000, given=512)
            side = InPlaceSplit(names, order, Frames(supply, names, 0), memory, optimised=True)
            assert side.folios == 1
        before = side.folios
        for step, (act, cell, folios, overhead) in enumerate(
            [
                (side.share, 0, -1, pages), (side.share, 0, -1, pages), (side.share, 1, -1, pages),
                (side.take_back, 0, -1, pages), (side.take_back, 0, -1, pages), (side.take_back, 1, 0, 0),
                (side.take_back, 1, 0, 0),
            ]
        ):  # fmt: skip
            act(cell)
            assert (side.folios - before, side.overhead) == (folios, overhead), step
        assert (side.splits, side.merges, supply.scattered) == (1, 1, 5000)

    def test_windows_that_never_were_folios_are_not_put_together(self) -> None:
        names = touched(0, 512)
        memory = host(given=1)
        side = InPlaceSplit(names, 9, Frames(Supply(memory), names, 0), memory, optimised=False)
        for cell in (0, 1):
            side.share(cell)
        assert (side.folios, side.splits, side.overhead) == (0, 1, 0)
        for cell in (0, 1):
            side.take_back(cell)
        assert (side.folios, side.merges) == (1, 1)

    def test_a_window_of_several_folios_splits_them_all(self) -> None:
        names = touched(2, order=9)
        memory = host(free=999)
        side = InPlaceSplit(names, 8, Frames(Supply(memory), names, 0), memory, optimised=True)
        side.share(0)
        assert (side.folios, side.splits, side.overhead) == (6, 2, 6)
        side.take_back(0)
        assert (side.folios, side.merges, side.overhead) == (8, 2, 0)


@pytest.mark.parametrize(
    ("free", "guest", "tens", "blocks", "given"),
    [
        (2046, 1023, 9, 1, 1),  # 3 whole blocks fit into 2046 pages, one is the guest's, and 1023 pages are left
        (2047, 1023, 9, 2, 1),
        (1 << 20, 5 * 512, 1, 0, 2),
        (1 << 20, 5 * 512, 3, 1, 5),
        (512, 512, 1, 0, 1),
    ],
)
def test_blocks_beside_the_guest(free: int, guest: int, tens: int, blocks: int, given: int) -> None:
    """``tens``: free blocks of order 10, two of 2 MiB each."""
    found = HostMemory.from_sample({"F": free, "free_order/10": tens, "free_order/8": 99}, "x", guest, pcp_pages=1)
    assert (found.free, found.blocks, found.huge_for_guest) == (free - guest, blocks, given)


def test_synthetic_hosts() -> None:
    """An eighth of the guest, at least 1 GiB, beside it; a CPU per 4 GiB, at least two, which share an eighth of it."""
    small, large = HostMemory.synthetic(512), HostMemory.synthetic(1 << 24)
    assert (small.free, small.blocks, small.huge_for_guest) == (1 << 18, 512, 1)
    assert small.pcp_pages == ((1 << 18) + 512) // 8 // 2
    assert (large.free, large.blocks, large.huge_for_guest) == (1 << 21, 4096, 1 << 15)
    assert large.pcp_pages == ((1 << 24) + (1 << 21)) // 8 // 18
    assert HostMemory("x", 0, 0, 0).pcp_pages == (1 << 20) // 8
    pieces = HostMemory.synthetic(1 << 24, fragmented=0.25)
    assert (pieces.blocks, pieces.huge_for_guest) == (3072, 24576)
    half = large.in_pieces(0.5)
    assert (half.blocks, half.huge_for_guest, half.free, half.scattered) == (2048, 1 << 14, 1 << 21, 1 << 20)
