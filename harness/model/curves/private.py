# SPDX-License-Identifier: GPL-2.0-only
"""The private side of each design: what a conversion does to the folios of the guest_memfd.

Sources: virt/kvm/guest_memfd.c (order 0), mm/truncate.c:truncate_inode_partial_folio (splits on a hole punch), and the
branches named in ``docs/model.md``.  A side begins with every page private and present.
"""

from __future__ import annotations

from array import array
from typing import Protocol

from harness.model.curves.frames import Frames
from harness.model.curves.host import HostMemory
from harness.model.curves.touched import Touched

PAGE_BYTES = 4096
STRUCT_PAGE_BYTES = 64
"""A struct page on x86-64; mm/hugetlb_vmemmap.c keeps one page of them per huge page, of 8 (2 MiB) or 4096 (1 GiB)."""


class PrivateSide(Protocol):
    """What a curve needs of a design."""

    pages: int
    """Pages the guest_memfd holds."""
    folios: int
    """Folios of the design's large order that are left."""
    splits: int
    """Folios split so far, of any order."""
    merges: int
    """Windows put together again so far."""
    overhead: int
    """Pages held besides the guest's: struct pages that a split folio needs again."""
    keeps_shared: bool
    """In place: shared pages stay in the guest_memfd and the shared backing holds nothing."""

    def share(self, cell: int) -> None:
        """The cell becomes shared."""

    def take_back(self, cell: int) -> None:
        """The cell becomes private and the guest touches it."""


class Folios:
    """Windows of ``2**order`` pages, each one folio at the beginning, as far as the host had blocks for them."""

    overhead = 0
    keeps_shared = False

    def __init__(self, touched: Touched, order: int, frames: Frames, host: HostMemory) -> None:
        unit = self._unit = max(order, touched.cell_order)
        groups = touched.groups(unit)
        self.cell_pages = 1 << touched.cell_order
        self.order = order
        self.pages = touched.guest_pages
        self.splits = 0
        self.merges = 0
        self._frames = frames
        self._window = groups.of_cell
        self._members = groups.members
        self._cells = 1 << (unit - touched.cell_order)
        """Cells of a window."""
        self._per_window = (1 << (unit - order)) if order else 0
        """Folios of a window; no folio of order 0 is called huge."""
        huge = min(host.huge_for_guest * 512 >> unit, touched.guest_pages >> unit)
        self.folios = huge * self._per_window
        self._intact = bytearray((groups.names < huge).tobytes()) if order else bytearray(len(groups))
        self._left = array("i", [self._cells]) * len(groups)
        self._present = bytearray(b"\1") * len(touched)


class Discard(Folios):
    """order0 and thp-discard: a hole punch frees the page, from a large folio after a split.

    A window gets a large folio again only when no page of it is left (guest_memfd asks for one only then).
    ``uniform``: the split leaves order-0 folios (6.12); else one folio of each smaller order (6.18 and later), which
    later punches split further.
    """

    def __init__(self, touched: Touched, order: int, frames: Frames, host: HostMemory, *, uniform: bool) -> None:
        super().__init__(touched, order, frames, host)
        self._offset = None if uniform or self._cells == 1 else touched.offsets(self._unit)
        self._first_cut = array("i", [-1]) * len(self._left)
        """Offset of the page that split each window first; -1: it never was one folio, or still is."""
        self._cuts: dict[int, int] = {}
        """Offsets that the folio of a window was cut at, bit n for offset n, from the second punch on: most windows of
        a large guest see one.  Not as lists: half a million of them keep the garbage collector busier than the rest."""

    def share(self, cell: int) -> None:
        if not self._present[cell]:
            return
        self._present[cell] = 0
        window = self._window[cell]
        if self._intact[window]:
            self._intact[window] = 0
            self.folios -= self._per_window
            if self._offset is not None:
                self._cut_first(window, self._offset[cell])
            else:
                self.splits += self._cells > 1
        elif self._offset is not None and self._first_cut[window] >= 0:
            self._cut_further(window, self._offset[cell])
        self._left[window] -= 1
        self.pages -= self.cell_pages
        self._frames.give(cell)

    def take_back(self, cell: int) -> None:
        if self._present[cell]:
            return
        window = self._window[cell]
        if not self._left[window] and self._refill(window):
            return
        self._frames.take(cell)
        self._present[cell] = 1
        self._left[window] += 1
        self.pages += self.cell_pages

    def _refill(self, window: int) -> bool:
        """An empty window gets a large folio, if there is one to be had."""
        cells = self._members(window)
        if not self._per_window or not self._frames.take_folio(cells, self._unit):
            return False
        for cell in cells:
            self._present[cell] = 1
        self._first_cut[window] = -1
        self._cuts.pop(window, None)
        self._intact[window] = 1
        self.folios += self._per_window
        self._left[window] = self._cells
        self.pages += self._cells * self.cell_pages
        return True

    def _cut_first(self, window: int, page: int) -> None:
        """Splits a whole folio around a page; see ``_cut_further``."""
        self._first_cut[window] = page
        self.splits += 2 if page & 1 and page + 1 < self._cells else 1

    def _cut_further(self, window: int, page: int) -> None:
        """Splits the piece that the page is in, unless that is one page already.

        A piece is the largest aligned block without a cut.  An even page's split leaves its neighbour single, where
        the hole ends.  An odd page's hole ends where a piece of half the size begins that the split made; that one is
        split around its first page although nothing of it goes (truncate_inode_partial_folio: "make sure folio2 is
        large").
        """
        cuts = self._cuts.get(window)
        if cuts is None:
            first = self._first_cut[window]
            cuts = (3 if first & 1 else 1) << first
        if cuts >> (page & -2) & 3:
            return
        self.splits += 1
        more = 1
        after = page + 1
        if page & 1 and after < self._cells:
            half = after & -after
            if not cuts >> (after - half) & ((1 << 2 * half) - 1):
                self.splits += 1
                more = 3
        self._cuts[window] = cuts | more << page


class TruncateWhole(Discard):
    """thp-2m-truncate: a hole punch of less than a window frees nothing, so its folio stays and is never split."""

    def share(self, cell: int) -> None:
        if self._cells == 1:
            super().share(cell)


class InPlace(Folios):
    """inplace: a conversion changes an attribute; no page moves, none is allocated or freed."""

    keeps_shared = True

    def share(self, cell: int) -> None:
        pass

    def take_back(self, cell: int) -> None:
        pass


class InPlaceSplit(Folios):
    """inplace-thp and hugetlb: a folio with a shared page is split; it is put together when all of it is private again.

    ``optimised``: a split folio needs the pages of its struct pages again (HugeTLB vmemmap optimisation).
    """

    keeps_shared = True

    def __init__(self, touched: Touched, order: int, frames: Frames, host: HostMemory, *, optimised: bool) -> None:
        super().__init__(touched, order, frames, host)
        self._vmemmap = (STRUCT_PAGE_BYTES << order) // PAGE_BYTES - 1 if optimised else 0
        self._shared = bytearray(len(touched))
        self._count = array("i", bytes(4 * len(self._left)))
        self._held: dict[int, list[int]] = {}
        """Blocks of the struct pages of each split window."""
        self._whole = bytes(self._intact)

    def share(self, cell: int) -> None:
        if self._shared[cell]:
            return
        self._shared[cell] = 1
        window = self._window[cell]
        self._count[window] += 1
        if self._intact[window]:
            if self._vmemmap:
                self._held[window] = [self._frames.take_raw(1) for _ in range(self._vmemmap * self._per_window)]
                self.overhead += self._vmemmap * self._per_window
            self._intact[window] = 0
            self.folios -= self._per_window
            self.splits += self._per_window

    def take_back(self, cell: int) -> None:
        if not self._shared[cell]:
            return
        self._shared[cell] = 0
        window = self._window[cell]
        self._count[window] -= 1
        if not self._count[window] and self._whole[window]:
            if self._vmemmap:
                for block in self._held.pop(window):
                    self._frames.give_raw(block, 1)
                self.overhead -= self._vmemmap * self._per_window
            self._intact[window] = 1
            self.folios += self._per_window
            self.merges += self._per_window
