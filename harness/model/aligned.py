# SPDX-License-Identifier: GPL-2.0-only
"""Aligned power-of-two blocks of pages: large folios, huge leaves.  Frozen, every change makes a new record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.model import pages

PMD_ORDER = 9
"""Order of a folio that one PMD entry maps: 2 MiB on x86-64.  The thp_* events count this order only."""
PUD_ORDER = 18
"""Order of a folio that one PUD entry maps: 1 GiB."""


def size_name(order: int) -> str:
    """The size of a folio as the kernel's folders say it.

    >>> size_name(4), size_name(9)
    ('64kB', '2048kB')
    """
    return f"{4 << order}kB"


@dataclass(frozen=True)
class Blocks:
    """Disjoint blocks of ``2**order`` pages, each aligned to its size in its region.

    >>> halves = Blocks().add(8, pages.span(0, 1) | pages.span(256, 1))
    >>> halves.count(8), halves.covered().bit_count()
    (2, 512)
    """

    layers: tuple[tuple[int, int], ...] = ()
    """(order, set of first pages), orders rising, no set empty."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.layers)

    def __bool__(self) -> bool:
        return bool(self.layers)

    def starts(self, order: int) -> int:
        """First pages of the blocks of that order."""
        return next((starts for at, starts in self.layers if at == order), 0)

    def count(self, order: int) -> int:
        """Number of blocks of that order."""
        return self.starts(order).bit_count()

    def covered(self) -> int:
        """All pages of all blocks."""
        covered = 0
        for order, starts in self.layers:
            covered |= spread(starts, order)
        return covered

    def add(self, order: int, starts: int) -> Blocks:
        """These blocks too; they must not overlap what is there."""
        return self._with(order, self.starts(order) | starts)

    def remove(self, order: int, starts: int) -> Blocks:
        """Without these blocks."""
        return self._with(order, self.starts(order) & ~starts)

    def touching(self, where: int) -> Blocks:
        """The blocks with at least one page in ``where``."""
        found = ((order, starts & pages.groups(where, order)) for order, starts in self.layers)
        return Blocks(tuple((order, starts) for order, starts in found if starts))

    def inside(self, where: int) -> Blocks:
        """The blocks with every page in ``where``."""
        found = ((order, starts & full_groups(where, order)) for order, starts in self.layers)
        return Blocks(tuple((order, starts) for order, starts in found if starts))

    def without(self, others: Blocks) -> Blocks:
        """These blocks less those of ``others``."""
        left = self
        for order, starts in others:
            left = left.remove(order, starts)
        return left

    def join(self, others: Blocks) -> Blocks:
        """These blocks and those of ``others``, which must not overlap."""
        joined = self
        for order, starts in others:
            joined = joined.add(order, starts)
        return joined

    def _with(self, order: int, starts: int) -> Blocks:
        kept = [layer for layer in self.layers if layer[0] != order]
        if starts:
            kept.append((order, starts))
        return Blocks(tuple(sorted(kept)))


NO_BLOCKS = Blocks()


def spread(starts: int, order: int) -> int:
    """All pages of the blocks of ``2**order`` pages that begin at ``starts``."""
    for shift in range(order):
        starts |= starts << (1 << shift)
    return starts


def full_groups(where: int, order: int) -> int:
    """First pages of the aligned groups of ``2**order`` pages that lie in ``where`` completely."""
    for shift in range(order):
        where &= where >> (1 << shift)
    return pages.groups(where, order) & where if where else 0
