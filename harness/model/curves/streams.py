# SPDX-License-Identifier: GPL-2.0-only
"""Streams of conversions: which pages, in which order, in which direction.

A stream is two arrays of one length.  All its conversions have one size, a *cell* of ``2**cell_order`` guest pages,
aligned to its size.  The guest starts with every page private and touched; it touches the pages of each conversion
right after it, so that nothing stays absent that the guest uses.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from harness.errors import UsageError

Cells: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

WINDOW_ORDER = 9
"""A 2 MiB window: the unit of huge mappings, of THP and of x86's pageblocks (pageblock_order)."""
WINDOW_PAGES = 1 << WINDOW_ORDER

MOST_CONVERSIONS = 20_000_000
"""A stream and the state it touches take up to 0.2 KiB per conversion (measured): more would not fit a laptop."""
MOST_PAGES = 1 << 36
"""256 TiB of guest memory, the most that 48 bits of guest-physical address can name; beyond that it is a typo."""


@dataclass(frozen=True)
class Stream:
    """Conversions in order: ``cells[i]`` becomes shared when ``to_shared[i]``, else private."""

    cells: Cells
    to_shared: Flags
    guest_pages: int
    cell_order: int = 0

    def __post_init__(self) -> None:
        if not WINDOW_PAGES <= self.guest_pages <= MOST_PAGES or self.guest_pages % WINDOW_PAGES:
            raise UsageError(
                f"a guest of {self.guest_pages} pages: needed is a multiple of {WINDOW_PAGES} pages (2 MiB), at most"
                f" {MOST_PAGES} (256 TiB)"
            )
        if self.cells.shape != self.to_shared.shape or self.cells.ndim != 1:
            raise UsageError("a stream needs one direction for each of its conversions")
        if self.cell_order not in (0, WINDOW_ORDER):
            raise UsageError(f"conversions of order {self.cell_order}: streams convert single pages or whole 2 MiB")
        if self.cells.size and not 0 <= int(self.cells.min()) <= int(self.cells.max()) < self.guest_cells:
            raise UsageError(
                f"a stream converts cell {int(self.cells.max())} (first is {int(self.cells.min())}): the guest has"
                f" cells 0 to {self.guest_cells - 1}"
            )

    @property
    def guest_cells(self) -> int:
        """Cells of the guest."""
        return self.guest_pages >> self.cell_order


@dataclass(frozen=True)
class StreamSpec:
    """What a stream is drawn from.  Raises UsageError for an unknown pattern and for numbers that make no stream."""

    pattern: str = "random"
    """A name of :data:`PATTERNS`."""
    cell_order: int = 0
    live: int = 1024
    """bounce, reuse: cells that are shared at a time."""
    run: int = 1
    """bounce: neighbouring cells that are converted one after the other."""
    stride: int = WINDOW_PAGES
    """strided: cells from one conversion to the next."""
    regions: tuple[str, ...] = ()
    """Where conversions happen, as guest pages ``first:end``; empty: anywhere."""

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            near = difflib.get_close_matches(self.pattern, PATTERNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(PATTERNS)}"
            raise UsageError(f"unknown pattern {self.pattern!r} of a stream: {hint}")
        for name in ("live", "run", "stride"):
            if not 1 <= getattr(self, name) <= MOST_PAGES:
                raise UsageError(f"{name} of a stream is {getattr(self, name)}: it is at least 1 cell")

    def draw(self, guest_pages: int, conversions: int, seed: int) -> Stream:
        """``conversions`` conversions of a guest of ``guest_pages`` pages; the same seed, the same stream."""
        if not 1 <= conversions <= MOST_CONVERSIONS:
            raise UsageError(f"{conversions} conversions: between 1 and {MOST_CONVERSIONS} can be followed")
        if not WINDOW_PAGES <= guest_pages <= MOST_PAGES:
            raise UsageError(f"a guest of {guest_pages} pages: between 2 MiB and 256 TiB can be followed")
        parts = self._parts(guest_pages)
        starts = np.array([first for first, _ in parts], np.int64)
        begins = np.cumsum([0, *(end - first for first, end in parts)])
        cells, to_shared = PATTERNS[self.pattern].draw(self, int(begins[-1]), conversions, np.random.default_rng(seed))
        part = np.searchsorted(begins, cells, side="right") - 1
        return Stream(cells - begins[part] + starts[part], to_shared, guest_pages, self.cell_order)

    def _parts(self, guest_pages: int) -> list[tuple[int, int]]:
        """The regions in cells, rising."""
        found = []
        for text in self.regions or (f"0:{guest_pages}",):
            match = re.fullmatch(r"([0-9]{1,15}):([0-9]{1,15})", text)
            first, end = (int(match[1]), int(match[2])) if match else (0, 0)
            said = f"region {text!r} of a stream"
            if first >= end:
                raise UsageError(f"{said} is not of the form 0:512 (first page, page after the last)")
            if end > guest_pages:
                raise UsageError(f"{said} ends outside the guest, which has {guest_pages} pages")
            if (first | end) & ((1 << self.cell_order) - 1):
                raise UsageError(f"{said} is cut within a conversion of {1 << self.cell_order} pages")
            found.append((first >> self.cell_order, end >> self.cell_order))
        found.sort()
        for (first, end), (again, _) in pairwise(found):
            if again < end:
                first, end, again = (cell << self.cell_order for cell in (first, end, again))
                raise UsageError(f"regions of a stream overlap: {first}:{end} and the one from page {again}")
        return found


Draw: TypeAlias = Callable[[StreamSpec, int, int, np.random.Generator], tuple[Cells, Flags]]


@dataclass(frozen=True)
class Pattern:
    """A way to choose cells and directions."""

    says: str
    draw: Draw


def _flips(cells: Cells) -> Flags:
    """Directions of conversions that each flip their cell: shared for the first, third, ... of a cell."""
    order = np.argsort(cells, kind="stable")
    ordered = cells[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(cells.size) - np.repeat(first, np.diff(np.r_[first, cells.size]))
    flips = np.empty(cells.size, np.bool_)
    flips[order] = rank % 2 == 0
    return flips


def _random(spec: StreamSpec, guest: int, count: int, rng: np.random.Generator) -> tuple[Cells, Flags]:
    cells = rng.integers(0, guest, count, dtype=np.int64)
    return cells, _flips(cells)


def _share(spec: StreamSpec, guest: int, count: int, rng: np.random.Generator) -> tuple[Cells, Flags]:
    return rng.integers(0, guest, count, dtype=np.int64), np.ones(count, np.bool_)


def _strided(spec: StreamSpec, guest: int, count: int, rng: np.random.Generator) -> tuple[Cells, Flags]:
    """Every ``stride``-th cell; at the guest's end again from the beginning, one cell further."""
    stride = min(spec.stride, guest)
    per_round = -(-guest // stride)
    turn, place = np.divmod(np.arange(count, dtype=np.int64), per_round)
    cells = (place * stride + turn) % guest
    return cells, _flips(cells)


def _bounce(spec: StreamSpec, guest: int, count: int, rng: np.random.Generator) -> tuple[Cells, Flags]:
    """Runs of random cells become shared; as soon as ``live`` are, the oldest go back in exchange for each."""
    live, run = min(spec.live, guest), min(spec.run, guest)
    starts = rng.integers(0, guest - run + 1, -(-count // run), dtype=np.int64)
    drawn = (starts[:, None] + np.arange(run, dtype=np.int64)).ravel()[:count]
    if count <= live:
        return drawn, np.ones(count, np.bool_)
    step = np.arange(count - live)
    back = step % 2 == 0
    cells = np.r_[drawn[:live], np.where(back, drawn[step // 2], drawn[live + step // 2])]
    return cells, np.r_[np.ones(live, np.bool_), ~back]


def _reuse(spec: StreamSpec, guest: int, count: int, rng: np.random.Generator) -> tuple[Cells, Flags]:
    """The same ``live`` cells, all to shared, then all back, each time in another order."""
    live = min(spec.live, guest, count)
    if live * 4 < guest:
        pool = np.unique(rng.integers(0, guest, 2 * live, dtype=np.int64))
        pool = rng.permutation(pool)[:live]
    else:
        pool = rng.permutation(guest)[:live].astype(np.int64)
    rounds = -(-count // pool.size)
    cells = np.concatenate([rng.permutation(pool) for _ in range(rounds)])[:count]
    return cells, np.arange(count) // pool.size % 2 == 0


PATTERNS: Mapping[str, Pattern] = {
    "random": Pattern("random cells, each conversion flips its cell", _random),
    "share": Pattern("random cells become shared and stay so", _share),
    "strided": Pattern("every stride-th cell flips, round after round", _strided),
    "bounce": Pattern("runs of random cells are shared for a while, a bounded number at a time", _bounce),
    "reuse": Pattern("the same few cells are shared and taken back, again and again", _reuse),
}
