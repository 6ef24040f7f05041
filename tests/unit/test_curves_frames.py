# SPDX-License-Identifier: GPL-2.0-only
"""Frames, holes and blocks of the curves: conserved, and the same as a walk that keeps every frame by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model.curves.designs import BACKINGS, DESIGNS, backing_named, design_named
from harness.model.curves.host import HostMemory
from harness.model.curves.simulate import Curves, simulate
from harness.model.curves.streams import Stream, StreamSpec

PAGES = 4 * 512
HOST = HostMemory.synthetic(PAGES)
POOLED = ("hugetlb", "hugetlb-1g")
"""Backings whose memory left the host's free memory when the pool was made."""

Event = tuple[int, bool]


def stream(drawn: list[Event], pages: int = PAGES) -> Stream:
    return Stream(np.array([page for page, _ in drawn], np.int64), np.array([to for _, to in drawn]), pages)


def curves(drawn: Stream, design: str, backing: str = "anon-4k", host: HostMemory = HOST, **more: bool) -> Curves:
    found = simulate(
        drawn,
        design_named(design),
        backing_named(backing),
        host,
        points=drawn.cells.size + 1,
        same_cpu=more.get("same_cpu", True),
    )
    assert not found.ended
    return found


def events(most_page: int, most: int = 80) -> st.SearchStrategy[list[Event]]:
    return st.lists(st.tuples(st.integers(0, most_page), st.booleans()), min_size=1, max_size=most)


@settings(max_examples=150, deadline=None)
@given(
    drawn=events(PAGES - 1) | events(12), design=st.sampled_from([*DESIGNS, "thp-discard:2", "inplace-thp:3"]),
    backing=st.sampled_from(sorted(set(BACKINGS) - set(POOLED))), same_cpu=st.booleans(), blocks=st.integers(2, 40),
)  # fmt: skip
def test_pages_are_conserved(drawn: list[Event], design: str, backing: str, same_cpu: bool, blocks: int) -> None:
    """What is free and what is held is always the same sum, whatever moved from where to where."""
    host = replace(HOST, free=blocks * 512 + 700, blocks=blocks)
    found = simulate(
        stream(drawn), design_named(design), backing_named(backing), host, points=len(drawn) + 1, same_cpu=same_cpu
    )
    held = found["free"] + found["extra"]
    assert held.tolist() == [host.free] * len(held)
    assert (found["unusable"] >= 0).all()
    assert (found["unusable"] <= found["free"]).all()
    assert (found["huge"] >= 0).all()


def naive_order0(drawn: list[Event], lag: int) -> list[tuple[int, int]]:
    """Holes in blocks that are in part free, and such blocks, by keeping every frame: order0 without fresh blocks."""
    frame = {page: page for page in range(PAGES)}
    parked: list[int] = []
    stack: list[int] = []
    shared: set[int] = set()
    fresh = iter(range(PAGES, 2 * PAGES))
    used = set(frame.values())
    blocks = {page >> 9 for page in used}
    found = []
    for page, to_shared in [(-1, False), *drawn]:
        if page >= 0 and to_shared and page not in shared:
            shared.add(page)
            used.discard(frame[page])
            parked.append(frame.pop(page))
            if len(parked) > lag:
                stack.append(parked.pop(0))
        elif page in shared and not to_shared:
            shared.discard(page)
            frame[page] = stack.pop() if stack else next(fresh)
            used.add(frame[page])
            blocks.add(frame[page] >> 9)
        holes = [512 - sum((block << 9) + at in used for at in range(512)) for block in sorted(blocks)]
        partly = [count for count in holes if 0 < count < 512]
        found.append((sum(partly), len(partly)))
    return found


@settings(max_examples=40, deadline=None)
@given(drawn=events(5, 40) | events(PAGES - 1, 40), lag=st.sampled_from([0, 1, 3]))
def test_holes_are_those_of_a_naive_walk(drawn: list[Event], lag: int) -> None:
    host = replace(HOST, pcp_pages=lag)
    found = simulate(
        stream(drawn), design_named("order0"), backing_named("hugetlb"), host,
        points=len(drawn) + 1, same_cpu=lag == 0,
    )  # fmt: skip
    assert list(zip(found["unusable"].tolist(), found["pinned"].tolist(), strict=True)) == naive_order0(drawn, lag)


def test_same_cpu_reuses_the_frame_freed_last() -> None:
    found = curves(stream([(5, True), (700, True), (5, False), (700, False)]), "order0", "hugetlb")
    assert found["reused"].tolist() == [0, 0, 0, 1, 2]
    assert found["pinned"].tolist() == [0, 1, 2, 1, 0], "page 5 sits in block 1 now, so that block 0 has the hole"


def test_other_cpu_takes_fresh_frames() -> None:
    found = curves(stream([(5, True), (5, False)]), "order0", "hugetlb", same_cpu=False)
    assert (found.last("reused"), found.last("fresh")) == (0, 1)
    assert found.last("pinned") == 2, "the block of the hole, and the one that the new frame was cut from"


def test_untouched_windows_cost_nothing() -> None:
    """The same conversions in a guest of 2 TiB give the same holes."""
    drawn = [(5, True), (700, True), (6, True), (5, False)]
    small, large = (
        curves(stream(drawn, pages), "thp-discard", host=HostMemory.synthetic(pages)) for pages in (PAGES, 1 << 29)
    )
    for column in ("unusable", "pinned", "splits", "reused", "fresh", "extra"):
        assert small[column].tolist() == large[column].tolist()
    assert large["huge"][0] - large.last("huge") == small["huge"][0] - small.last("huge") == 2


def test_block_that_is_free_again_is_usable() -> None:
    everything = [(page, True) for page in range(512)]
    found = curves(stream(everything), "thp-discard")
    assert found["unusable"][511] >= 511
    assert (found.last("unusable"), found.last("pinned")) == (0, 0)


def test_emptied_window_gets_its_huge_folio_back() -> None:
    drawn = [*((page, True) for page in range(512)), (7, False)]
    found = curves(stream(drawn), "thp-discard")
    assert found["huge"].tolist()[-2:] == [3, 4]
    assert found.last("private") == PAGES, "one page was asked for, 512 came"
    assert found.last("extra") == 511


@pytest.mark.parametrize(
    ("backing", "pages"), [("anon-4k", 1), ("anon-thp", 512), ("shmem-thp", 512), ("hugetlb", 512)]
)
def test_first_shared_page(backing: str, pages: int) -> None:
    assert curves(stream([(5, True)]), "order0", backing).last("shared") == pages


def test_fragmented_host_gives_fewer_huge_folios() -> None:
    pages = 64 * 512
    drawn = stream([(5, True)], pages)
    found = [
        curves(drawn, "thp-discard", host=HostMemory.synthetic(pages, fragmented=part))["huge"][0]
        for part in (0.0, 0.25, 0.75, 1.0)
    ]
    assert found == [64, 48, 16, 0]


def test_window_in_mixed_blocks_never_gets_a_huge_folio() -> None:
    """Its pages were scattered: giving all of them back makes no free block."""
    host = replace(HOST, huge_for_guest=1, blocks=0, free=4096)
    drawn = [*((page, True) for page in range(512, 1024)), (600, False)]
    found = curves(stream(drawn), "thp-discard", "hugetlb", host)
    assert found["huge"].tolist() == [1] * len(found["huge"])
    assert found["unusable"].tolist()[-2:] == [512, 511]
    assert found.last("private") == PAGES - 511


def test_curve_ends_when_memory_does() -> None:
    host = replace(HOST, free=512, blocks=1)
    drawn = StreamSpec("strided", stride=512).draw(PAGES, 8, seed=1)
    found = simulate(drawn, design_named("thp-2m-truncate"), backing_named("anon-thp"), host, points=9)
    assert found.ended == "the host runs out of memory between 1 and 2 of 8 conversions"
    assert found["conversions"].tolist() == [0, 1]


def test_split_folio_of_hugetlb_takes_struct_pages() -> None:
    drawn = stream([(5, True), (5, False)])
    assert curves(drawn, "hugetlb")["extra"].tolist() == [0, 7, 0]
    assert curves(drawn, "hugetlb-no-hvo")["extra"].tolist() == [0, 0, 0]
    giant = stream([(5, True)], 1 << 18)
    assert curves(giant, "hugetlb:18", host=HostMemory.synthetic(1 << 18)).last("extra") == 4095


FULL = replace(HOST, free=0, blocks=0)
"""A host whose last free page went to the guest."""


def test_full_host_shared_side_takes_the_hole() -> None:
    """Movable requests fall back to Unmovable blocks, and what they leave there is a hole again."""
    found = curves(stream([(5, True), (6, True), (5, False), (6, False)]), "order0", host=FULL)
    assert found["free"].tolist() == [0] * 5
    assert found["pinned"].tolist() == found["unusable"].tolist() == [0] * 5
    assert found.last("reused") == 2


def test_full_host_shared_side_takes_the_emptied_block() -> None:
    whole = Stream(np.array([1, 1]), np.array([True, False]), PAGES, 9)
    found = curves(whole, "thp-discard", host=FULL)
    assert found["shared"].tolist() == [0, 512, 0]
    assert found["free"].tolist() == found["unusable"].tolist() == [0, 0, 0]
    assert found["huge"].tolist() == [4, 3, 4]


def test_other_cpu_on_a_host_without_blocks() -> None:
    """Frames come from scattered pages, and go back there; when none is left the curve ends."""
    host = replace(FULL, free=3)
    drawn = [(5, True), (5, False), (5, True)]
    found = curves(stream(drawn), "order0", "hugetlb", host, same_cpu=False)
    assert found["free"].tolist() == [3, 4, 3, 4]
    assert found["unusable"].tolist() == [0, 1, 1, 1]
    many = [(page, to) for page in range(5) for to in (True, False)]
    ended = simulate(
        stream(many), design_named("order0"), backing_named("hugetlb"), host, points=len(many) + 1, same_cpu=False
    )
    assert ended.ended == "the host runs out of memory between 7 and 8 of 10 conversions"


def test_scattered_pages_go_first_and_are_given_back_first() -> None:
    host = replace(HOST, free=10 * 512 + 2, blocks=10)
    found = curves(stream([(0, True), (1, True), (2, True), (1, False), (2, False), (0, False)]), "inplace", host=host)
    assert found["free"].tolist() == [host.free] * 7
    found = curves(stream([(0, True), (1, True), (2, True), (1, False), (2, False), (0, False)]), "order0", host=host)
    # of each shared page one hole stays in the guest's block; the third page begins a block of its own
    assert found["unusable"].tolist() == [0, 1, 2, 3 + 511, 2 + 511, 1 + 511, 512 - 512]


def test_small_folios_are_cut_from_one_block() -> None:
    """A refilled window of 4 pages takes 4 of a block claimed for it; the rest of the block has holes then."""
    drawn = [*((page, True) for page in range(8)), (0, False), (4, False)]
    found = curves(stream(drawn), "thp-discard:2", "hugetlb")
    assert found["pinned"].tolist()[-3:] == [1, 2, 2]
    assert found["unusable"].tolist()[-3:] == [8, 8 + 508, 8 + 504]
    assert found["fresh"].tolist()[-2:] == [1, 2]
    everything = [(page, True) for page in range(516)] + [(page, False) for page in range(0, 516, 4)]
    found = curves(stream(everything), "thp-discard:2", "hugetlb")
    assert found.last("fresh") + found.last("reused") == 129
    host = replace(HOST, free=512, blocks=1)
    whole = [(page, True) for page in (*range(508), *range(512, 516))]
    back = [(page, False) for page in (*range(0, 508, 4), 512)]
    found = curves(stream(whole + back), "thp-discard:2", "hugetlb", host)
    assert found["huge"][-1] == found["huge"][0], "one block is 128 folios of 4 pages, to the last"


def test_new_block_for_a_huge_folio_is_no_reuse() -> None:
    whole = Stream(np.array([1, 1]), np.array([True, False]), PAGES, 9)
    mixed = replace(HOST, huge_for_guest=1)
    found = curves(whole, "thp-discard", "hugetlb", mixed)
    assert (found.last("fresh"), found.last("reused"), found.last("huge")) == (1, 0, 2)


def test_vmemmap_pages_come_from_unmovable_blocks() -> None:
    found = curves(stream([(5, True), (700, True), (5, False), (700, False)]), "hugetlb")
    assert found["unusable"].tolist() == [0, 505, 498, 505, 0]
    assert found["pinned"].tolist() == [0, 1, 1, 1, 0]


def test_merged_block_serves_a_huge_folio_before_a_new_one() -> None:
    whole = Stream(np.array([1, 2, 1, 2]), np.array([True, True, False, False]), PAGES, 9)
    found = curves(whole, "thp-discard", "hugetlb")
    assert found["reused"].tolist() == [0, 0, 0, 1, 2]
    assert found["free"].tolist()[-1] == found["free"].tolist()[0]


def test_shared_huge_page_of_anonymous_memory_stays_until_its_last_page_goes() -> None:
    found = curves(stream([(0, True), (0, False), (0, True), (0, False)]), "order0", "anon-thp")
    assert found["shared"].tolist() == [0, 512, 512, 513, 512], "the page table stays, so that a page comes back single"
    whole = Stream(np.array([1, 1, 1]), np.array([True, False, True]), PAGES, 9)
    assert curves(whole, "order0", "anon-thp")["shared"].tolist() == [0, 512, 0, 512]


def test_shmem_huge_page_frees_what_is_punched() -> None:
    found = curves(stream([(0, True), (0, False), (0, True)]), "order0", "shmem-thp")
    assert found["shared"].tolist() == [0, 512, 511, 512]


def test_block_that_folios_were_cut_from_goes_as_a_whole() -> None:
    """Cut, freed again altogether, then taken by the shared side: nothing may be cut from it any more."""
    window = [(page, True) for page in range(4)]
    others = [(512 + 2 * step, True) for step in range(511)]
    drawn = [*window, (0, False), *window, *others, (0, False)]
    host = replace(HOST, free=2 * 512, blocks=2)
    found = curves(stream(drawn), "thp-discard:2", "memfd-4k", host)
    held = found["free"] + found["extra"]
    assert held.tolist() == [1024] * len(held)
    assert [found["pinned"][at] for at in (4, 5, 9)] == [1, 2, 1], (
        "cut from a new block, and given back: that block is free again"
    )
    assert found["shared"].tolist()[-2:] == [515, 514]
    assert found["fresh"].tolist()[-1] == 1, "the window is refilled by single pages, of frames freed before"


def naive_splits(drawn: list[int], order: int) -> list[int]:
    """Splits of one folio by holes of single pages, from a list of its pieces as (first page, size)."""
    pieces = {(0, 1 << order)}
    found, splits = [], 0

    def split_around(page: int) -> None:
        nonlocal splits
        (hit,) = (piece for piece in pieces if piece[0] <= page < sum(piece))
        pieces.remove(hit)
        first, size = hit
        splits += 1
        while size > 1:
            size //= 2
            other = first if page >= first + size else first + size
            first = first + size if page >= first + size else first
            pieces.add((other, size))
        pieces.add((page, 1))

    for page in drawn:
        piece = next((piece for piece in pieces if piece[0] <= page < sum(piece)), None)
        if piece and piece[1] > 1:
            split_around(page)
            if page + 1 < sum(piece) and (page + 1, 1) not in pieces:
                split_around(page + 1)
        pieces.discard((page, 1))
        found.append(splits)
    return found


@settings(max_examples=300, deadline=None)
@given(order=st.integers(1, 6), data=st.data())
def test_splits_are_those_of_a_list_of_pieces(order: int, data: st.DataObject) -> None:
    page = st.integers(0, (1 << order) - 1)
    # one page of the window is never converted, so that it is never empty and the folio never comes back
    drawn = data.draw(st.lists(page.filter(lambda at: at != 1), min_size=1, max_size=40))
    walk = [step for at in drawn for step in ((at, True), (at, False))]
    found = curves(stream(walk), f"thp-discard:{order}")["splits"].tolist()
    assert found[1::2] == naive_splits(drawn, order)


def test_synthetic_host() -> None:
    host = HostMemory.synthetic(1 << 29)
    assert (host.free, host.blocks, host.huge_for_guest) == (1 << 26, 1 << 17, 1 << 20)
    assert host.pcp_pages == ((1 << 29) + (1 << 26)) // 8 // 576
    small = HostMemory.synthetic(512, fragmented=0.5)
    assert (small.free, small.blocks, small.huge_for_guest) == (1 << 18, 256, 0)
    assert small.pcp_pages == ((1 << 18) + 512) // 8 // 2
