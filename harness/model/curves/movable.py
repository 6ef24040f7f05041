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
        """Allocates ``pages``; raises OutOfMemory."""
        while self.loose < pages:
            if pages == 1 and self._supply.scattered:
                self._supply.scattered -= 1
                self.scattered += 1
                return
            if self.take_block():
                self.loose += WINDOW_PAGES
                continue
            block = self._frames.steal() if pages == 1 else -1
            if block < 0:
                raise OutOfMemory
            self._stolen.append(block)
            return
        self.loose -= pages

    def give(self, pages: int) -> None:
        """Frees ``pages``: first those taken from the blocks of others."""
        if pages == 1 and self._stolen:
            self._frames.give_raw(self._stolen.pop(), 1)
        elif pages == 1 and self.scattered:
            self.scattered -= 1
            self._supply.scattered += 1
        else:
            self.loose += pages
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
