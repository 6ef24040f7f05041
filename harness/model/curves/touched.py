# SPDX-License-Identifier: GPL-2.0-only
"""The part of a guest that a stream touches, numbered compactly, so that the cost does not depend on the guest's size.

Numbers are given in the order of first use.  State is then read in the order in which it lies in memory as long as a
stream goes to new places, which is what streams on large guests do; sorted numbers cost twice the time.
"""

from __future__ import annotations

from array import array
from functools import cached_property

import numpy as np

from harness.model.curves.streams import Cells, Stream


class Groups:
    """Aligned groups of ``2**order`` pages with at least one touched cell, numbered from 0 in the order of use."""

    def __init__(self, names: Cells) -> None:
        self.names, of_cell = number(names)
        """Number of each group in the guest: its first page >> order."""
        self.of_cell = compact(of_cell)
        """Group of each touched cell."""
        self._of_cell = of_cell

    def __len__(self) -> int:
        return int(self.names.size)

    def members(self, group: int) -> array[int]:
        """The touched cells of a group."""
        members, first = self._lists
        return members[first[group] : first[group + 1]]

    @cached_property
    def _lists(self) -> tuple[array[int], array[int]]:
        """The cells group by group, and where each group begins: few streams ever ask."""
        first = np.r_[0, np.cumsum(np.bincount(self._of_cell, minlength=len(self)))]
        return compact(np.argsort(self._of_cell, kind="stable")), compact(first)


class Touched:
    """Touched cells, numbered from 0 in the order of use."""

    def __init__(self, stream: Stream) -> None:
        self.cell_order = stream.cell_order
        self.guest_pages = stream.guest_pages
        self._names, self.events = number(stream.cells)
        """``events``: the touched cell of each conversion."""
        self._groups: dict[int, Groups] = {}

    def __len__(self) -> int:
        return int(self._names.size)

    def offsets(self, order: int) -> array[int]:
        """Place of each touched cell in its group of ``2**order`` pages, in cells."""
        return compact(self._names & ((1 << (order - self.cell_order)) - 1))

    def groups(self, order: int) -> Groups:
        """The touched groups of ``2**order`` pages; ``order`` is at least the cell's."""
        if order not in self._groups:
            self._groups[order] = Groups(self._names >> (order - self.cell_order))
        return self._groups[order]


def number(names: Cells) -> tuple[Cells, Cells]:
    """The different names in the order of their first use, and for each entry the number of its name."""
    different, first, entries = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return different[order], rank[entries]


def compact(numbers: Cells) -> array[int]:
    """Small non-negative numbers, 4 bytes each: lists of Python integers would spend the time on cache misses."""
    return array("i", numbers.astype(np.int32).tobytes())
