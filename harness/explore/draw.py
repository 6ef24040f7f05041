# SPDX-License-Identifier: GPL-2.0-only
"""Draws short scenarios for an exploration: the same seed and shape, the same scenario, on every machine.

They are what :mod:`harness.scenario.generate` draws, cut to what a second can run: up to eight steps on ranges of at
most a chunk or two, most of which meet an earlier one.  Nothing is learned from earlier draws but through the corpus,
so a seed says all that it takes to have a case again.

Not Hypothesis: its seeds mean something else in its next version, and its shrinker, which knows nothing of steps and
ranges, asks eight times as often for the same result (``benchmarks/shrink.py``); here each question costs a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    CHUNK_PAGES,
    Check,
    Close,
    Convert,
    Empty,
    Fallocate,
    PageRange,
    Peek,
    Pin,
    Place,
    Populate,
    Pressure,
    PunchHole,
    Side,
    Step,
    Touch,
    Unpin,
)

STEPS = (1, 8)
"""Two more than drawn, up to the last; so one to eight where a guest ends early."""
NODE_PAGES = 64
"""Guest pages under one lowest node of the kernel's trees: their edges are where slabs come and go."""
CALLS_MOST = 64
"""Hypercalls of one step at most: 0.25 ms each in the emulated host."""
TWO_GUESTS, CLOSES, GIVES_BACK = 0.2, 0.15, 0.6
"""Parts of the scenarios that have a further guest, that end one early, and whose last step gives memory back: what is
lost shows when it should come back."""
FILLS = 0.5
"""Part of the first conversions whose pages are written at once: a rule about present pages needs some."""
AGAIN = 0.9
"""Part of the ranges that meet an earlier one: steps that never meet test no rule twice."""


@dataclass(frozen=True)
class Shape:
    """What an exploration draws from."""

    guests: int = 2
    """Guests at most."""
    chunks: int = 8
    cpus: int = 0
    """CPUs of the host on which guests are placed; 0: they are not."""
    pins: bool = False
    """References on pages of the guest_memfd, where the kernel has the hook for them."""
    pressure: bool = False


@dataclass
class _Draw:
    """What a scenario is drawn from, and what was drawn so far."""

    random: Random
    shape: Shape
    guests: list[str]
    used: dict[str, list[PageRange]] = field(default_factory=dict)
    private: dict[str, int] = field(default_factory=dict)
    """Pages of each region whose attribute is private, as a set of bits."""
    pinned: list[PageRange] = field(default_factory=list)

    @property
    def pages(self) -> int:
        return self.shape.chunks * CHUNK_PAGES

    def range(self) -> PageRange:
        """A range of any running guest, remembered."""
        region = f"{self.random.choice(self.guests)}.r0"
        used = self.used.setdefault(region, [])
        meets = used and self.random.random() < AGAIN
        start, count = self._beside(self.random.choice(used)) if meets else self._anywhere()
        pages = PageRange(region, start, count)
        used.append(pages)
        return pages

    def is_private(self, pages: PageRange) -> bool:
        """Whether the first page has the attribute private."""
        return bool(self.private.get(pages.region, 0) >> pages.start & 1)

    def _anywhere(self) -> tuple[int, int]:
        random, chunk = self.random, self.random.randrange(self.shape.chunks) * CHUNK_PAGES
        kind = random.choices(("page", "edge", "run", "nodes", "chunk", "across"), (14, 12, 22, 16, 24, 12))[0]
        if kind == "page":
            return random.randrange(self.pages), 1
        if kind == "edge":
            return chunk + random.choice((0, CHUNK_PAGES - 1)), 1
        if kind == "chunk":
            return chunk, CHUNK_PAGES
        if kind == "nodes":
            count = random.randint(1, 4) * NODE_PAGES + random.choice((-1, 0, 0, 1))
            return random.randrange((self.pages - count) // NODE_PAGES) * NODE_PAGES, count
        count = random.randint(2, 100) if kind == "run" else random.randint(1, CHUNK_PAGES)
        if kind == "across" and chunk:
            return chunk - random.randint(1, count), count
        return random.randrange(self.pages - count + 1), count

    def _beside(self, pages: PageRange) -> tuple[int, int]:
        """The same range, a half or part of it, its neighbour, or one that overlaps it."""
        start, count = pages.start, pages.count
        match self.random.choice(("same", "same", "half", "part", "page", "neighbour", "shift", "wider")):
            case "half" if count > 1:
                half = count // 2
                return self.random.choice(((start, half), (start + half, count - half)))
            case "part":
                first = self.random.randrange(count)
                return start + first, self.random.randint(1, count - first)
            case "page":
                return start + self.random.randrange(count), 1
            case "neighbour" if pages.end + count <= self.pages:
                return pages.end, count
            case "shift":
                by = self.random.choice((-1, 1)) * self.random.choice((1, NODE_PAGES, count // 2))
                return max(0, min(self.pages - count, start + by)), count
            case "wider":
                more = self.random.choice((1, NODE_PAGES, min(count, CHUNK_PAGES)))
                first, end = max(0, start - more), min(self.pages, start + count + more)
                return first, end - first
        return start, count


def _convert(draw: _Draw) -> Step:
    pages = draw.range()
    # Mostly away from the side that the first page has; sometimes it changes nothing.
    to = Side.SHARED if draw.is_private(pages) != (draw.random.random() < 0.2) else Side.PRIVATE
    by = CHUNK_PAGES
    if draw.random.random() < 0.25:
        by = max(-(-pages.count // CALLS_MOST), draw.random.choice((1, 2, 7, NODE_PAGES, 100, 511)))
    bits = ((1 << pages.count) - 1) << pages.start
    before = draw.private.get(pages.region, 0)
    draw.private[pages.region] = before | bits if to is Side.PRIVATE else before & ~bits
    return Convert(pages, to, by)


def _touch(draw: _Draw) -> Step:
    stride = draw.random.choice((1, 1, 2, 7, NODE_PAGES - 1, NODE_PAGES))
    return Touch(draw.range(), stride, draw.random.random() < 0.5)


def _pin(draw: _Draw) -> Step:
    """A reference on private pages, mostly on a few of those that were touched; where there are none, another step."""
    private = [
        pages
        for guest in draw.guests
        for pages in draw.used.get(f"{guest}.r0", ())
        if draw.private.get(pages.region, 0) >> pages.start & ((1 << pages.count) - 1) == (1 << pages.count) - 1
    ]
    if not private:
        return _convert(draw)
    pages = draw.random.choice(private)
    if draw.random.random() < 0.6:
        first = draw.random.randrange(pages.count)
        pages = PageRange(pages.region, pages.start + first, draw.random.randint(1, min(8, pages.count - first)))
    draw.pinned.append(pages)
    draw.used[pages.region].append(pages)
    return Pin(pages)


def _unpin(draw: _Draw) -> Step:
    held = [pages for pages in draw.pinned if pages.guest in draw.guests]
    if not held:
        return _pin(draw)
    pages = draw.random.choice(held)
    draw.pinned.remove(pages)
    return Unpin(pages)


def _pressure(draw: _Draw) -> Step:
    kind: Literal["fragment", "pinned"] = draw.random.choice(("fragment", "pinned"))
    how = draw.random.choice(("share", "leave", "end"))
    if how == "share":
        return Pressure(kind, percent=95)
    return Pressure(kind, leave=draw.random.choice((0, 1, 4))) if how == "leave" else Pressure(kind)


_ALWAYS: Mapping[Callable[[_Draw], Step], int] = {
    _convert: 34,
    lambda draw: Populate(draw.range()): 16,
    _touch: 12,
    lambda draw: Check(draw.range(), "either"): 8,
    lambda draw: Fallocate(draw.range()): 11,
    lambda draw: PunchHole(draw.range()): 12,
    lambda draw: Peek(draw.range()): 3,
    lambda draw: Empty(): 1,
}


def _choices(shape: Shape) -> tuple[list[Callable[[_Draw], Step]], list[int]]:
    """The makers of steps, and how often each is taken."""
    weighted = dict(_ALWAYS)
    if shape.cpus:
        weighted[lambda draw: Place(draw.random.choice(draw.guests), draw.random.randrange(shape.cpus))] = 5
    if shape.pins:
        weighted[_pin], weighted[_unpin] = 8, 5
    if shape.pressure:
        weighted[_pressure] = 8
    return list(weighted), list(weighted.values())


def _give_back(draw: _Draw) -> Step:
    """The end of what a region was used for: all of it converted back or punched, or its guest closed."""
    region = draw.random.choice([f"{guest}.r0" for guest in draw.guests])
    used = draw.used.get(region) or [draw.range()]
    if draw.random.random() < 0.2 or used[0].region != region:
        return Close(region.partition(".")[0])
    start, end = min(pages.start for pages in used), max(pages.end for pages in used)
    pages = PageRange(region, start, end - start)
    return Convert(pages, Side.SHARED) if draw.random.random() < 0.5 else PunchHole(pages)


def draw_scenario(seed: int, shape: Shape) -> Scenario:
    """The scenario ``random-SEED`` of a shape: 3 to 8 steps, the first of them mostly a conversion, valid everywhere.

    A guest may be closed at any point; with another one beside it the scenario goes on.
    """
    random = Random(seed)
    count = 1 if shape.guests == 1 or random.random() >= TWO_GUESTS else random.randint(2, shape.guests)
    draw = _Draw(random, shape, [f"g{number}" for number in range(count)])
    makers, weights = _choices(shape)
    wanted = min(random.randint(*STEPS) + 2, STEPS[1])
    closes = random.randrange(wanted + 1) if random.random() < CLOSES else -1
    steps: list[Step] = [_convert(draw)] if random.random() < 0.7 else []
    if steps and wanted > 3 and random.random() < FILLS:
        steps.append(Populate(steps[0].ranges()[0]))
    last = wanted - 1 if random.random() < GIVES_BACK else -1
    while len(steps) < wanted and draw.guests:
        if len(steps) >= closes >= 0:
            ended, closes = random.choice(draw.guests), -1
            draw.guests.remove(ended)
            steps.append(Close(ended))
        elif len(steps) == last:
            steps.append(_give_back(draw))
        else:
            steps.append(random.choices(makers, weights)[0](draw))
    scenario = Scenario(f"random-{seed}", tuple(steps), guests=count, chunks=shape.chunks, seed=seed)
    scenario.check()
    return scenario
