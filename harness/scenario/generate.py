# SPDX-License-Identifier: GPL-2.0-only
"""Draws scenarios: the same seed, the same scenario, on every machine and in every version that keeps this file.

A drawn scenario goes where the rules of a design can be wrong: the edges of chunks and of tree nodes, single pages,
ranges that overlap what earlier steps used, requests that change nothing, requests cut into small calls, the host's own
hand in the guest_memfd.  At least one of its conversions changes something.  What the guest must find is left to the
model (``check ... either``), so that every drawn scenario is valid for every design.

>>> print(random_scenario(4).to_yaml().splitlines()[0])
name: random-4
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    CHUNK_PAGES,
    Check,
    Close,
    Convert,
    Empty,
    Fallocate,
    PageRange,
    Place,
    Populate,
    PunchHole,
    Settle,
    Side,
    Step,
    Touch,
)

CHUNKS = 8
PAGES = CHUNKS * CHUNK_PAGES
NODE_PAGES = 64
"""Guest pages under one lowest node of the kernel's trees: their edges are where slabs come and go."""
STEPS = (4, 10)
CALLS_MOST = 256
"""Hypercalls of one step at most: a hypercall takes 0.4 ms in the emulated host, and 256 show what 4096 would."""
TWO_GUESTS, CLOSES = 0.3, 0.2
"""Parts of the scenarios that have a second guest, and that end one."""
AGAIN = 0.8
"""Part of the ranges that repeat, cut or overlap an earlier one: steps that never meet test no rule twice."""

_Maker = Callable[..., Any]


@dataclass
class _Draw:
    """What a scenario is drawn from, and what was drawn so far."""

    random: Random
    guests: list[str]
    """Names of those that run."""
    cpus: int
    used: dict[str, list[PageRange]] = field(default_factory=dict)
    private: dict[str, int] = field(default_factory=dict)
    """Pages of each region whose attribute is private, as a set of bits."""
    changed: bool = False
    """Whether a conversion changed an attribute."""

    def range(self) -> PageRange:
        """A range of any guest, remembered."""
        region = f"{self.random.choice(self.guests)}.r0"
        used = self.used.setdefault(region, [])
        if used and self.random.random() < AGAIN:
            start, count = self._beside(self.random.choice(used))
        else:
            start, count = self._pick(_PLACES)(self.random)
        pages = PageRange(region, start, count)
        used.append(pages)
        return pages

    def step(self) -> Step:
        """A step of any kind."""
        return self.keep(self._pick(_STEPS if self.cpus else _STEPS_UNPLACED)(self))

    def keep(self, step: Step) -> Step:
        """Remember what a conversion does to the attributes."""
        if isinstance(step, Convert):
            region, pages = step.range.region, ((1 << step.range.count) - 1) << step.range.start
            before = self.private.get(region, 0)
            self.private[region] = before | pages if step.to is Side.PRIVATE else before & ~pages
            self.changed |= self.private[region] != before
        return step

    def sure(self) -> Step:
        """A conversion that changes something."""
        pages = self.range()
        private = self.private.get(pages.region, 0) >> pages.start & 1
        return self.keep(Convert(pages, Side.SHARED if private else Side.PRIVATE))

    def _beside(self, pages: PageRange) -> tuple[int, int]:
        """The same range, a part of it, or one that overlaps or adjoins it."""
        start, count = pages.start, pages.count
        match self.random.choice(("same", "same", "same", "part", "page", "shift", "wider")):
            case "part":
                first = self.random.randrange(count)
                return start + first, self.random.randint(1, count - first)
            case "page":
                return start + self.random.randrange(count), 1
            case "shift":
                by = self.random.choice((-1, 1)) * self.random.choice((1, NODE_PAGES, count, count // 2))
                start = max(0, min(PAGES - count, start + by))
            case "wider":
                more = self.random.choice((1, NODE_PAGES, CHUNK_PAGES))
                end = min(PAGES, start + count + more)
                start = max(0, start - more)
                return start, end - start
        return start, count

    def _pick(self, weighted: Mapping[_Maker, int]) -> _Maker:
        return self.random.choices(list(weighted), list(weighted.values()))[0]


# -- where: (first page, pages)


def _edge_page(random: Random) -> tuple[int, int]:
    """A page at the edge of a chunk."""
    chunk = random.randrange(CHUNKS) * CHUNK_PAGES
    return chunk + random.choice((0, CHUNK_PAGES - 1)), 1


def _any_page(random: Random) -> tuple[int, int]:
    return random.randrange(PAGES), 1


def _run(random: Random) -> tuple[int, int]:
    """A few pages anywhere, mostly inside a chunk."""
    count = random.randint(2, 200)
    return random.randrange(PAGES - count + 1), count


def _nodes(random: Random) -> tuple[int, int]:
    """Whole tree nodes, a page less, or a page more."""
    count = random.randint(1, 6) * NODE_PAGES + random.choice((-1, 0, 0, 1))
    start = random.randrange(PAGES // NODE_PAGES - 6) * NODE_PAGES
    return start, count


def _chunk(random: Random) -> tuple[int, int]:
    return random.randrange(CHUNKS) * CHUNK_PAGES, CHUNK_PAGES


def _unaligned_chunk(random: Random) -> tuple[int, int]:
    """2 MiB that lie in two chunks."""
    start = random.randrange(CHUNKS - 1) * CHUNK_PAGES + random.randrange(1, CHUNK_PAGES)
    return start, CHUNK_PAGES


def _chunks(random: Random) -> tuple[int, int]:
    count = random.randint(2, 3)
    return random.randrange(CHUNKS - count + 1) * CHUNK_PAGES, count * CHUNK_PAGES


def _across(random: Random) -> tuple[int, int]:
    """Any range of up to three chunks."""
    count = random.randint(1, 3 * CHUNK_PAGES)
    return random.randrange(PAGES - count + 1), count


def _region(random: Random) -> tuple[int, int]:
    return 0, PAGES


_PLACES: Mapping[_Maker, int] = {
    _edge_page: 14,
    _any_page: 10,
    _run: 18,
    _nodes: 14,
    _chunk: 18,
    _unaligned_chunk: 8,
    _chunks: 6,
    _across: 10,
    _region: 2,
}


# -- what


def _convert(draw: _Draw) -> Step:
    pages = draw.range()
    private = draw.private.get(pages.region, 0) >> pages.start & 1
    # Mostly away from the side that the first page has; sometimes it changes nothing, which costs leaves all the same.
    to = Side.SHARED if bool(private) != (draw.random.random() < 0.25) else Side.PRIVATE
    by = CHUNK_PAGES
    if draw.random.random() < 0.3:
        least = max(1, -(-pages.count // (CALLS_MOST - CHUNKS)))
        by = max(least, draw.random.choice((1, 2, 3, 7, NODE_PAGES, 100, 511)))
    return Convert(pages, to, by)


def _populate(draw: _Draw) -> Step:
    return Populate(draw.range())


def _touch(draw: _Draw) -> Step:
    stride = draw.random.choice((1, 1, 2, 3, 7, NODE_PAGES - 1, NODE_PAGES, CHUNK_PAGES))
    return Touch(draw.range(), stride, draw.random.random() < 0.5)


def _check(draw: _Draw) -> Step:
    return Check(draw.range(), "either")


def _fallocate(draw: _Draw) -> Step:
    return Fallocate(draw.range())


def _punch(draw: _Draw) -> Step:
    return PunchHole(draw.range())


def _place(draw: _Draw) -> Step:
    return Place(draw.random.choice(draw.guests), draw.random.randrange(draw.cpus))


def _settle(draw: _Draw) -> Step:
    return Settle()


def _empty(draw: _Draw) -> Step:
    return Empty()


_STEPS_UNPLACED: Mapping[_Maker, int] = {
    _convert: 32,
    _populate: 16,
    _touch: 16,
    _check: 12,
    _fallocate: 8,
    _punch: 9,
    _settle: 3,
    _empty: 3,
}
_STEPS: Mapping[_Maker, int] = {**_STEPS_UNPLACED, _place: 6}


def random_scenario(seed: int, *, cpus: int = 0) -> Scenario:
    """The scenario ``random-SEED``: one or two guests of 8 chunks, 4 to 10 steps, and a guest's end at the end of some.

    ``cpus``: CPUs of the host on which guests are placed now and then; 0 leaves placement out (and makes another
    scenario of the same seed).
    """
    random = Random(seed)
    names = ["g0", "g1"] if random.random() < TWO_GUESTS else ["g0"]
    draw = _Draw(random, list(names), cpus)
    steps = [draw.sure()] if random.random() < 0.7 else []
    wanted = random.randint(*STEPS)
    closes = random.random() < CLOSES
    while len(steps) < wanted - closes * len(names):
        steps.append(draw.step())
    if not draw.changed:
        steps[-1] = draw.sure()
    if closes:
        ended = random.choice(names)
        draw.guests.remove(ended)
        steps.append(Close(ended))
        steps += [draw.step() for _ in draw.guests]  # what goes on beside it
    scenario = Scenario(f"random-{seed}", tuple(steps), guests=len(names), chunks=CHUNKS, seed=seed)
    scenario.check()
    return scenario
