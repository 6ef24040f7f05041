# SPDX-License-Identifier: GPL-2.0-only
"""The shared side of each backing: what it holds for pages that the guest shares.  A side begins empty.

Measured on 6.18 (``docs/model.md``): a write fault on anonymous memory with huge pages allowed brings 2 MiB when there
is no page table yet; discarding less than that frees nothing and leaves the table, so the next fault brings one page.
"""

from __future__ import annotations

from typing import Protocol

from harness.model.curves.movable import Movable
from harness.model.curves.streams import WINDOW_ORDER, WINDOW_PAGES
from harness.model.curves.touched import Touched


class SharedSide(Protocol):
    """What a curve needs of a backing."""

    pages: int
    """Pages that the backing holds."""

    def touch(self, cell: int) -> None:
        """The guest touches a shared cell."""

    def discard(self, cell: int) -> None:
        """QEMU discards a cell that became private."""

    def settle(self, converted: int) -> None:
        """A point of the curve: ``converted`` pages are shared.  Raises OutOfMemory."""


class Idle:
    """A side that no single conversion concerns; asking it a million times would be a fifth of all the work."""

    pages = 0

    def touch(self, cell: int) -> None:
        pass

    def discard(self, cell: int) -> None:
        pass

    def settle(self, converted: int) -> None:
        pass


class Nothing(Idle):
    """Of a guest_memfd that converts in place: the shared side is the same page."""


class SmallPages(Idle):
    """anon-4k and memfd-4k: a page comes with its first touch and goes with its discard."""

    def __init__(self, touched: Touched, memory: Movable) -> None:
        del touched
        self._memory = memory

    def settle(self, converted: int) -> None:
        """It holds exactly what is shared: so its memory is taken and given at the points of the curve only."""
        if converted > self.pages:
            self._memory.take(converted - self.pages)
        elif converted < self.pages:
            self._memory.give(self.pages - converted)
        self.pages = converted


class HugeFaults:
    """Backings that fault 2 MiB at once; what a discard of a part does differs.

    ``frees``: shmem-thp splits the folio and frees the page (mm/truncate.c), and an empty window faults 2 MiB again.
    Otherwise anon-thp: the page is unmapped and stays in its folio until all of it is (mm/huge_memory.c, deferred
    split; no memory pressure is assumed that would split earlier), and the page table stays.
    """

    def __init__(self, touched: Touched, memory: Movable, *, frees: bool) -> None:
        groups = touched.groups(WINDOW_ORDER)
        self.pages = 0
        self._frees = frees
        self._whole = touched.cell_order == WINDOW_ORDER
        self._cell_pages = 1 << touched.cell_order
        self._memory = memory
        self._window = groups.of_cell
        self._members = groups.members
        self._present = bytearray(len(touched))
        self._in_folio = bytearray(len(touched))
        """Cells that are mapped by the window's folio."""
        self._mapped = [0] * len(groups)
        """Pages of each window that its folio maps; it is freed with the last."""
        self._table = bytearray(len(groups))
        self._held = [0] * len(groups)
        """Pages of each window that are present."""

    def touch(self, cell: int) -> None:
        if self._present[cell]:
            return
        window = self._window[cell]
        fresh = not self._held[window] if self._frees else not self._table[window]
        self._table[window] = 1
        if fresh and self._memory.take_block():
            for member in self._members(window):
                self._present[member] = self._in_folio[member] = 1
            self._mapped[window] = self._held[window] = WINDOW_PAGES
            self.pages += WINDOW_PAGES
            return
        self._memory.take(self._cell_pages)
        self._present[cell] = 1
        self._held[window] += self._cell_pages
        self.pages += self._cell_pages

    def discard(self, cell: int) -> None:
        window = self._window[cell]
        if self._whole:
            self._table[window] = 0
        if not self._present[cell]:
            return
        self._present[cell] = 0
        self._held[window] -= self._cell_pages
        if not self._in_folio[cell] or self._frees:
            self._in_folio[cell] = 0
            self._memory.give(self._cell_pages)
            self.pages -= self._cell_pages
            return
        self._in_folio[cell] = 0
        self._mapped[window] -= self._cell_pages
        if not self._mapped[window]:
            self._memory.give_block()
            self.pages -= WINDOW_PAGES

    def settle(self, converted: int) -> None:
        pass


class HugePool:
    """hugetlb: a touch takes a huge page out of the pool, and QEMU discards none: its page size is not the host's."""

    def __init__(self, touched: Touched, memory: Movable, *, order: int = WINDOW_ORDER) -> None:
        del memory
        groups = touched.groups(order)
        self.pages = 0
        self._huge_page = 1 << order
        self._window = groups.of_cell
        self._taken = bytearray(len(groups))

    def touch(self, cell: int) -> None:
        window = self._window[cell]
        if not self._taken[window]:
            self._taken[window] = 1
            self.pages += self._huge_page

    def discard(self, cell: int) -> None:
        pass

    def settle(self, converted: int) -> None:
        pass
