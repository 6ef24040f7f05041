# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of the page allocator whatever is done with it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.model.allocator import buddy
from harness.model.allocator.countzone import CountZone
from harness.model.allocator.extfrag import Cause, blocks_moved
from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.layout import lay_out
from harness.model.allocator.machine import HIGHUSER, KERNEL, Machine
from harness.model.allocator.migratetype import BLOCK_PAGES, MAX_ORDER, PCPTYPES, Migratetype
from harness.model.allocator.pcp import PcpLimits
from harness.model.allocator.watermarks import Marks

U, M, R = Migratetype.UNMOVABLE, Migratetype.MOVABLE, Migratetype.RECLAIMABLE
CAP = PcpLimits(63, 252, 252)
TUNED = PcpLimits(15, 60, 400)
OFF = PcpLimits(1, 0, 0)
START = 1 << 20
PAGES = 8192

Work = list[tuple[str, int, int, int]]
"""(what, order or how many, migratetype, CPU)."""

WORK = st.lists(
    st.tuples(
        st.sampled_from(["alloc", "alloc", "free", "free", "drain", "refresh", "isolate"]),
        st.sampled_from([0, 0, 0, 0, 0, 1, 2, 3, 4, 6, 8, 9, 10]),
        st.sampled_from([0, 0, 1, 2]),
        st.sampled_from([0, 1]),
    ),
    max_size=60,
)
LIMITS = st.sampled_from([CAP, TUNED, OFF])


def two_zones(limits: PcpLimits, pages: int = PAGES) -> Machine:
    high = FrameZone("Normal", START, pages, cpus=2, limits=limits, marks=Marks(4, 8, 64))
    high.populate(START, pages)
    rest = pages // 2 - 512 + 77
    low = FrameZone("DMA32", 512, rest, cpus=2, limits=limits)  # begins and ends off the largest block
    low.populate(512, rest)
    return Machine([high, low])


class Bench:
    """Carries work out on a small machine and remembers what is held; bursts make per-CPU lists overflow.

    ``old``: the machine has been full before and is fragmented, so that types mix, steal and claim from each other.
    """

    def __init__(self, limits: PcpLimits, seed: int = 1, *, old: bool = False) -> None:
        self.machine = two_zones(limits, 4096)
        self.rng = random.Random(seed)
        self.held: list[tuple[int, int]] = []
        if old:
            for _ in range(60):
                self.do_alloc(self.rng.choice([0, 0, 0, 3, 9]), self.rng.choice([U, M, R]), 0)
                for zone in self.machine.zones:
                    zone.balance()
            for _ in range(self.rng.choice([1, 3, 6])):
                self.do_free(0, 0, 0)

    def run(self, work: Work) -> None:
        for what, order, migratetype, cpu in work:
            getattr(self, f"do_{what}")(order, migratetype, cpu)

    def do_alloc(self, order: int, migratetype: int, cpu: int) -> None:
        for _ in range(self.rng.choice([1, 40, 700]) if order < 2 else 3):
            pfn = self.machine.alloc(order, migratetype, cpu, self.rng.choice([HIGHUSER, KERNEL]))
            if pfn is not None:
                self.held.append((pfn, order))

    def do_free(self, order: int, migratetype: int, cpu: int) -> None:
        for _ in range(min(len(self.held), self.rng.choice([1, 40, 700]))):
            at = self.rng.randrange(len(self.held))
            self.held[at], self.held[-1] = self.held[-1], self.held[at]
            self.machine.free(*self.held.pop(), cpu)

    def do_drain(self, order: int, migratetype: int, cpu: int) -> None:
        self.machine.drain(cpu)

    def do_refresh(self, order: int, migratetype: int, cpu: int) -> None:
        self.machine.settle(1)

    def do_isolate(self, order: int, migratetype: int, cpu: int) -> None:
        zone = self.machine.zones[0]
        if zone.order_of:
            pfn = self.rng.choice(sorted(zone.order_of))
            zone.put_back(pfn, zone.isolate(pfn))

    def free_all(self) -> None:
        while self.held:
            self.machine.free(*self.held.pop(self.rng.randrange(len(self.held))), 0)
        self.machine.drain()


def check_lists(zone: FrameZone) -> None:
    """Free blocks are aligned, inside the zone, apart from each other, and on the list of their pageblock's type."""
    seen = bytearray(len(zone.use))
    counted: Counter[int] = Counter()
    for order, by_type in enumerate(zone.lists):
        for migratetype, chain in enumerate(by_type):
            for pfn in chain:
                assert pfn % (1 << order) == 0
                assert zone.start <= pfn
                assert pfn + (1 << order) <= zone.end
                at = pfn - zone.base
                assert not any(seen[at : at + (1 << order)])
                seen[at : at + (1 << order)] = b"\1" * (1 << order)
                assert zone.order_of[pfn] == order
                for part in range(pfn, pfn + (1 << order), BLOCK_PAGES):
                    assert zone.type_of(part) == migratetype
                if order < MAX_ORDER:
                    assert zone.order_of.get(pfn ^ (1 << order)) != order or migratetype >= PCPTYPES
                counted[migratetype] += 1 << order
    assert len(zone.order_of) == sum(len(chain) for by_type in zone.lists for chain in by_type)
    assert [counted[kind] for kind in range(6)] == zone.free_by_type
    assert bytes(byte == buddy.FREE for byte in zone.use) == bytes(seen)


def check_pages(zone: FrameZone, managed: int) -> None:
    on_lists = sum(len(chain) << order for pcp in zone.pcps for order, chain in listed(pcp.lists))
    assert on_lists == zone.pcp_pages == zone.use.count(buddy.PCP)
    assert zone.managed == managed
    assert zone.nr_free + zone.pcp_pages + zone.allocated == managed


def listed(lists: list) -> list[tuple[int, object]]:  # type: ignore[type-arg]
    from harness.model.allocator.migratetype import PCP_ORDER

    return list(zip(PCP_ORDER, lists, strict=True))


@given(work=WORK, limits=LIMITS, seed=st.integers(0, 99), old=st.booleans())
@settings(deadline=None, max_examples=40)
def test_pages_are_conserved_and_free_lists_never_overlap(work: Work, limits: PcpLimits, seed: int, old: bool) -> None:
    bench = Bench(limits, seed, old=old)
    sizes = [zone.managed for zone in bench.machine.zones]
    bench.run(work)
    for zone, managed in zip(bench.machine.zones, sizes, strict=True):
        check_pages(zone, managed)
        check_lists(zone)
    assert sum(zone.allocated for zone in bench.machine.zones) == sum(1 << order for _, order in bench.held)


@given(work=WORK, limits=LIMITS, seed=st.integers(0, 99), old=st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_fully_freed_machine_merges_back(work: Work, limits: PcpLimits, seed: int, old: bool) -> None:
    before = [sorted(zone.order_of.items()) for zone in Bench(limits).machine.zones]
    bench = Bench(limits, seed, old=old)
    bench.run(work)
    bench.free_all()
    assert [sorted(zone.order_of.items()) for zone in bench.machine.zones] == before


@given(work=WORK, limits=LIMITS, seed=st.integers(0, 99), old=st.booleans())
@settings(deadline=None, max_examples=40)
def test_every_change_of_a_pageblock_has_its_event_or_its_merge(
    work: Work, limits: PcpLimits, seed: int, old: bool
) -> None:
    before = Bench(limits).machine.block_counts()
    bench = Bench(limits, seed, old=old)
    bench.run(work)
    bench.free_all()
    for zone in bench.machine.zones:
        check_lists(zone)
        assert blocks_moved(zone.events) == sum(zone.retyped_by(Cause.CLAIM).values())
    change = Counter(dict(enumerate(before)))
    for zone in bench.machine.zones:
        for (_, old, new), count in zone.retyped.items():
            change[old] -= count
            change[new] += count
    assert [change[kind] for kind in range(6)] == bench.machine.block_counts()


@given(work=WORK, limits=LIMITS)
@settings(deadline=None, max_examples=5)
def test_the_same_work_gives_the_same_frames(work: Work, limits: PcpLimits) -> None:
    first, second = Bench(limits, old=True), Bench(limits, old=True)
    first.run(work)
    second.run(work)
    assert first.held == second.held
    assert first.machine.events == second.machine.events


@given(pages=st.integers(1, 6000), migratetype=st.sampled_from([U, R]), limits=LIMITS)
@settings(deadline=None, max_examples=40)
def test_without_fragmenting_only_whole_blocks_are_claimed(
    pages: int, migratetype: Migratetype, limits: PcpLimits
) -> None:
    machine = two_zones(limits)
    for _ in range(pages):
        assert machine.alloc(0, migratetype, 0) is not None
    assert all(event.fallback_order >= 9 and event.change_ownership for event in machine.events)
    gained = sum(zone.block_counts()[migratetype] for zone in machine.zones)
    assert gained == blocks_moved(machine.events)


@given(order=st.integers(1, 10), limits=LIMITS, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_splitting_then_freeing_all_equals_freeing_whole(order: int, limits: PcpLimits, seed: int) -> None:
    whole, split = two_zones(limits), two_zones(limits)
    first, second = whole.alloc(order, U, 0), split.alloc(order, U, 0)
    assert first is not None
    assert first == second
    whole.free(first, order, 0)
    parts = list(range(first, first + (1 << order)))
    random.Random(seed).shuffle(parts)
    for pfn in parts:
        split.free(pfn, 0, 0)
    whole.drain()
    split.drain()
    assert [z.order_of for z in whole.zones] == [z.order_of for z in split.zones]
    assert whole.block_counts() == split.block_counts()


def test_an_old_machine_has_seen_every_kind_of_fallback_and_merge() -> None:
    """The properties above would prove little on machines where nothing ever mixes."""
    seen: Counter[str] = Counter()
    for seed in range(6):
        bench = Bench(CAP, seed, old=True)
        bench.run([("free", 0, 0, 0), ("alloc", 9, M, 0), ("alloc", 0, U, 1), ("free", 0, 0, 1)] * 3)
        bench.free_all()
        for zone in bench.machine.zones:
            seen.update(cause.name for cause, _, _ in zone.retyped.elements())
            for event in zone.events:
                seen["whole" if not event.fragmenting else "part" if event.change_ownership else "steal"] += 1
    assert min(seen[kind] for kind in ("CLAIM", "MERGE", "whole", "part", "steal")) >= 5, seen


COUNTS = st.lists(st.integers(0, 6), min_size=9, max_size=9)


@st.composite
def zones(draw: st.DrawFn) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Numbers that fit 64 pageblocks; one that is not free as a whole has one free half at most, or it would be."""
    free = {
        kind: [*draw(COUNTS), draw(st.integers(0, 2)), draw(st.integers(0, 4 if kind == M else 1))]
        for kind in range(PCPTYPES)
    }
    blocks = {
        kind: counts[9] + 2 * counts[10] + max(counts[8], 2 + sum(c << o for o, c in enumerate(counts[:9])) // 400)
        for kind, counts in free.items()
    }
    blocks[M] += 64 - sum(blocks.values())
    return free, blocks


def built(numbers: tuple[dict[int, list[int]], dict[int, int]], limits: PcpLimits, seed: int) -> FrameZone:
    free, blocks = numbers
    zone = FrameZone("Normal", START, 64 * BLOCK_PAGES, cpus=2, limits=limits)
    return lay_out(zone, free, blocks, random.Random(seed))


def numbered(zone: FrameZone) -> CountZone:
    return CountZone.of(
        zone.name,
        zone.managed,
        {kind: tuple((count, count) for count in row) for kind, row in enumerate(zone.free_counts())},
        dict(enumerate(zone.block_counts())),
        pcp=zone.pcp_pages,
        limits=zone.pcps[0].limits,
        cpus=len(zone.pcps),
    )


@given(numbers=zones(), seed=st.integers(0, 999))
@example(numbers=({U: [0] * 11, M: [0] * 11, R: [0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0]}, {U: 2, M: 56, R: 6}), seed=0)
@settings(deadline=None, max_examples=60)
def test_a_zone_laid_out_has_the_numbers_asked_for(
    numbers: tuple[dict[int, list[int]], dict[int, int]], seed: int
) -> None:
    zone = built(numbers, CAP, seed)
    check_lists(zone)
    assert {kind: zone.free_counts()[kind] for kind in range(PCPTYPES)} == numbers[0]
    assert {kind: zone.block_counts()[kind] for kind in range(PCPTYPES)} == numbers[1]


def contained(count: CountZone, zone: FrameZone) -> None:
    """Every answer of the zone known by numbers holds for the one whose frames are known."""
    rows = zone.free_counts()
    for kind in range(PCPTYPES):
        on_cpus = sum(
            len(chain) << order
            for pcp in zone.pcps
            for index, (order, chain) in enumerate(listed(pcp.lists))
            if index < 12 and index % 3 == kind
        )
        assert zone.free_by_type[kind] + on_cpus in count.free_pages(kind)
        assert zone.free_by_type[kind] in count.listed(kind)
        assert zone.block_counts()[kind] in count.blocks(kind)
        for order in range(11):
            assert rows[kind][order] in count.order(kind, order), (kind, order)
    small = sum(rows[kind][order] << order for kind in range(6) for order in range(9))
    assert small in count.unusable()


@given(
    numbers=zones(),
    seed=st.integers(0, 999),
    limits=LIMITS,
    work=st.lists(
        st.tuples(st.sampled_from(["alloc", "free", "drain"]), st.integers(1, 1500), st.sampled_from([U, M, R]))
    ),
)
@settings(deadline=None, max_examples=60)
def test_numbers_alone_never_contradict_the_frames(
    numbers: tuple[dict[int, list[int]], dict[int, int]],
    seed: int,
    limits: PcpLimits,
    work: list[tuple[str, int, Migratetype]],
) -> None:
    zone = built(numbers, limits, seed)
    machine, count, rng = Machine([zone]), numbered(zone), random.Random(seed)
    contained(count, zone)
    held: dict[int, list[int]] = {kind: [] for kind in range(PCPTYPES)}
    for what, pages, kind in work:
        if what == "alloc":
            served = count.alloc(pages, kind)
            if served is None:
                return
            before = blocks_moved(machine.events)
            cpu = rng.randrange(2)
            for _ in range(pages):
                pfn = machine.alloc(0, kind, cpu)
                assert pfn is not None
                held[kind].append(pfn)
            assert blocks_moved(machine.events) - before in served.claimed
            count = served.zone
        elif what == "free":
            rng.shuffle(held[kind])
            going, held[kind] = held[kind][:pages], held[kind][pages:]
            by_type: Counter[int] = Counter(zone.type_of(pfn) for pfn in going)
            for pfn in going:
                machine.free(pfn, 0, rng.randrange(2))
            for block_type, freed in by_type.items():
                count = count.free(freed, block_type)
        else:
            machine.drain()
            count = count.drain()
        contained(count, zone)


@pytest.mark.parametrize("pages", [1, 100, 1024, 1025, 5000])
def test_without_per_cpu_lists_numbers_alone_are_exact(pages: int) -> None:
    free = {
        U: [3, 2, 0, 1, 0, 0, 0, 0, 1, 0, 0],
        M: [1, 0, 2, 0, 0, 0, 0, 0, 1, 2, 9],
        R: [5, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    }
    zone = built((free, {U: 4, R: 4, M: 56}), OFF, 7)
    machine, count = Machine([zone]), numbered(zone)
    for _ in range(pages):
        machine.alloc(0, U, 0)
    served = count.alloc(pages, U)
    assert served is not None
    assert served.claimed.exact
    assert served.claimed.low == blocks_moved(zone.events)
    for kind in range(PCPTYPES):
        assert [served.zone.order(kind, order).low for order in range(11)] == zone.free_counts()[kind]
        assert served.zone.order(kind, 0).exact
