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
        self._pair = touched.groups(1).of_cell if not uniform and self._cells > 1 else None
        self._pair_cut = bytearray(len(touched))
        """Aligned pairs of pages that are single pages now."""
        self._torn = bytearray(len(self._left))
        """Windows that began as one folio and were split."""

    def share(self, cell: int) -> None:
        if not self._present[cell]:
            return
        self._present[cell] = 0
        window = self._window[cell]
        if self._intact[window]:
            self._intact[window] = 0
            self.folios -= self._per_window
            if self._pair is None:
                self.splits += self._cells > 1
            elif self._per_window:
                self._torn[window] = 1
        if self._pair is not None and self._torn[window]:
            # Cut down to single pages around a punched page, the pieces grow with the distance from it: only the
            # page next to a punched one, if aligned with it, is in no piece that has to be split.
            pair = self._pair[cell]
            self.splits += not self._pair_cut[pair]
            self._pair_cut[pair] = 1
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
            if self._pair is not None:
                self._pair_cut[self._pair[cell]] = 0
        self._torn[window] = 0
        self._intact[window] = 1
        self.folios += self._per_window
        self._left[window] = self._cells
        self.pages += self._cells * self.cell_pages
        return True


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

    ``vmemmap``: struct pages that a split folio needs again, in pages (HugeTLB vmemmap optimisation).
    """

    keeps_shared = True

    def __init__(self, touched: Touched, order: int, frames: Frames, host: HostMemory, *, vmemmap: int = 0) -> None:
        super().__init__(touched, order, frames, host)
        self._vmemmap = vmemmap
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
