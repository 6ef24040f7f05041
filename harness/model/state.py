# SPDX-License-Identifier: GPL-2.0-only
"""What the model knows of each guest page of a region; frozen, every rule makes a new one.

Sets of pages are integers, see ``harness.model.pages``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from harness.model import pages
from harness.model.aligned import NO_BLOCKS, Blocks
from harness.model.parked import NOTHING_PARKED, Parked
from harness.scenario.steps import CHUNK_PAGES, PageRange, Side

CHUNK_ORDER = 9


@dataclass(frozen=True)
class Patterns:
    """Which generation of the guest's pattern each page holds on one side; a page in none of them reads as zero."""

    layers: tuple[tuple[int, int], ...] = ()
    """(generation, set of pages), disjoint, none empty, in the order of writing."""

    def write(self, written: int, generation: int) -> Patterns:
        """The pages of ``written`` now hold ``generation``."""
        return Patterns((*self.clear(written).layers, (generation, written))) if written else self

    def clear(self, gone: int) -> Patterns:
        """The pages of ``gone`` now read as zero."""
        return Patterns(tuple((g, held & ~gone) for g, held in self.layers if held & ~gone))

    def join(self, arriving: Iterable[tuple[int | None, int]]) -> Patterns:
        """Pages in none of the layers come with what they hold."""
        layers = dict(self.layers)
        for generation, held in arriving:
            if generation is not None:
                layers[generation] = layers.get(generation, 0) | held
        return Patterns(tuple(layers.items()))

    def within(self, wanted: int) -> Iterator[tuple[int | None, int]]:
        """The contents of ``wanted`` as (generation or None for zero, set of pages)."""
        rest = wanted
        for generation, held in self.layers:
            if held & wanted:
                yield generation, held & wanted
                rest &= ~held
        if rest:
            yield None, rest


@dataclass(frozen=True)
class RegionState:
    """One region.  All sets are of guest pages, but ``tables`` is of chunks.

    Shared read-only leaves of the zero page (``leaf_zero``) belong to no page that is present.
    """

    chunks: int
    attr_private: int = 0
    """Pages whose KVM attribute is private; the others are shared."""
    private: int = 0
    """Pages present in the guest_memfd."""
    shared: int = 0
    """Pages present in the shared backing."""
    leaf_private: int = 0
    """Pages mapped in the nested page table by a leaf to the guest_memfd's page."""
    leaf_shared: int = 0
    """Pages mapped by a writable leaf to the shared page."""
    leaf_zero: int = 0
    """Pages mapped read-only to the kernel's zero page."""
    tables: int = 0
    """Bit n: QEMU has a page table for the shared mapping of chunk n."""
    private_patterns: Patterns = Patterns()
    shared_patterns: Patterns = Patterns()

    # The guest_memfd beyond order 0.
    private_folios: Blocks = NO_BLOCKS
    """Large folios of the guest_memfd; pages of ``private`` in none of them are order-0 folios."""
    private_dirty: int = 0
    """All pages of the dirty folios of the guest_memfd, of any order."""
    private_held: int = 0
    """Pages on whose private folio somebody holds a reference that the kernel does not expect."""
    private_parked: Parked = NOTHING_PARKED
    """Folios that left the guest_memfd and that only references keep."""
    private_apart: Blocks = NO_BLOCKS
    """Windows whose order-0 folios are the pieces of one folio, on the same pages in the same order."""
    leaf_private_large: Blocks = NO_BLOCKS
    """Leaves of 2 MiB (order 9) and 1 GiB (order 18) to private folios; ``leaf_private`` is of 4 KiB leaves only."""
    nested_missing: Blocks = NO_BLOCKS
    """Windows without a table in KVM's nested page table: order 9 for 4 KiB leaves, order 18 for leaves of 2 MiB."""

    # The shared backing beyond 4 KiB.
    shared_folios: Blocks = NO_BLOCKS
    """Large folios of the shared backing that occupy memory, mapped or not."""
    shared_in_folio: int = 0
    """Pages of ``shared`` that are pages of those folios; the rest of ``shared`` is order-0."""
    shared_held: int = 0
    """Pages on whose shared folio somebody holds a reference (a long-term pin)."""
    leaf_shared_large: Blocks = NO_BLOCKS
    """Leaves of 2 MiB and 1 GiB to shared folios; ``leaf_shared`` is of 4 KiB leaves only."""
    leaf_zero_large: Blocks = NO_BLOCKS
    """Read-only leaves of 2 MiB to the kernel's huge zero folio; ``leaf_zero`` is of 4 KiB leaves only."""
    shared_huge: Blocks = NO_BLOCKS
    """Shared folios that QEMU's page table maps by one entry (order 9: PMD, order 18: PUD)."""
    zero_huge: Blocks = NO_BLOCKS
    """Windows that QEMU's page table maps to the huge zero folio by one entry."""
    shared_mapped: int = 0
    """Pages of a file's page cache that QEMU's page table maps; unused where the shared side is anonymous memory."""
    shared_far: int = 0
    """Pages of ``shared`` whose memory is on NUMA node 1; a page that is allocated comes from node 0."""
    shared_lost: int = 0
    """Pages of ``shared_folios`` that references keep and nothing maps any more."""
    shared_parked: Parked = NOTHING_PARKED
    """Shared folios that only references keep."""

    @classmethod
    def empty(cls, chunks: int, *, tables: bool = True, nested: Blocks = NO_BLOCKS) -> RegionState:
        """The canonical state after a restore: shared, nothing present, nothing mapped.

        ``tables``: QEMU's page tables exist; ``nested``: windows without a table in KVM's nested page table.
        """
        return cls(chunks, tables=pages.span(0, chunks) if tables else 0, nested_missing=nested)

    @property
    def mapped(self) -> int:
        """Pages with a leaf of 4 KiB of any kind."""
        return self.leaf_private | self.leaf_shared | self.leaf_zero

    def on_side(self, wanted: int, side: Side) -> int:
        """The pages of ``wanted`` whose attribute is ``side``."""
        return wanted & self.attr_private if side is Side.PRIVATE else wanted & ~self.attr_private

    def write(self, written: int, generation: int) -> RegionState:
        """The guest wrote its pattern to present pages, each on the side its attribute names."""
        return replace(
            self,
            private_patterns=self.private_patterns.write(self.on_side(written, Side.PRIVATE), generation),
            shared_patterns=self.shared_patterns.write(self.on_side(written, Side.SHARED), generation),
        )

    def contents(self, wanted: int) -> list[tuple[int | None, int]]:
        """What the guest reads in ``wanted``: (generation or None for zero, set of pages)."""
        return [
            *self.private_patterns.within(self.on_side(wanted, Side.PRIVATE)),
            *self.shared_patterns.within(self.on_side(wanted, Side.SHARED)),
        ]


def page_set(where: PageRange) -> int:
    """The pages of a range as a set."""
    return pages.span(where.start, where.count)


def whole_chunks(where: int) -> int:
    """The chunks (bit n: chunk n) that the set ``where`` covers completely."""
    full = 0
    for start, count in pages.runs(where):
        first = -(-start // CHUNK_PAGES)
        last = (start + count) // CHUNK_PAGES
        if last > first:
            full |= pages.span(first, last - first)
    return full


def chunks_of(where: int) -> int:
    """The chunks (bit n: chunk n) that the set ``where`` touches."""
    marks = pages.groups(where, CHUNK_ORDER)
    return sum(1 << (start // CHUNK_PAGES) for start, _ in pages.runs(marks))


def window_starts(chunks: int) -> int:
    """First pages of the chunks in the set ``chunks`` (bit n: chunk n)."""
    starts = 0
    for start, count in pages.runs(chunks):
        starts |= pages.strided(start * CHUNK_PAGES, (start + count) * CHUNK_PAGES, CHUNK_PAGES)
    return starts
