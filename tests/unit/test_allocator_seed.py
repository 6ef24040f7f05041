# SPDX-License-Identifier: GPL-2.0-only
"""Seeding the allocator: from the kernel's texts, from arrays of frames, and from numbers alone."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from harness.errors import UsageError
from harness.model.allocator.buddy import HELD, HOLE
from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.layout import from_frames, lay_out
from harness.model.allocator.machine import Machine
from harness.model.allocator.migratetype import Migratetype
from harness.model.allocator.pcp import PcpLimits, capped_limits
from harness.model.allocator.seed import count_zones

U, M, R = Migratetype.UNMOVABLE, Migratetype.MOVABLE, Migratetype.RECLAIMABLE
CAP = PcpLimits(63, 252, 252)
START = 1 << 20

PAGETYPEINFO = """\
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order 0 1 2 3 4 5 6 7 8 9 10
Node    0, zone    DMA32, type    Unmovable 0 0 0 0 0 0 0 0 1 0 0
Node    0, zone    DMA32, type      Movable 0 1 2 0 2 4 3 3 2 4 490
Node    0, zone    DMA32, type  Reclaimable 0 0 0 0 0 0 0 0 0 0 0
Node    0, zone    DMA32, type   HighAtomic 0 0 0 0 0 0 0 0 0 0 0
Node    0, zone   Normal, type    Unmovable 18 16 21 0 2 0 2 4 4 1 6
Node    0, zone   Normal, type      Movable 16 6 3 1 0 5 2 3 3 4 172
Node    0, zone   Normal, type  Reclaimable 0 0 0 0 2 1 2 1 1 0 0
Node    0, zone   Normal, type   HighAtomic 0 0 0 0 0 0 0 0 0 0 0

Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic
Node 0, zone    DMA32 1 1023 0 0
Node 0, zone   Normal 24 486 2 0
"""
BUDDYINFO = """\
Node 0, zone    DMA32 0 1 2 0 2 4 3 3 3 4 490
Node 0, zone   Normal 34 22 24 1 4 6 6 8 8 5 178
"""
PAGESETS = "  pagesets\n" + "".join(
    f"    cpu: {cpu}\n              count:    {{{cpu}}}\n              high:     252\n              batch:    63\n"
    "              high_min: 252\n              high_max: 252\n"
    for cpu in (0, 1)
)
ZONEINFO = (
    "Node 0, zone    DMA32\n  pages free     505322\n        boost    0\n        min      1152\n        low      1657\n"
    "        high     2162\n        managed  505826\n        protection: (0, 966, 966)\n"
    + PAGESETS.format(252, 252)
    + "Node 0, zone   Normal\n  pages free     188726\n        boost    0\n        min      563\n        low      810\n"
    "        high     1057\n        managed  247504\n        protection: (0, 0, 0)\n"
    + PAGESETS.format(247, 252)
    + "Node 0, zone  Movable\n  pages free     0\n        managed  0\n        protection: (0, 0, 0)\n"
)
"""An emulated host (7.3.4, 3 GiB, two CPUs, capped lists) before a step."""
RAW = {"pagetypeinfo": PAGETYPEINFO, "buddyinfo": BUDDYINFO, "zoneinfo": ZONEINFO}


class TestNumbers:
    def test_an_emulated_host(self) -> None:
        normal, dma32 = count_zones(RAW)
        assert (normal.name, dma32.name) == ("Normal", "DMA32")
        assert (normal.managed, normal.cpus, normal.limits) == (247504, 2, CAP)
        free = normal.free_pages(U)
        assert free.low == normal.listed(U).low == 8486
        assert free.high == free.low + 247 + 252
        assert "of unknown type" in free.rule
        assert [normal.blocks(kind).low for kind in (U, M, R)] == [24, 486, 2]
        assert normal.order(M, 10).exact
        assert normal.order(M, 10).low == 172
        assert normal.unusable().exact
        assert normal.hidden == 499

    def test_the_mark_below_which_the_next_zone_serves(self) -> None:
        normal, dma32 = count_zones(RAW)
        assert normal.floor == 810
        assert dma32.floor == 1657 + 966
        assert normal.alloc(100_000, U) is not None
        boosted = RAW | {"zoneinfo": RAW["zoneinfo"].replace("boost    0", "boost    7")}
        assert [zone.floor for zone in count_zones(boosted)] == [817, 1657 + 7 + 966]
        assert replace(normal, floor=100_000).alloc(100_000, U) is None

    def test_a_demand_beyond_what_is_free_claims(self) -> None:
        normal, _ = count_zones(RAW)
        served = normal.alloc(8486 + 499 + 1, U)
        assert served is not None
        assert (served.claimed.low, served.claimed.high) == (2, 2)
        assert served.zone.blocks(M).low == served.zone.blocks(M).high == 484

    def test_an_uncounted_list_comes_from_buddyinfo(self) -> None:
        raw = dict(RAW)
        raw["pagetypeinfo"] = PAGETYPEINFO.replace("Movable 16 6", "Movable >100000 6")
        raw["buddyinfo"] = BUDDYINFO.replace("Normal 34", "Normal 123456")
        normal, _ = count_zones(raw)
        assert normal.order(M, 0).exact
        assert normal.order(M, 0).low == 123456 - 18

    def test_two_uncounted_lists_of_an_order_are_intervals_and_never_zero(self) -> None:
        raw = dict(RAW)
        raw["pagetypeinfo"] = PAGETYPEINFO.replace("Movable 16 6", "Movable >100000 6").replace(
            "Unmovable 18 16", "Unmovable >100000 16"
        )
        raw["buddyinfo"] = BUDDYINFO.replace("Normal 34", "Normal 250000")
        normal, _ = count_zones(raw)
        free = normal.listed(U)
        assert free.low <= 100_000 + 8468 <= free.high
        assert normal.free_pages(U).low == 100_000 + 8468
        assert normal.free_pages(U).high == 150_000 + 8468 + 499

    @pytest.mark.parametrize("name", sorted(RAW))
    def test_a_missing_text_is_refused_by_name(self, name: str) -> None:
        with pytest.raises(UsageError, match=f"the sample has no {name}: .* take it with the probe"):
            count_zones({key: text for key, text in RAW.items() if key != name})

    def test_texts_of_different_instants_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"zone Normal, order 0: buddyinfo counts 33 .* take the sample again"):
            count_zones(RAW | {"buddyinfo": BUDDYINFO.replace("Normal 34", "Normal 33")})

    def test_an_uncounted_list_that_buddyinfo_contradicts_is_refused(self) -> None:
        torn = PAGETYPEINFO.replace("Movable 16 6", "Movable >100000 6")
        with pytest.raises(UsageError, match="1 times more than 100000"):
            count_zones(RAW | {"pagetypeinfo": torn})

    def test_a_node_without_memory_is_refused(self) -> None:
        with pytest.raises(UsageError, match="no populated zone on node 1"):
            count_zones(RAW, node=1)

    def test_a_zone_that_only_zoneinfo_knows_is_refused(self) -> None:
        with pytest.raises(UsageError, match="not in pagetypeinfo or buddyinfo"):
            count_zones(RAW | {"buddyinfo": BUDDYINFO.splitlines(keepends=True)[0]})

    def test_a_kernel_without_high_min_has_one_limit(self) -> None:
        old = "".join(line for line in ZONEINFO.splitlines(keepends=True) if "high_m" not in line)
        assert count_zones(RAW | {"zoneinfo": old})[0].limits == CAP

    def test_every_number_after_a_demand_and_a_free(self) -> None:
        """By hand: 8,486 Unmovable pages listed, 499 of unknown type on per-CPU lists, refills of up to 188 more."""
        normal, _ = count_zones(RAW)
        served = normal.alloc(8800, U)
        assert served is not None
        assert (served.claimed.low, served.claimed.high) == (0, 2)
        zone = served.zone
        assert (zone.hidden, zone.hideable) == (504, 504)
        free, blocks, whole = zone.free_pages(U), zone.blocks(U), zone.rows[U].whole
        assert (free.low, free.high) == (0, 8486 + 499 - 8800 + 1024)
        assert (blocks.low, blocks.high) == (24, 26)
        assert whole == (0, free.high)
        assert (zone.blocks(M).low, zone.blocks(M).high) == (484, 486)
        assert (zone.free_pages(R).low, zone.blocks(R).low) == (576, 2)
        freed = zone.free(600, U)
        pages = freed.free_pages(U)
        assert (pages.low, pages.high) == (0, 1209 + 600 + 3 * 512)
        assert freed.hidden == 504
        drained = freed.drain()
        assert drained.hidden == 0
        assert drained.listed(U).low == drained.free_pages(U).low

    def test_a_claim_leaves_less_than_an_order_ten_block(self) -> None:
        """Upper bound after a demand far beyond what is free: 1,023 pages, what lists hid, and a refill."""
        normal, _ = count_zones(RAW)
        served = normal.alloc(50_000, U)
        assert served is not None
        assert served.zone.free_pages(U).high == 8486 + 499 - 50_000 + served.claimed.high * 512
        wide = replace(normal, cpus=1, hidden=499).alloc(50_000, U, cpus=2)
        assert wide is not None
        assert wide.zone.free_pages(U).high <= 1023 + 499 + 2 * 188

    def test_a_small_demand_leaves_whole_blocks_alone(self) -> None:
        normal, _ = count_zones(RAW)
        served = normal.alloc(100, U)
        assert served is not None
        assert (served.claimed.low, served.claimed.high) == (0, 0)
        assert served.zone.rows[U].whole == (6656, 6656)
        assert served.zone.rows[M] == normal.rows[M]
        more = normal.alloc(1500, U)
        assert more is not None
        assert more.zone.rows[U].whole == (6656 - 512, 6656)
        assert more.zone.rows[U].largest == (6144 - 1024, 6144)


class TestFrames:
    def test_what_the_flags_say_is_what_was_there(self) -> None:
        """A zone's own frames, read as kpageflags would show them, give the same lists but for their order."""
        made = FrameZone("DMA32", 0, 8192, cpus=2, limits=PcpLimits(1, 0, 0))
        made.populate(0, 8192)
        machine = Machine([made])
        held = [machine.alloc(0, U, 0) for _ in range(3000)]
        random.Random(3).shuffle(held)
        for pfn in held[:1500]:
            assert pfn is not None
            machine.free(pfn, 0, 0)
        use = np.frombuffer(bytes(made.use), np.uint8)
        again = from_frames(
            FrameZone("DMA32", 0, 8192),
            use == 1,
            (use >= HELD) & (use & 1 == 1),
            list(made.types),
        )
        assert again.order_of == made.order_of
        assert again.free_counts() == made.free_counts()
        assert bytes(again.use) == bytes(made.use)

    def test_a_hole_belongs_to_nobody(self) -> None:
        hole = np.zeros(1024, np.bool_)
        hole[100:200] = True
        zone = from_frames(FrameZone("DMA", 0, 1024), ~hole, np.zeros(1024, np.bool_), [M, M], hole)
        assert zone.managed == zone.nr_free == 924
        assert zone.use[100] == HOLE
        assert zone.order_of[512] == 9

    def test_free_buddies_of_unlike_types_stay_apart(self) -> None:
        free = np.ones(1024, np.bool_)
        zone = from_frames(FrameZone("DMA", 0, 1024), free, ~free, [Migratetype.HIGHATOMIC, M])
        assert zone.order_of == {0: 9, 512: 9}

    def test_a_zone_that_begins_inside_a_pageblock(self) -> None:
        free = np.ones(700, np.bool_)
        zone = from_frames(FrameZone("DMA", 1, 700), free, ~free, [M, M])
        assert zone.nr_free == 700
        assert zone.order_of[1] == 0
        assert zone.order_of[512] == 7

    @pytest.mark.parametrize(("frames", "types"), [(1023, 2), (1024, 1), (1024, 3)])
    def test_arrays_that_do_not_fit_are_refused(self, frames: int, types: int) -> None:
        free = np.ones(frames, np.bool_)
        with pytest.raises(UsageError, match="has 1024 frames in 2 pageblocks"):
            from_frames(FrameZone("DMA", 0, 1024), free, ~free, [M] * types)

    def test_two_gibibytes_of_frames_are_read(self) -> None:
        rng = np.random.default_rng(1)
        free = rng.random(524_288) < 0.4
        zone = from_frames(FrameZone("Normal", START, 524_288), free, ~free, [M] * 1024)
        assert zone.nr_free == int(free.sum())


class TestLayout:
    def test_a_fresh_zone_is_made(self) -> None:
        zone = FrameZone("Normal", START, 524_288, cpus=2, limits=capped_limits(524_288, 2, 1_000_000))
        zone.populate(START, 524_288)
        assert zone.pcps[0].limits == CAP

    def test_numbers_that_do_not_fit_are_refused(self) -> None:
        free = {U: [300, *[0] * 10], M: [0] * 11, R: [0] * 11}
        with pytest.raises(UsageError, match="1 Unmovable pageblocks cannot hold"):
            lay_out(FrameZone("Normal", START, 1024), free, {U: 1, M: 1})

    def test_pageblocks_that_do_not_fill_the_zone_are_refused(self) -> None:
        with pytest.raises(UsageError, match="3 pageblocks do not fill"):
            lay_out(FrameZone("Normal", START, 1024), {}, {M: 3})

    def test_more_whole_blocks_than_room_are_refused(self) -> None:
        free = {M: [*[0] * 10, 2]}
        with pytest.raises(UsageError, match="no room for so many free blocks of order 10"):
            lay_out(FrameZone("Normal", START, 1024), free, {M: 2})

    @pytest.mark.parametrize(("start", "edge"), [(0, 1024), (512, 512)])
    def test_a_pageblock_without_its_buddy_is_used_too(self, start: int, edge: int) -> None:
        free = {M: [*[0] * 9, 1, 1]}
        zone = lay_out(FrameZone("DMA32", start, 1536), free, {M: 3})
        assert zone.order_of == {edge: 9, start and 1024: 10}
        assert zone.nr_free == 1536

    def test_without_a_generator_lists_rise(self) -> None:
        free = {M: [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 2]}
        zone = lay_out(FrameZone("Normal", START, 4096), free, {M: 8})
        assert list(zone.in_order(10, M)) == [START, START + 1024]
        assert list(zone.in_order(3, M)) == sorted(zone.in_order(3, M))
