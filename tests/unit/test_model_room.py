# SPDX-License-Identifier: GPL-2.0-only
"""How many huge folios the host has: from its free lists, and what follows for the windows of a guest."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from model_tables import START
from test_allocator_seed import RAW
from test_model_contents import scenario_of

from harness.model.course import Course, looks
from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.prediction import StepPrediction
from harness.model.room import Room, _made, from_sample
from harness.scenario.steps import Empty, Pressure

FACTS = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
VALUES = {"nr_inactive_file": 0, "nr_active_file": 0, "pcp": 0}
PAGESETS = "  pagesets\n" + "".join(
    f"    cpu: {cpu}\n              count:    0\n              high:     252\n              batch:    63\n"
    for cpu in (0, 1)
)


def texts(blocks: int, *, single: int = 40_000, pieces: int = 0, movable: int = 0, low: int = 1000) -> dict[str, str]:
    """A host of one zone: whole free Unmovable blocks, single Unmovable pages, order-8 pieces, single Movable pages."""
    zeroes = " 0" * 9
    types = (
        "Page block order: 9\nPages per block:  512\n\n"
        "Free pages count per migrate type at order 0 1 2 3 4 5 6 7 8 9 10\n"
        f"Node    0, zone   Normal, type    Unmovable {single} 0 0 0 0 0 0 0 {pieces} {blocks} 0\n"
        f"Node    0, zone   Normal, type      Movable {movable}{zeroes} 0\n"
        f"Node    0, zone   Normal, type  Reclaimable 1000{zeroes} 0\n\n"
        "Number of blocks type     Unmovable      Movable  Reclaimable\nNode 0, zone   Normal 400 80 20\n"
    )
    free = single + movable + 1000 + 256 * pieces + 512 * blocks
    return {
        "pagetypeinfo": types,
        "buddyinfo": f"Node 0, zone   Normal {single + movable + 1000} 0 0 0 0 0 0 0 {pieces} {blocks} 0\n",
        "zoneinfo": f"Node 0, zone   Normal\n  pages free     {free}\n        boost    0\n        min      {low}\n"
        f"        low      {low}\n        high     {low}\n        managed  250000\n        protection: (0, 0, 0)\n"
        + PAGESETS,
    }


def room(raw: dict[str, str], placed: bool = True, **values: int) -> Room:
    found = from_sample(raw, VALUES | values, FACTS, placed)
    assert found is not None
    return found


class TestSample:
    def test_a_host_at_rest_has_hundreds_and_nobody_knows_the_most(self) -> None:
        found = room(RAW)
        assert 500 < found.least < 2 * (490 + 178) + 10
        assert found.most is not None
        assert found.most > 1000

    @pytest.mark.parametrize("blocks", [0, 1, 2, 3, 8, 9])
    def test_pinned_pieces(self, blocks: int) -> None:
        """All are had; of an even number the last may stay behind on a per-CPU list, until the lists are drained."""
        found = room(texts(blocks))
        assert found.least == found.most == blocks
        assert found.fast == blocks - (blocks > 0 and not blocks % 2)

    def test_without_spare_pages_the_lists_are_not_drained(self) -> None:
        assert [room(texts(4, single=single, low=1000)).least for single in (500, 2000)] == [3, 4]

    def test_a_guest_that_wanders_leaves_one_on_the_list_of_another_cpu(self) -> None:
        assert [room(texts(9), placed=placed).fast for placed in (True, False)] == [9, 7]

    def test_a_host_in_pinned_pieces(self) -> None:
        """7.3.4 in the emulated host under pinned pressure that leaves nothing, with 351 pages on per-CPU lists."""
        pieces = {
            "Unmovable": [16114, 3, 1, 3, 3, 2, 1, 0, 0, 0, 0],
            "Reclaimable": [1, 4, 4, 4, 5, 1, 2, 1, 1, 0, 0],
        }
        assert [_made(pieces, loose) for loose in (0, 6, 200, 357)] == [0, 1, 2, 2]

    def test_what_can_move_may_make_blocks(self) -> None:
        assert room(texts(0, pieces=2)).most == 1
        assert room(texts(0, movable=200, pieces=1)).most == 1
        assert room(texts(0, movable=200)).most == 0
        assert room(texts(0, movable=300)).most == 1
        assert room(texts(0), nr_inactive_file=5000).most >= 8

    def test_marks(self) -> None:
        assert room(texts(4, single=2000, low=3500)).least == 2
        assert room(texts(4, single=100, low=5000)).least == 0

    def test_single_pages_may_claim_blocks(self) -> None:
        assert room(texts(9, single=100, low=500)).least == 7

    def test_a_list_that_nobody_counted(self) -> None:
        raw = texts(3)
        raw["pagetypeinfo"] = raw["pagetypeinfo"].replace("Movable 0 0", "Movable >100000 0", 1)
        assert room(raw).most is None
        assert from_sample({}, VALUES, FACTS, True) is None


def free_pieces(used: set[int], order: int) -> int:
    """Free blocks of an order in a block of 512 pages."""
    size, found = 1 << order, 0
    for start in range(0, 512, size):
        mine, other = (set(range(first, first + size)) for first in (start, start ^ size))
        found += not used & mine and bool(used & other)
    return found


@pytest.mark.parametrize("seed", range(300))
def test_no_more_blocks_are_completed_than_the_bound_says(seed: int) -> None:
    """Blocks with pages in use at random places, of which some are then freed, against the bound."""
    draw = random.Random(seed)
    blocks = [set(draw.sample(range(512), draw.choice((1, 2, 5, 30, 256)))) for _ in range(12)]
    free: dict[str, list[int | None]] = {}
    for number, used in enumerate(blocks):
        counts = free.setdefault(draw.choice(("Unmovable", "Movable")) if number else "Unmovable", [0] * 11)
        for order in range(9):
            counts[order] = (counts[order] or 0) + free_pieces(used, order)
    loose = draw.choice((0, 1, 3, 8, 40, 300, 1000))
    left, done = loose, 0
    for used in sorted(blocks, key=len):  # the cheapest first completes the most
        if len(used) <= left:
            left -= len(used)
            done += 1
    bound = _made(free, loose)
    assert bound is not None
    assert done <= bound


def test_an_unknown_number_of_loose_pages_has_no_bound() -> None:
    assert _made({}, None) is None


class TestRoom:
    ROOM = Room(5, 5, 6, 10_000, "text")

    def test_gets(self) -> None:
        assert self.ROOM.gets((8, 8)) == (5, 6)
        assert self.ROOM.gets((3, 3)) == (3, 3)
        assert self.ROOM.gets((0, 3)) == (0, 3)
        assert replace(self.ROOM, most=None).gets((8, 8)) == (5, 8)
        assert [self.ROOM.decided((n, n)) for n in (5, 6)] == [True, None]
        assert Room(0, 0, 0, 0, "").decided((2, 2)) is False

    def test_after(self) -> None:
        after = self.ROOM.after((3, 3), frees=False, allocates=False)
        assert (after.least, after.most) == (2, 3)
        assert self.ROOM.after((3, 3), frees=True, allocates=True).most is None
        assert self.ROOM.after((1, 1), frees=False, allocates=True).least == 0
        assert self.ROOM.after((8, 8), frees=False, allocates=False).least == 0


FILL = [
    "{do: place, guest: g0, cpu: 1}", "{do: convert, range: 'g0.r0[0:4096]', to: private}",
    "{do: pressure, kind: pinned, leave: 0}", "{do: populate, range: 'g0.r0[0:4096]'}",
]  # fmt: skip


def walked(raw: dict[str, str], design: str = "thp-discard", more: tuple[str, ...] = ()) -> list[StepPrediction]:
    course = Course(scenario_of([*FILL, *more]), design_named(design), START | {"compact_stall": 0}, FACTS)
    found = []
    for _ in range(len(FILL) + len(more)):
        found.append(course.predict())
        course.seen(raw, VALUES)
    return found


def huge(step: StepPrediction) -> tuple[int, int]:
    bound = step.predictions["nr_file_hugepages"]
    return bound.low, bound.high


class TestPredictions:
    @pytest.mark.parametrize("design", ["thp-discard", "thp-2m-truncate-noop", "inplace-thp-noop"])
    @pytest.mark.parametrize(("blocks", "expected"), [(0, (0, 0)), (1, (1, 1)), (4, (4, 4)), (9, (8, 8)), (12, (8, 8))])
    def test_as_many_windows_as_blocks(self, design: str, blocks: int, expected: tuple[int, int]) -> None:
        fill = walked(texts(blocks), design)[3]
        assert huge(fill) == expected
        for counter in ("nr_unevictable", "gmem/g0"):
            assert (fill.predictions[counter].low, fill.predictions[counter].high) == (4096, 4096)

    def test_the_interval_names_its_rule(self) -> None:
        (reason,) = walked(texts(5, pieces=2))[3].predictions["nr_file_hugepages"].reasons
        assert str(reason).startswith("fallback: 5 to 6 of 8 windows of g0.r0[0:4096] get a large folio: 5 blocks")

    def test_where_compaction_may_help_any_window_may_get_one(self) -> None:
        assert huge(walked(texts(3, movable=30_000, single=9000))[3]) == (3, 8)

    def test_what_the_slow_path_moves_is_left_open_and_stays_so(self) -> None:
        again = "{do: populate, range: 'g0.r0[0:4096]'}"
        for blocks, opened in ((0, True), (12, False)):
            *_, fill, after = walked(texts(blocks), more=(again,))
            for step in (fill, after):
                assert ("compact_stall" in step.unpredicted) is opened
                assert ("F" in step.predictions) is not opened

    def test_below_the_marks_the_host_reclaims(self) -> None:
        fill = walked(texts(12, single=1000, low=6000))[3]
        assert "F" in fill.unpredicted

    def test_in_place_keeps_its_folios_and_a_discard_does_not(self) -> None:
        rounds = ("{do: convert, range: 'g0.r0[9:10]', to: shared}", "{do: convert, range: 'g0.r0[9:10]', to: private}")
        assert [huge(step) for step in walked(texts(9), "inplace-thp-noop", rounds)[3:]] == [(8, 8), (-1, -1), (1, 1)]
        assert [huge(step) for step in walked(texts(9), "thp-discard", rounds)[3:]] == [(8, 8), (-1, -1), (0, 0)]

    def test_only_pressure_asks_for_a_look(self) -> None:
        assert looks(Pressure("anon", 1))
        assert not looks(Empty())


def test_pressure_is_no_guest_memfd() -> None:
    pressed = walked(texts(0))[2]
    for counter in ("nr_unevictable", "nr_zone_unevictable", "gmem/g0"):
        assert pressed.predictions[counter].high == 0
