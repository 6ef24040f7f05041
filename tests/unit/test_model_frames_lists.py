# SPDX-License-Identifier: GPL-2.0-only
"""Which frames come back, event by event: what each kind of traffic adds to the doubt, with numbers by hand."""

from __future__ import annotations

from collections.abc import Iterable

from harness.model.aligned import Blocks
from harness.model.allocator.pcp import PcpLimits
from harness.model.allocator.placement import CpuStep, What
from harness.model.events import (
    PAGE_IN_PASSING,
    PRIVATE_FREED,
    SHARED_ALLOCATED,
    TABLE_ALLOCATED,
    TABLE_FREED,
    Event,
    private_allocated,
)
from harness.model.folio_events import KEPT_PRIVATE_FREED, PRIVATE_REMOVED
from harness.model.frames import Frames, _orders, _others
from harness.model.prediction import Prediction, Reason
from harness.model.state import RegionState

WHY = (Reason("rule", "four words of reason"),)
LIMITS = PcpLimits(63, 15469, 15469)
ROOM = 3 * 2016 + 9 * 63 + 2 * 2 * 512
"""What a refill of each type, of each other list, and two order-9 pages of two lists may bring besides."""


def known(held: int = 100, *, high: int = 15469, count: int = 0) -> Frames:
    start = {"gmem/g0": held, "pcp_lists/high": high, "pcp_lists/batch": 63, "pcp_lists/count": count}
    return Frames.from_sample(start, ("g0",))


def bound(low: int, high: int | None = None) -> Prediction:
    return Prediction(low, low if high is None else high, WHY)


def took(pages: int, order: int = 0, cpu: int | None = 0) -> Event:
    return Event(private_allocated(order), "g0", pages, "rule", "text", cpu)


def gave(pages: int, cpu: int | None = 0) -> Event:
    return Event(PRIVATE_FREED, "g0", pages, "rule", "text", cpu)


def follow(
    frames: Frames, events: Iterable[Event], net: tuple[int, int] | int, *, freed: int = 0,
    before: RegionState | None = None, after: RegionState | None = None, one_by_one: bool = False,
    **others: tuple[int, int],
) -> dict[str, tuple[int, int]]:  # fmt: skip
    """The bounds of one step; ``net``: nr_unevictable, ``freed``: pgfree."""
    low, high = (net, net) if isinstance(net, int) else net
    bounds = {"nr_unevictable": bound(low, high), "pgfree": bound(0, freed)}
    bounds |= {name: bound(*span) for name, span in others.items()}
    found = frames.follow(
        events, bounds, {"g0.r0": before or RegionState(1)}, {"g0.r0": after or RegionState(1)}, one_by_one=one_by_one
    )
    return {name.removeprefix("frames/"): (told.low, told.high) for name, told in found.items()}


def singles(first: int, count: int) -> RegionState:
    return RegionState(1, private=((1 << count) - 1) << first)


def give_ten(frames: Frames, **more: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return follow(frames, [gave(10)], -10, freed=10, before=singles(0, 10), **more)


def test_the_first_sample() -> None:
    assert known(7, count=5) == Frames(LIMITS, 5, 7)
    assert Frames.from_sample({}, ()) == Frames(None, 0, 0, lost="the first sample lacks the lists' limits")
    assert Frames.from_sample({"gmem/g0": 3, "frames/held": 9}, ("g0", "g1")).held == 9
    assert Frames.from_sample({"gmem/g0": 3}, ("g0", "g1")).held is None
    assert Frames.from_sample({"gmem/g0": 3, "gmem/g1": 4}, ("g0", "g1")).held == 7
    for name in ("high", "batch", "count"):
        start = {f"pcp_lists/{kept}": 9 for kept in ("high", "batch", "count") if kept != name}
        assert Frames.from_sample(start, ()).limits is None


def test_nothing_comes_back_before_anything_went() -> None:
    frames = known()
    assert follow(frames, [took(5)], 5) == {"kept": (100, 100), "gone": (0, 0), "back": (0, 0), "new": (5, 5)}
    assert (frames.held, frames.pool, frames.taken, frames.given) == (105, 0, 0, 0)


def test_given_up_and_taken_again() -> None:
    frames = known()
    assert give_ten(frames) == {"kept": (90, 90), "gone": (10, 10), "back": (0, 0), "new": (0, 0)}
    assert (frames.held, frames.pool, frames.freed) == (90, 10, 10)
    assert follow(frames, [took(4)], 4) == {"kept": (90, 90), "gone": (0, 0), "back": (4, 4), "new": (0, 0)}
    assert frames.pool == 6
    assert follow(frames, [took(8)], 8) == {"kept": (94, 94), "gone": (0, 0), "back": (6, 6), "new": (2, 2)}
    assert frames.pool == 0


def test_all_that_came_back_is_forgotten_with_what_others_did_meanwhile() -> None:
    frames = known()
    give_ten(frames, unaccounted=(-2, 3))
    assert (frames.taken, frames.given) == (3, 2)
    follow(frames, [took(10)], 10, nr_slab_unreclaimable=(-1, 1))
    assert (frames.taken, frames.given) == (4, 3)
    assert frames.pool == 7, "others may have taken four and put three on top: three came back for certain"
    clean = known()
    give_ten(clean)
    follow(clean, [took(10)], 10)
    follow(clean, [], 0, unaccounted=(-50, 50))
    assert (clean.steps, clean.taken, clean.given) == ({}, 0, 0)


def test_what_others_take_and_put_widens_what_comes_back() -> None:
    """Three pages taken by tables: up to three fewer; two put on top: up to two fewer again; the most is what was."""
    frames = known()
    give_ten(frames)
    tables = [Event(TABLE_ALLOCATED, "g0", 3, "r", "t"), Event(TABLE_FREED, "g0", 2, "r", "t")]
    assert follow(frames, [*tables, took(10)], 10)["back"] == (5, 10)
    frames = known()
    give_ten(frames)
    assert follow(frames, [Event(PAGE_IN_PASSING, "g0", 2, "r", "t"), took(10)], 10)["back"] == (6, 10)
    frames = known()
    give_ten(frames)
    assert follow(frames, [Event(SHARED_ALLOCATED, "g0", 9, "r", "t"), took(10)], 10)["back"] == (10, 10)


def test_unmovable_pages_of_others() -> None:
    happened = [
        took(7), gave(9), Event(TABLE_ALLOCATED, "g0", 3, "r", "t"), Event(TABLE_FREED, "g0", 20, "r", "t"),
        Event(PAGE_IN_PASSING, "g0", 100, "r", "t"), Event(SHARED_ALLOCATED, "g0", 1000, "r", "t"),
        Event(KEPT_PRIVATE_FREED, "g0", 5000, "r", "t"),
    ]  # fmt: skip
    assert _others(happened, {}) == (103, 120)
    moved = {"unaccounted": bound(-1, 2), "nr_slab_unreclaimable": bound(-30, 40), "nr_slab_reclaimable": bound(-9, 9)}
    assert _others([], moved) == (42, 31)
    assert _others([], {"unaccounted": bound(3, 4)}) == (4, 0)
    assert _others([], {"unaccounted": bound(-4, -3)}) == (0, 4)


def test_frames_of_another_cpu_wait() -> None:
    frames = known()
    give_ten(frames)
    assert follow(frames, [took(10, cpu=1)], 10)["back"] == (0, 0)
    assert frames.pool == 10
    assert follow(frames, [took(10, cpu=0)], 10)["back"] == (10, 10)


def test_where_the_cpu_is_not_known_any_may_come() -> None:
    frames = known()
    give_ten(frames)
    assert follow(frames, [took(4, cpu=None)], 4) == {
        "kept": (90, 90), "gone": (0, 0), "back": (0, 4), "new": (0, 4),
    }  # fmt: skip
    assert frames.lost == "a guest that was never placed ran on any CPU"
    assert follow(frames, [took(4)], 4)["back"] == (0, 4), "from then on for good"
    frames = known()
    follow(frames, [gave(5, cpu=0), gave(5, cpu=1)], -10, before=singles(0, 10))
    assert frames.lost == "frames were given up on a CPU that is not known"
    assert frames.pool == 10


def test_the_room_that_is_left_on_a_list() -> None:
    """The list overflows when what was on it, what refills bring and what is freed reach the limit."""
    for high, back in ((ROOM + 5 + 11, (10, 10)), (ROOM + 5 + 10, (0, 10))):
        frames = known(high=high, count=5)
        limits = frames.limits
        assert limits is not None
        brought = 3 * limits.largest_refill + 9 * 63 + 2048
        assert brought == ROOM
        give_ten(frames)
        assert follow(frames, [took(10)], 10)["back"] == back


def test_what_all_steps_freed_takes_room_but_not_twice() -> None:
    frames = known(count=5)
    frames.freed = 70
    history = [CpuStep(What.FREE, 0, 30), CpuStep(What.ALLOC, 1, 9), CpuStep(What.FREE, 1, 10)]
    assert frames._others_on_lists(0, history) == {0: 5 + ROOM + 30, 1: 5 + ROOM + 30}
    frames.freed = 39
    assert frames._others_on_lists(0, history) == {0: 5 + ROOM, 1: 5 + ROOM}


def test_blocks_of_each_order_have_a_list_of_their_own() -> None:
    there = RegionState(1, private=0xFF, private_folios=Blocks().add(3, 1))
    for order, tables, back in ((3, 0, (8, 8)), (3, 2, (6, 8)), (0, 0, (0, 0)), (2, 0, (0, 0))):
        frames = known()
        follow(frames, [gave(8)], -8, before=there)
        more = [Event(TABLE_ALLOCATED, "g0", tables, "r", "t")] if tables else []
        assert follow(frames, [*more, took(8, order)], 8)["back"] == back, (order, tables)
    frames = known()
    follow(frames, [gave(8)], -8, before=there)
    assert follow(frames, [took(16, 4)], 16)["back"] == (0, 8), "order 4 has no list: it comes from the free lists"


def test_a_huge_page_is_out_of_reach_of_tables() -> None:
    there = RegionState(1, private=(1 << 512) - 1, private_folios=Blocks().add(9, 1))
    frames = known(1000)
    follow(frames, [gave(512)], -512, before=there)
    tables = [Event(TABLE_ALLOCATED, "g0", 3, "r", "t"), Event(TABLE_FREED, "g0", 2, "r", "t")]
    assert follow(frames, [*tables, took(512, 9)], 512)["back"] == (512, 512)


def test_larger_blocks_go_to_the_free_lists() -> None:
    there = RegionState(1, private=0xFFFF, private_folios=Blocks().add(4, 1))
    frames = known()
    follow(frames, [gave(16)], -16, before=there)
    assert (frames.pool, frames.loose, frames.given) == (16, 16, 16)
    assert follow(frames, [took(3)], 3)["back"] == (0, 3)
    assert (frames.pool, frames.loose) == (16, 16)
    piece_by_piece = known()
    follow(piece_by_piece, [gave(16)], -16, before=there, one_by_one=True)
    assert (piece_by_piece.loose, piece_by_piece.given) == (0, 0)


def test_the_blocks_that_pages_leave_in() -> None:
    folios = Blocks().add(2, 1 << 8).add(3, 1 << 16)
    was = RegionState(1, private=0xFF | 0xF << 8 | 0xFF << 16, private_folios=folios)

    def left(private: int) -> dict[int, int] | None:
        return _orders({"r": was}, {"r": RegionState(1, private=private)})

    assert left(was.private) == {}
    assert left(was.private & ~0b11) == {0: 2}
    assert left(was.private & ~(0xF << 8)) == {2: 4}
    assert left(0) == {0: 8, 2: 4, 3: 8}
    assert left(was.private & ~(1 << 9)) == {0: 1}
    assert left(was.private & ~(0b11 << 8)) is None
    assert left(was.private & ~(0b11 << 8 | 0xFF << 16)) is None
    assert _orders({"r": was, "s": singles(0, 3)}, {}) == {0: 11, 2: 4, 3: 8}


def test_an_unknown_number_of_frames_ends_what_is_known() -> None:
    frames = known()
    give_ten(frames)
    assert follow(frames, [took(4)], (2, 6)) == {
        "kept": (90, 90), "gone": (0, 0), "back": (0, 6), "new": (0, 6),
    }  # fmt: skip
    assert frames.held is None
    assert follow(frames, [took(4)], 4) == {}
    frames = known()
    assert follow(frames, [gave(4)], (-6, -2)) == {
        "kept": (94, 98), "gone": (2, 6), "back": (0, 0), "new": (0, 0),
    }  # fmt: skip
    assert frames.pool == 6
    assert frames.lost == "frames came or went where no rule says how many, or on which CPU"
    assert follow(known(), [took(30)], (20, 40)) == {
        "kept": (100, 100), "gone": (0, 0), "back": (0, 0), "new": (20, 40),
    }  # fmt: skip
    assert follow(known(), [took(3), gave(3)], (-1, 0)) == {}
    assert follow(known(), [took(3)], (-1, 1)) == {}
    assert follow(known(), [took(3)], (0, 1)) != {}


def test_what_leaves_its_file_under_a_reference_is_not_given_up() -> None:
    frames = known()
    kept = Event(PRIVATE_REMOVED, "g0", 3, "r", "t", 0)
    assert follow(frames, [gave(7), kept], -7, before=singles(0, 10), after=singles(7, 3))["gone"] == (7, 7)
    assert frames.pool == 7


def test_a_step_that_frees_an_unknown_number_fills_lists() -> None:
    frames = known()
    found = frames.follow([], {"nr_unevictable": bound(0)}, {}, {})
    assert frames.lost == "an earlier step freed an unknown number of pages"
    assert (found["frames/kept"].low, frames.held) == (100, 100)
    frames = known()
    assert frames.follow([], {"pgfree": bound(0)}, {}, {}) == {}
    assert (frames.held, frames.lost) == (None, "how many frames are held is not known")
