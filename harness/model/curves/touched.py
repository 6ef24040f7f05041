# SPDX-License-Identifier: GPL-2.0-only
"""The part of a guest that a stream touches, numbered compactly: so the cost does not depend on the guest's size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.model.curves.streams import Cells, Stream


@dataclass(frozen=True)
class Groups:
    """Aligned groups of ``2**order`` pages with at least one touched cell, numbered from 0 in rising order."""

    of_cell: list[int]
    """Group of each touched cell."""
    first: list[int]
    """First touched cell of each group, and the number of touched cells at the end: a group is a run of cells."""
    numbers: Cells
    """Number of each group in the guest: its first page >> order."""


class Touched:
    """Touched cells, numbered from 0 in rising order."""

    def __init__(self, stream: Stream) -> None:
        self.cell_order = stream.cell_order
        self.guest_pages = stream.guest_pages
        self._cells, self.events = np.unique(stream.cells, return_inverse=True)
        """``events``: the touched cell of each conversion."""

    @cached_property
    def numbers(self) -> list[int]:
        """Number of each touched cell in the guest."""
        numbers: list[int] = self._cells.tolist()
        return numbers

    @property
    def count(self) -> int:
        """Number of touched cells."""
        return int(self._cells.size)

    def groups(self, order: int) -> Groups:
        """The touched groups of ``2**order`` pages; ``order`` is at least the cell's."""
        numbers, first, of_cell = np.unique(
            self._cells >> (order - self.cell_order), return_index=True, return_inverse=True
        )
        return Groups(of_cell.tolist(), [*first.tolist(), self.count], numbers)
