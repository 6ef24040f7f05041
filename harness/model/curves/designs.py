# SPDX-License-Identifier: GPL-2.0-only
"""The designs and shared backings that curves know, by name; a further one is a further record."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from harness.errors import UsageError
from harness.model.curves.frames import Frames
from harness.model.curves.host import HostMemory
from harness.model.curves.movable import Movable
from harness.model.curves.private import Discard, InPlace, InPlaceSplit, PrivateSide, TruncateWhole
from harness.model.curves.shared import HugeFaults, HugePool, SharedSide, SmallPages
from harness.model.curves.touched import Touched

VMEMMAP_PAGES = {9: 7, 18: 4095}
"""Pages of struct pages that a split HugeTLB folio needs again with the vmemmap optimisation: all but the first of the
8 (2 MiB) or 4096 (1 GiB) that describe it."""


@dataclass(frozen=True)
class CurveDesign:
    """A kernel design as the curves see it."""

    name: str
    says: str
    order: int
    """Order of its large folios; 0 has none."""
    side: Callable[[Touched, int, Frames, HostMemory], PrivateSide]
    most_order: int = 9
    """Largest folio order that it can be asked for."""


@dataclass(frozen=True)
class CurveBacking:
    """A shared backing as the curves see it."""

    name: str
    says: str
    side: Callable[[Touched, Movable], SharedSide]


_DESIGNS = (
    CurveDesign("order0", "4 KiB folios, conversion by discard", 0, partial(Discard, uniform=False), most_order=0),
    CurveDesign(
        "thp-discard", "2 MiB folios, discard splits them page by page (6.18 and later)", 9,
        partial(Discard, uniform=False),
    ),
    CurveDesign(
        "thp-discard-uniform", "2 MiB folios, discard splits them to 4 KiB at once (6.12)", 9,
        partial(Discard, uniform=True),
    ),
    CurveDesign(
        "thp-2m-truncate", "2 MiB folios, only whole ones are freed", 9, partial(TruncateWhole, uniform=True),
    ),
    CurveDesign("inplace", "4 KiB folios, conversion in place", 0, InPlace, most_order=0),
    CurveDesign("inplace-thp", "2 MiB folios, split and put together in place", 9, InPlaceSplit),
    CurveDesign(
        "hugetlb", "huge pages of a pool, split and merged in place", 9, InPlaceSplit, most_order=18,
    ),
)  # fmt: skip
DESIGNS: Mapping[str, CurveDesign] = {design.name: design for design in _DESIGNS}

_BACKINGS = (
    CurveBacking("anon-4k", "anonymous memory, 4 KiB pages", SmallPages),
    CurveBacking("memfd-4k", "memfd, 4 KiB pages", SmallPages),
    CurveBacking("anon-thp", "anonymous memory, huge pages allowed", partial(HugeFaults, frees=False)),
    CurveBacking("shmem-thp", "memfd, huge pages allowed", partial(HugeFaults, frees=True)),
    CurveBacking("hugetlb", "huge pages of a pool, never discarded", HugePool),
)
BACKINGS: Mapping[str, CurveBacking] = {backing.name: backing for backing in _BACKINGS}


def design_named(name: str, order: int | None = None) -> CurveDesign:
    """The design ``name``, with folios of ``order``; ``thp-discard:4`` says the same.

    Raises UsageError with the nearest name.
    """
    plain, _, wanted = name.partition(":")
    design = DESIGNS.get(plain)
    if design is None:
        raise UsageError(f"unknown gmem design {name!r}: {_nearest(plain, DESIGNS)}")
    if wanted:
        if not wanted.isdecimal():
            raise UsageError(f"gmem design {name!r}: after the colon comes the order of its folios, e.g. {plain}:4")
        order = int(wanted)
    if order is None:
        return design
    if not 0 <= order <= design.most_order:
        raise UsageError(f"folios of order {order} for design {name}: it has orders 0 to {design.most_order}")
    return CurveDesign(design.name, design.says, order, design.side, design.most_order)


def backing_named(name: str) -> CurveBacking:
    """The backing ``name``; raises UsageError with the nearest name."""
    if name not in BACKINGS:
        raise UsageError(f"unknown shared backing {name!r}: {_nearest(name, BACKINGS)}")
    return BACKINGS[name]


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
