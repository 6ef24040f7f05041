# SPDX-License-Identifier: GPL-2.0-only
"""Where pages are: frames of the guest_memfd in Unmovable pageblocks, and the holes that freed frames leave.

mm/page_alloc.c, at the level of pageblocks.  Unmovable pages stay where they are (compaction skips guest_memfd:
compaction.c, mapping_inaccessible), so a freed frame is a hole in its block until the block is free altogether.  Freed
frames go to a stack, because the per-CPU list and the buddy lists behind it are last in, first out; a CPU that only
frees keeps ``lag`` of them to itself, oldest given up first (free_pcppages_bulk), so that another CPU does not get
them.
"""

from __future__ import annotations

from array import array
from collections import deque

from harness.model.curves.host import HostMemory
from harness.model.curves.streams import WINDOW_ORDER, WINDOW_PAGES
from harness.model.curves.touched import Touched

_SCATTERED = -1
"""Stands for the block of a page that came from a block of somebody else."""


class OutOfMemory(Exception):
    """The simulated host has no free page left."""


class Supply:
    """Free memory of the host that nothing of the stream has used yet."""

    def __init__(self, host: HostMemory) -> None:
        self.blocks = host.blocks
        """Free 2 MiB blocks."""
        self.given = host.huge_for_guest
        """2 MiB blocks that the guest got whole; its further windows lie in blocks that others use too."""
        self.scattered = host.scattered
        """Free pages in blocks that others use too."""


class Frames:
    """Frames of the touched cells; each cell begins in the block that its window filled."""

    def __init__(self, supply: Supply, touched: Touched, lag: int) -> None:
        groups = touched.groups(WINDOW_ORDER)
        self.holes = 0
        """Free pages in blocks of the guest_memfd."""
        self.pinned = 0
        """Blocks of the guest_memfd that are in part free: no compaction can empty them."""
        self.whole = 0
        """Blocks of the guest_memfd that are free altogether: they merge to order 9."""
        self.reused = 0
        """Allocations served from frames that conversions freed."""
        self.fresh = 0
        """Allocations served from other memory."""
        self._supply = supply
        self._cell_pages = 1 << touched.cell_order
        self._block_of = groups.of_cell[:]
        self._free_in = array("i", bytes(4 * len(groups)))
        self._mixed = bytearray((groups.names >= supply.given).tobytes())
        """Blocks that others use too: they never merge."""
        self._stack: list[int] = []
        self._parked: deque[int] = deque()
        self._lag = lag
        self._empty: list[int] = []
        self._current = _SCATTERED
        self._left = 0

    def give(self, cell: int) -> None:
        """The frame of a cell is freed."""
        block = self._block_of[cell]
        if block == _SCATTERED or self._lag:
            self.give_raw(block, self._cell_pages)
            return
        # give_raw and _add, written out: half a million calls of each would double the time of a large guest
        after = self._free_in[block] + self._cell_pages
        self._free_in[block] = after
        self.holes += self._cell_pages
        if after == WINDOW_PAGES:
            self.pinned -= after > self._cell_pages
            if not self._mixed[block]:
                self.whole += 1
                self._empty.append(block)
        elif after == self._cell_pages:
            self.pinned += 1
        self._stack.append(block)

    def take(self, cell: int) -> None:
        """A cell gets a frame: the one freed last, else one of a block claimed for it."""
        self._block_of[cell] = self.take_raw(self._cell_pages)

    def give_raw(self, block: int, pages: int) -> None:
        """Frees what ``take_raw`` gave."""
        if block == _SCATTERED:
            self._supply.scattered += pages
            return
        self._add(block, pages)
        if not self._lag:
            self._stack.append(block)
            return
        self._parked.append(block)
        if len(self._parked) > self._lag:
            self._stack.append(self._parked.popleft())

    def take_raw(self, pages: int) -> int:
        """Allocates ``pages`` (1 or 512, the same in all calls); returns their block.  Raises OutOfMemory."""
        while self._stack:
            block = self._stack.pop()
            if self._free_in[block] >= pages:  # else merged meanwhile, and used as a whole
                self.reused += 1
                self._remove(block, pages)
                return block
        self.fresh += 1
        if self._left < pages:
            if not self._supply.blocks:
                return self._take_scattered(pages)
            self._begin_block()
        self._left -= pages
        self._remove(self._current, pages)
        return self._current

    def take_folio(self, cells: array[int], order: int) -> bool:
        """These touched cells get one folio of ``order`` (at most 9); False: there is none."""
        pages = 1 << order
        if order < WINDOW_ORDER:
            if self._left < pages:
                if not self._supply.blocks:
                    return False
                self._begin_block()
            self._left -= pages
            self.fresh += 1
            block = self._current
        else:
            block = self._merged()
            if block >= 0:
                self.reused += 1
            elif self._supply.blocks:
                self.fresh += 1
                block = self._claim()
            else:
                return False
        self._remove(block, pages)
        for cell in cells:
            self._block_of[cell] = block
        return True

    def release_block(self) -> bool:
        """A block that the guest_memfd emptied becomes somebody else's; False: there is none."""
        block = self._merged()
        if block >= 0:
            self._remove(block, WINDOW_PAGES)
        return block >= 0

    def steal(self) -> int:
        """One free page of a block of the guest_memfd for somebody else; its block, or -1 for none."""
        while self._stack or self._parked:
            block = self._stack.pop() if self._stack else self._parked.popleft()
            if self._free_in[block]:
                self._remove(block, 1)
                return block
        return _SCATTERED

    def _take_scattered(self, pages: int) -> int:
        if pages != 1 or not self._supply.scattered:
            raise OutOfMemory
        self._supply.scattered -= pages
        return _SCATTERED

    def _begin_block(self) -> None:
        """Claims a block to cut frames from; what is left of the last one stays free for single pages."""
        self._stack[:0] = [self._current] * self._left
        self._current, self._left = self._claim(), WINDOW_PAGES

    def _claim(self) -> int:
        """One block becomes Unmovable (__rmqueue_claim; the kernel claims two at a time, the second stays free)."""
        self._supply.blocks -= 1
        block = self._new_block(0)
        self._add(block, WINDOW_PAGES)
        self._empty.pop()
        return block

    def _new_block(self, free: int) -> int:
        self._free_in.append(free)
        self._mixed.append(0)
        return len(self._free_in) - 1

    def _merged(self) -> int:
        """A block that is free altogether, under a new number: what the stack holds of the old one is void."""
        while self._empty:
            old = self._empty.pop()
            if self._free_in[old] == WINDOW_PAGES:
                if old == self._current:
                    self._left = 0  # frames are cut from it no more
                self._free_in[old] = 0
                return self._new_block(WINDOW_PAGES)
        return -1

    def _add(self, block: int, pages: int) -> None:
        before = self._free_in[block]
        after = before + pages
        self._free_in[block] = after
        self.holes += pages
        self.pinned += (after < WINDOW_PAGES) - (before > 0)
        if after == WINDOW_PAGES and not self._mixed[block]:
            self.whole += 1
            self._empty.append(block)

    def _remove(self, block: int, pages: int) -> None:
        before = self._free_in[block]
        after = before - pages
        self._free_in[block] = after
        self.holes -= pages
        self.pinned += (after > 0) - (before < WINDOW_PAGES)
        if before == WINDOW_PAGES and not self._mixed[block]:
            self.whole -= 1
