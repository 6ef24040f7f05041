# SPDX-License-Identifier: GPL-2.0-only
"""Folios that nothing maps and no file holds any more, and that only references keep: a pin outlives a discard."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Parked:
    """The folios of one region that references keep.

    >>> from harness.model import pages
    >>> kept = Parked().park_pages(pages.span(0, 2)).park_folio(9, 512, 1 << 600)
    >>> kept.frames()
    514
    >>> left, singles, folios = kept.release(pages.span(1, 1023))
    >>> singles, folios, left.frames()
    (1, (9,), 1)
    """

    singles: tuple[int, ...] = ()
    """Order-0 pages: layer n is the set of pages that have more than n of them; a pinned page may be discarded,
    touched, pinned and discarded again."""
    folios: tuple[tuple[int, int, int, bool], ...] = ()
    """(order, first page, set of pages with a reference, whether it waits in the queue of deferred splits)."""

    def park_pages(self, held: int) -> Parked:
        """One more order-0 page of each of ``held``."""
        layers = []
        for layer in self.singles:
            layers.append(layer | held)
            held &= layer
        return replace(self, singles=(*layers, held) if held else tuple(layers))

    def park_folio(self, order: int, start: int, held: int, *, queued: bool = False) -> Parked:
        """One more folio of ``2**order`` pages, of which ``held`` carry references."""
        return replace(self, folios=(*self.folios, (order, start, held, queued)))

    def frames(self) -> int:
        """Pages that the kept folios occupy."""
        return sum(layer.bit_count() for layer in self.singles) + sum(1 << folio[0] for folio in self.folios)

    def references(self) -> int:
        """Pages with a reference."""
        return sum(layer.bit_count() for layer in self.singles) + sum(folio[2].bit_count() for folio in self.folios)

    def queued(self) -> int:
        """Folios that wait in the queue of deferred splits."""
        return sum(folio[3] for folio in self.folios)

    def release(self, where: int) -> tuple[Parked, int, tuple[int, ...]]:
        """References on pages of ``where`` are dropped: what is left, order-0 pages freed, orders of folios freed."""
        singles = sum((layer & where).bit_count() for layer in self.singles)
        folios = [(order, start, held & ~where, queued) for order, start, held, queued in self.folios]
        layers = tuple(layer & ~where for layer in self.singles if layer & ~where)
        kept = tuple(folio for folio in folios if folio[2])
        return Parked(layers, kept), singles, tuple(folio[0] for folio in folios if not folio[2])


NOTHING_PARKED = Parked()
