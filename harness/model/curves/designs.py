# SPDX-License-Identifier: GPL-2.0-only
"""The designs and shared backings that curves know, by name; a further one is a further record."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from harness.errors import UsageError
from harness.model.curves.frames import Frames
from harness.model.curves.host import HostMemory
from harness.model.curves.movable import Movable
from harness.model.curves.private import Discard, InPlace, InPlaceSplit, PrivateSide, TruncateWhole
from harness.model.curves.shared import HugeFaults, HugePool, SharedSide, SmallPages
from harness.model.curves.touched import Touched


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
    steps: str = ""
    """Name of the design for predict(), where it differs."""
    uniform: bool = False
    """What predict() has to be told of the kernel for it: HostFacts.uniform_split."""


@dataclass(frozen=True)
class CurveBacking:
    """A shared backing as the curves see it."""

    name: str
    says: str
    side: Callable[[Touched, Movable], SharedSide]


_TRUNCATE = partial(TruncateWhole, uniform=True)
_SPLIT = partial(InPlaceSplit, optimised=False)
_DESIGNS = (
    CurveDesign("order0", "4 KiB folios, conversion by discard", 0, partial(Discard, uniform=False), most_order=0),
    CurveDesign(
        "thp-discard", "2 MiB folios, discard halves them around the page (6.15 and later)", 9,
        partial(Discard, uniform=False),
    ),
    CurveDesign(
        "thp-discard-uniform", "2 MiB folios, discard splits them to 4 KiB at once (6.12)", 9,
        partial(Discard, uniform=True), steps="thp-discard", uniform=True,
    ),
    CurveDesign(
        "thp-2m-truncate", "2 MiB folios, only whole ones are freed; QEMU goes on after a refusal", 9, _TRUNCATE,
    ),
    CurveDesign("thp-2m-truncate-noop", "2 MiB folios, freeing a part of one has no effect", 9, _TRUNCATE),
    CurveDesign("inplace", "4 KiB folios, conversion in place", 0, InPlace, most_order=0),
    CurveDesign("inplace-thp", "2 MiB folios, split and put together in place", 9, _SPLIT),
    CurveDesign("inplace-thp-noop", "the same where freeing a part of a folio has no effect", 9, _SPLIT),
    CurveDesign(
        "hugetlb", "huge pages of a pool, split and merged in place, with HVO", 9,
        partial(InPlaceSplit, optimised=True), most_order=18,
    ),
    CurveDesign("hugetlb-no-hvo", "the same without HVO", 9, _SPLIT, most_order=18),
)  # fmt: skip
DESIGNS: Mapping[str, CurveDesign] = {design.name: design for design in _DESIGNS}

_BACKINGS = (
    CurveBacking("anon-4k", "anonymous memory, 4 KiB pages", SmallPages),
    CurveBacking("memfd-4k", "memfd, 4 KiB pages", SmallPages),
    CurveBacking("anon-thp", "anonymous memory, huge pages allowed", partial(HugeFaults, frees=False)),
    CurveBacking("shmem-thp", "memfd, huge pages allowed", partial(HugeFaults, frees=True)),
    CurveBacking("hugetlb", "huge pages of 2 MiB of a pool, never discarded", HugePool),
    CurveBacking("hugetlb-1g", "huge pages of 1 GiB of a pool, never discarded", partial(HugePool, order=18)),
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
    return replace(design, order=order)


def backing_named(name: str) -> CurveBacking:
    """The backing ``name``; raises UsageError with the nearest name."""
    if name not in BACKINGS:
        raise UsageError(f"unknown shared backing {name!r}: {_nearest(name, BACKINGS)}")
    return BACKINGS[name]


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
