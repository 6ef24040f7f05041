# SPDX-License-Identifier: GPL-2.0-only
"""Memory of the shared side: Movable pages.

Compaction can move them, so their blocks count as compacted: at most one is in part free.  When free blocks run out,
Movable requests take from the holes of the guest_memfd (mm/page_alloc.c: fallbacks of MIGRATE_MOVABLE).
"""

from __future__ import annotations

from harness.model.curves.frames import Frames, OutOfMemory, Supply
from harness.model.curves.streams import WINDOW_PAGES


class Movable:
    """What the shared side takes and gives back."""

    def __init__(self, supply: Supply, frames: Frames) -> None:
        self.loose = 0
        """Free pages of the one block that is in part used."""
        self.scattered = 0
        """Pages taken from blocks of others."""
        self._supply = supply
        self._frames = frames
        self._stolen: list[int] = []

    def take(self, pages: int) -> None:
        """Allocates ``pages`` single pages; raises OutOfMemory."""
        loose = min(pages, self.loose)
        scattered = min(pages - loose, self._supply.scattered)
        self.loose -= loose
        self._supply.scattered -= scattered
        self.scattered += scattered
        pages -= loose + scattered
        while pages and self.take_block():
            part = min(pages, WINDOW_PAGES)
            self.loose += WINDOW_PAGES - part
            pages -= part
        for _ in range(pages):
            block = self._frames.steal()
            if block < 0:
                raise OutOfMemory
            self._stolen.append(block)

    def give(self, pages: int) -> None:
        """Frees ``pages``: first those taken from the blocks of others."""
        while pages and self._stolen:
            self._frames.give_raw(self._stolen.pop(), 1)
            pages -= 1
        part = min(pages, self.scattered)
        self.scattered -= part
        self._supply.scattered += part
        self.loose += pages - part
        self._supply.blocks += self.loose // WINDOW_PAGES
        self.loose %= WINDOW_PAGES

    def take_block(self) -> bool:
        """Allocates a block of 2 MiB; False: there is none."""
        if self._supply.blocks:
            self._supply.blocks -= 1
            return True
        return self._frames.release_block()

    def give_block(self) -> None:
        """Frees a block of 2 MiB."""
        self._supply.blocks += 1
