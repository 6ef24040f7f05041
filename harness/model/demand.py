# SPDX-License-Identifier: GPL-2.0-only
"""What a step asks of the page allocator's free lists, before anybody looked at what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """What a step takes from the free lists and gives back to them, in pages; what the lists hold is another matter."""

    wanted: int
    """Unmovable pages that its events take."""
    unmovable: tuple[int, int]
    """The same with slab metadata, least and most."""
    pieces: tuple[int, int]
    """Of them, least and most, those that come as single pages."""
    in_blocks: int
    """Most pages that large folios take from whole blocks besides."""
    moved: Mapping[str, tuple[int, int]]
    """By migratetype, the most pages taken and freed."""
    overshoot: int
    """Pages that per-CPU lists may draw beyond what is taken, or push out with what is freed."""

    @property
    def freed(self) -> int:
        """Unmovable pages that go back."""
        return self.moved["Unmovable"][1]

    @property
    def slab(self) -> tuple[int, int]:
        """Pages of slabs, most taken and most returned."""
        return self.moved["Reclaimable"]
