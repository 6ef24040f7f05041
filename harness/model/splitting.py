# SPDX-License-Identifier: GPL-2.0-only
"""What truncation of a part of a large folio leaves: which folios, after which splits; pure sets, no counters.

mm/truncate.c:truncate_inode_pages_range, truncate_inode_partial_folio; mm/huge_memory.c:__split_unmapped_folio.
It serves every file whose folios are cut by a hole: a guest_memfd and shmem alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.model.aligned import Blocks, spread


@dataclass(frozen=True)
class Cut:
    """What a hole does to the folios of a file: splits at its edges, then what leaves the file."""

    folios: Blocks
    """Large folios after the splits; those that leave the file lie in ``removed``."""
    removed: int
    """Pages of the hole, and of clean folios that could not be split: present or not, they leave the file."""
    kept: int
    """Pages of the hole that stay: dirty folios that could not be split."""
    splits: tuple[int, ...] = ()
    """Order of each folio that was split, in order."""
    refused: tuple[int, ...] = ()
    """Order of each folio whose split failed."""
    lost: int = 0
    """Pages outside the hole that leave the file with their clean folio."""


def buddy_pieces(order: int, page: int) -> Blocks:
    """Large folios that a split of the folio of ``2**order`` pages around ``page`` leaves: one of each order below.

    The page itself and its neighbour become order-0 folios (huge_memory.c:__split_unmapped_folio, non-uniform).

    >>> [(o, s.bit_length() - 1) for o, s in buddy_pieces(4, 5)]
    [(1, 6), (2, 0), (3, 8)]
    """
    return Blocks(tuple((below, 1 << ((page >> below ^ 1) << below)) for below in range(1, order)))


def cut(folios: Blocks, start: int, end: int, *, dirty: int, held: int, uniform: bool) -> Cut:
    """Truncation of pages ``start`` to ``end - 1`` of a file.

    ``dirty``: pages of dirty folios; ``held``: pages of folios with a reference nobody expects; ``uniform``: a split
    makes order-0 folios of all pages (6.12), else it halves around the edge of the hole (6.15 and later).

    Whole folios of the hole go as they are.  The folio at the first page of the hole, if a part of it stays, and the
    one at the last page.  Each is split, and where that fails a dirty folio stays whole and a clean one goes whole.
    """
    hole = ((1 << end - start) - 1) << start
    left = folios
    kept = lost = 0
    splits: list[int] = []
    refused: list[int] = []
    for order, first in sorted(_each(folios.touching(hole).without(folios.inside(hole))), key=lambda folio: folio[1]):
        pages = spread(1 << first, order)
        if pages & held:
            refused.append(order)
            if pages & dirty:
                kept |= pages & hole
            else:
                lost |= pages & ~hole
            continue
        splits.append(order)
        left = left.remove(order, 1 << first)
        if uniform:
            continue
        left, again = _split_edges(left, order, max(start, first), end)
        splits += again
    return Cut(left, hole & ~kept | lost, kept, tuple(splits), tuple(refused), lost)


def _split_edges(left: Blocks, order: int, at: int, end: int) -> tuple[Blocks, list[int]]:
    """Splits the folio around page ``at``, then the piece at ``end``, the page after the hole.

    The second split is made whenever that piece is large, also where it merely begins there
    (truncate.c:truncate_inode_partial_folio, "make sure folio2 is large"): a hole of one odd page splits twice.
    """
    pieces = buddy_pieces(order, at)
    straddler = pieces.touching(1 << end)
    if not straddler:
        return left.join(pieces), []
    ((below, _),) = straddler
    return left.join(pieces.without(straddler)).join(buddy_pieces(below, end)), [below]


def _each(blocks: Blocks) -> list[tuple[int, int]]:
    """Each block as (order, first page); only for the few that straddle an edge."""
    found = []
    for order, starts in blocks:
        while starts:
            low = starts & -starts
            found.append((order, low.bit_length() - 1))
            starts ^= low
    return found
