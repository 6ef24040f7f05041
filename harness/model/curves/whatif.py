# SPDX-License-Identifier: GPL-2.0-only
"""The built-in what-if scenarios: questions about the claims, as steps for ``predict``, as streams, or as both."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import UsageError
from harness.model.curves.streams import WINDOW_ORDER, StreamSpec
from harness.scenario.region import G0
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Convert, Pin, Populate, Side, Step, Touch, Unpin

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED


@dataclass(frozen=True)
class Variant:
    """One way to run a scenario; each variant of each design is a line of its own."""

    label: str = ""
    backing: str = ""
    """Shared backing; empty: the one asked for."""
    order: int | None = None
    """Order of the design's folios; None: the design's own."""
    fragmented: float = 0.0
    """Synthetic host: part of its free memory that is in pieces below 2 MiB before the guest comes."""
    same_cpu: bool = True
    """Whether frees and later faults pass through one CPU's lists."""


@dataclass(frozen=True)
class WhatIf:
    """A scenario of ``gmem model``.  At least one of ``steps`` and ``stream`` is there."""

    name: str
    claim: str
    """The claims C1 to C12 it bears on, or empty."""
    question: str
    designs: tuple[str, ...]
    """Designs that it compares unless others are asked for."""
    steps: tuple[Step, ...] = ()
    stream: StreamSpec | None = None
    variants: tuple[Variant, ...] = (Variant(),)
    chunks: int = 8
    guests: int = 1

    @property
    def backings(self) -> tuple[str, ...]:
        """The backings that its variants name; empty: the one asked for."""
        return tuple(dict.fromkeys(variant.backing for variant in self.variants))

    @property
    def scenario(self) -> Scenario | None:
        """The steps as a scenario; None when there are none."""
        return Scenario(self.name, self.steps, guests=self.guests, chunks=self.chunks) if self.steps else None


DISCARD = ("order0", "thp-discard")
USUAL = ("order0", "thp-discard", "inplace-thp")
LARGE = ("thp-discard", "inplace-thp")

_CHUNK = G0[0:512]
_PAGE = G0[7]
_BEGIN: tuple[Step, ...] = (Convert(_CHUNK, PRIVATE), Populate(_CHUNK))
_PAGE_OUT: tuple[Step, ...] = (Convert(_PAGE, SHARED), Touch(_PAGE))
_PAGE_BACK: tuple[Step, ...] = (Convert(_PAGE, PRIVATE), Touch(_PAGE))

_SCENARIOS = (
    WhatIf(
        "partial-free", "C1", "What does one 4 KiB page cost that a 2 MiB private folio gives back?", USUAL,
        steps=(*_BEGIN, *_PAGE_OUT), stream=StreamSpec("share"),
    ),
    WhatIf(
        "reconversion", "C2", "Does a page that is taken back get the frame that was freed, and on which CPU?", DISCARD,
        steps=(*_BEGIN, *_PAGE_OUT, *_PAGE_BACK), stream=StreamSpec("reuse", live=4096),
        variants=(Variant("same CPU"), Variant("other CPU", same_cpu=False)),
    ),
    WhatIf(
        "inplace-quiet", "C3", "Does a conversion in place move any page or counter?", ("order0", "inplace"),
        steps=(*_BEGIN, *_PAGE_OUT, *_PAGE_BACK), stream=StreamSpec("random"),
    ),
    WhatIf(
        "mapping-levels", "C4", "Does a guest get its huge mapping back once a split window is private again?", LARGE,
        steps=(*_BEGIN, *_PAGE_OUT, *_PAGE_BACK, Touch(_CHUNK)), stream=StreamSpec("bounce", live=256),
    ),
    WhatIf(
        "failed-split", "C5", "What happens when somebody holds a reference on the folio that has to be split?", LARGE,
        steps=(*_BEGIN, Pin(G0[9]), Convert(_PAGE, SHARED), Unpin(G0[9]), Convert(_PAGE, SHARED)),
    ),
    WhatIf(
        "shared-thp", "C6", "Can a huge page of the shared side be split when one of its pages becomes private?",
        ("order0",),
        # a chunk that was private as a whole has no page table in QEMU, so that its next touch can bring a huge page
        steps=(
            Convert(_CHUNK, PRIVATE), Convert(_CHUNK, SHARED), Populate(_CHUNK), Convert(_PAGE, PRIVATE), Touch(_PAGE),
            Pin(G0[500]), Convert(G0[300], PRIVATE), Unpin(G0[500]),
        ),
        stream=StreamSpec("bounce", live=4096),
        variants=(Variant("anon-thp", backing="anon-thp"), Variant("shmem-thp", backing="shmem-thp")),
    ),
    WhatIf(
        "whole-window", "C7", "When does a window that was split get a huge folio again?", LARGE,
        steps=(*_BEGIN, *_PAGE_OUT, *_PAGE_BACK, Convert(_CHUNK, SHARED), *_BEGIN),
        stream=StreamSpec("random", cell_order=WINDOW_ORDER),
    ),
    WhatIf(
        "truncate-2m", "C8", "What does it cost to free whole 2 MiB only, and still convert single pages?",
        ("thp-2m-truncate", "thp-discard", "inplace-thp"), steps=(*_BEGIN, *_PAGE_OUT, Convert(_CHUNK, SHARED)),
        stream=StreamSpec("random"),
    ),
    WhatIf(
        "orders", "C9", "Is there anything special about 2 MiB?", LARGE, stream=StreamSpec("random"),
        variants=tuple(
            Variant(size, order=order)
            for size, order in (("64 KiB", 4), ("256 KiB", 6), ("1 MiB", 8), ("2 MiB", 9))
        ),
    ),
    WhatIf(
        "shared-backings", "C10", "What does the shared side hold beyond the pages that are shared?", ("order0",),
        steps=(*_BEGIN, *_PAGE_OUT), stream=StreamSpec("bounce", live=65536),
        variants=tuple(Variant(name, backing=name) for name in ("anon-4k", "anon-thp", "shmem-thp", "hugetlb")),
    ),
    WhatIf(
        "pressure", "C11", "How many huge folios does a guest get when free memory is in pieces?", LARGE,
        stream=StreamSpec("random"),
        variants=tuple(
            Variant(f"{part} % in pieces", fragmented=part / 100) for part in (0, 25, 50, 75)
        ),
    ),
    WhatIf(
        "repeated-partial", "C12", "Do partial conversions that never end make it worse and worse?", USUAL,
        steps=(*_BEGIN, *_PAGE_OUT, *_PAGE_BACK, Convert(G0[300], SHARED), Convert(G0[300], PRIVATE), Touch(_CHUNK)),
        stream=StreamSpec("bounce", live=1024),
    ),
    WhatIf("random-4k", "C12", "What do single pages that flip at random do?", USUAL, stream=StreamSpec("random")),
    WhatIf("strided", "C1 C12", "What does one page out of every 2 MiB do?", USUAL, stream=StreamSpec("strided")),
    WhatIf(
        "bursts", "C12", "What do buffers of 64 neighbouring pages do that come and go?", USUAL,
        stream=StreamSpec("bounce", live=4096, run=64),
    ),
    WhatIf(
        "whole-2m", "C7 C8", "What do conversions of whole 2 MiB do?", ("order0", "thp-discard", "thp-2m-truncate"),
        stream=StreamSpec("random", cell_order=WINDOW_ORDER),
    ),
)  # fmt: skip
SCENARIOS: Mapping[str, WhatIf] = {scenario.name: scenario for scenario in _SCENARIOS}
"""By name, in the order of the claims."""


def scenario_named(name: str) -> WhatIf:
    """The scenario ``name``; raises UsageError with the nearest name."""
    if name not in SCENARIOS:
        near = difflib.get_close_matches(name, SCENARIOS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "gmem model --list shows them"
        raise UsageError(f"unknown scenario {name!r}: {hint}")
    return SCENARIOS[name]
