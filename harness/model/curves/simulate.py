# SPDX-License-Identifier: GPL-2.0-only
"""simulate(): the curves of one design over one stream.  Pure: the same input, the same answer.

Time is linear in conversions; memory too, and both are independent of the guest's size beyond what is touched.

>>> from harness.model.curves.streams import StreamSpec
>>> stream = StreamSpec("share").draw(guest_pages=1 << 20, conversions=100, seed=1)
>>> curves = simulate(stream, design_named("inplace"), backing_named("anon-4k"), HostMemory.synthetic(1 << 20))
>>> int(curves["private"][-1]), int(curves["unusable"][-1])
(1048576, 0)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from harness.model.curves.designs import CurveBacking, CurveDesign
from harness.model.curves.frames import Frames, OutOfMemory, Supply
from harness.model.curves.host import HostMemory
from harness.model.curves.movable import Movable
from harness.model.curves.private import PrivateSide
from harness.model.curves.shared import Idle, Nothing, SharedSide
from harness.model.curves.streams import WINDOW_PAGES, Stream
from harness.model.curves.touched import Touched

POINTS = 150
"""Samples along a curve: more than a screen of a phone has room for, few enough to cost nothing."""

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One quantity of a curve."""

    name: str
    unit: str
    says: str


COLUMNS: tuple[Column, ...] = (
    Column("conversions", "conversions", "conversions so far"),
    Column("converted", "pages", "pages of the guest that are shared"),
    Column("private", "pages", "pages the guest_memfd holds"),
    Column("shared", "pages", "pages the shared backing holds"),
    Column("extra", "pages", "pages held beyond the guest's size"),
    Column("huge", "folios", "huge folios left in the guest_memfd"),
    Column("splits", "folios", "folios split so far"),
    Column("merges", "folios", "folios put together again so far"),
    Column("free", "pages", "free pages of the host"),
    Column("unusable", "pages", "free pages that order 9 cannot use, caused by the guest"),
    Column("unusable_part", "", "free memory unusable at order 9, as a part of all free memory"),
    Column("pinned", "blocks", "pageblocks pinned: Unmovable and in part free"),
    Column("reused", "allocations", "private allocations served from frames that conversions freed"),
    Column("fresh", "allocations", "private allocations served from other memory"),
)
"""What a curve has, in the order of tables."""


@dataclass(frozen=True)
class Curves:
    """The samples of one simulation; ``curves["huge"]`` is an array over ``curves["conversions"]``."""

    design: CurveDesign
    backing: CurveBacking
    columns: Mapping[str, Array]
    ended: str = ""
    """Why the curve ends before the stream does."""

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def last(self, name: str) -> float:
        """The value at the end."""
        return self.columns[name][-1].item()  # type: ignore[no-any-return]


def simulate(
    stream: Stream,
    design: CurveDesign,
    backing: CurveBacking,
    host: HostMemory,
    *,
    same_cpu: bool = True,
    points: int = POINTS,
) -> Curves:
    """The curves of ``design`` with ``backing`` on ``host``.

    ``same_cpu``: what conversions free and what later faults take pass through one CPU's lists; else freed frames wait
    on a list that the faulting CPU does not see.  Ends early when the host has no memory left.
    """
    touched = Touched(stream)
    supply = Supply(host)
    frames = Frames(supply, touched, 0 if same_cpu else max(1, host.pcp_pages >> stream.cell_order))
    memory = Movable(supply, frames)
    private = design.side(touched, design.order, frames, host)
    shared = Nothing() if private.keeps_shared else backing.side(touched, memory)
    meter = _Meter(stream, host, private, shared, frames, supply, memory)
    marks = np.unique(np.linspace(0, stream.cells.size, points).astype(int)).tolist()
    converted = _shared_pages(stream, touched)
    rows, ended = [meter.read(0)], ""
    for begin, end in pairwise(marks):
        cells, directions = touched.events[begin:end].tolist(), stream.to_shared[begin:end].tolist()
        try:
            # what a batch frees on the shared side is there for its faults, what it takes comes out of what they left
            shared.settle(int(min(converted[begin], converted[end])))
            _convert(cells, directions, private, shared)
            shared.settle(int(converted[end]))
        except OutOfMemory:
            ended = f"the host runs out of memory between {begin} and {end} of {stream.cells.size} conversions"
            break
        rows.append(meter.read(end))
    columns = {column.name: np.array(values) for column, values in zip(COLUMNS, zip(*rows, strict=True), strict=True)}
    columns["converted"] = converted[columns["conversions"]]
    return Curves(design, backing, columns, ended)


def _shared_pages(stream: Stream, touched: Touched) -> Array:
    """Pages whose attribute is shared, after 0, 1, 2, ... conversions."""
    order = np.argsort(touched.events, kind="stable")
    directions, cells = stream.to_shared[order], touched.events[order]
    before = np.r_[False, directions[:-1] & (cells[1:] == cells[:-1])] if cells.size else directions
    change = np.empty(cells.size, np.int64)
    change[order] = directions.astype(np.int64) - before
    pages: Array = np.r_[0, np.cumsum(change)] << stream.cell_order
    return pages


def _convert(cells: list[int], directions: list[bool], private: PrivateSide, shared: SharedSide) -> None:
    """Carries conversions out, each followed by the guest's touch; raises OutOfMemory."""
    share, take_back = private.share, private.take_back
    if isinstance(shared, Idle):
        for cell, to_shared in zip(cells, directions, strict=True):
            if to_shared:
                share(cell)
            else:
                take_back(cell)
        return
    touch, discard = shared.touch, shared.discard
    for cell, to_shared in zip(cells, directions, strict=True):
        if to_shared:
            share(cell)
            touch(cell)
        else:
            discard(cell)
            take_back(cell)


@dataclass(frozen=True)
class _Meter:
    """Reads a row of :data:`COLUMNS`."""

    stream: Stream
    host: HostMemory
    private: PrivateSide
    shared: SharedSide
    frames: Frames
    supply: Supply
    memory: Movable

    def read(self, done: int) -> tuple[float, ...]:
        """The row after ``done`` conversions."""
        unusable = self.frames.holes - self.frames.whole * WINDOW_PAGES + self.memory.loose
        free = self.supply.blocks * WINDOW_PAGES + self.supply.scattered + self.frames.holes + self.memory.loose
        guest = self.stream.guest_pages
        return (
            done, 0, self.private.pages, self.shared.pages,
            self.private.pages + self.shared.pages + self.private.overhead - guest,
            self.private.folios, self.private.splits, self.private.merges,
            free, unusable, (unusable + self.supply.scattered) / free if free else 0.0,
            self.frames.pinned, self.frames.reused, self.frames.fresh,
        )  # fmt: skip
