# SPDX-License-Identifier: GPL-2.0-only
"""The rules of huge pages on the shared side once more, entry by entry and without a thought for speed: they agree."""

from __future__ import annotations

from dataclasses import dataclass, field

from backing_walk import Operation
from hypothesis import given
from hypothesis import strategies as st
from test_model_backings_properties import CHUNKS, FACT_SETS, PAGES, _operations, common, walked

from harness.model import pages
from harness.model.overhead import shared_frames

STEPS = st.lists(_operations(("write", "read", "discard", "to_private", "to_shared")), max_size=10)


@dataclass(eq=False)
class Folio:
    """A folio, or the zero page, which costs nothing."""

    pages: int


ZERO = Folio(0)


@dataclass
class AnonByEntry:
    """QEMU's page table over anonymous memory: what each entry maps, 2 MiB entries in ``huge``."""

    thp: bool
    zero: bool
    entries: list[Folio | None] = field(default_factory=lambda: [None] * PAGES)
    private: list[bool] = field(default_factory=lambda: [False] * PAGES)
    table: list[bool] = field(default_factory=lambda: [False] * CHUNKS)
    huge: list[Folio | None] = field(default_factory=lambda: [None] * CHUNKS)

    def touch(self, page: int, *, write: bool) -> None:
        chunk = page // 512
        bare = self.huge[chunk] is None and not self.table[chunk]
        self.table[chunk] = True
        if bare and not write and self.zero:
            self.huge[chunk] = ZERO
        elif bare and self.thp:
            self.huge[chunk] = Folio(512)
        if self.huge[chunk] is ZERO and write:
            if self.thp:
                self.huge[chunk] = Folio(512)
            else:
                self.split(chunk)
        if self.huge[chunk] is None and (self.entries[page] is None or (write and self.entries[page] is ZERO)):
            self.entries[page] = Folio(1) if write else ZERO

    def split(self, chunk: int) -> None:
        self.entries[chunk * 512 : chunk * 512 + 512] = [self.huge[chunk]] * 512
        self.huge[chunk] = None

    def discard(self, start: int, count: int, *, reclaim: bool) -> None:
        for chunk in range(CHUNKS):
            inside = [page for page in range(chunk * 512, chunk * 512 + 512) if start <= page < start + count]
            if len(inside) == 512:
                self.table[chunk] = self.table[chunk] and self.huge[chunk] is None and not reclaim
                self.huge[chunk] = None
            elif inside and self.huge[chunk] is not None:
                self.split(chunk)
            for page in inside:
                self.entries[page] = None

    def do(self, operation: Operation, *, reclaim: bool) -> None:
        what, start, count = operation
        if what in ("to_private", "to_shared"):
            self.private[start : start + count] = [what == "to_private"] * count
        if what in ("to_private", "discard"):
            self.discard(start, count, reclaim=reclaim)
        if what in ("write", "read"):
            for page in range(start, start + count):
                if not self.private[page]:
                    self.touch(page, write=what == "write")

    def mapped(self) -> int:
        return sum(folio not in (None, ZERO) for folio in self.entries) + sum(f.pages for f in self.huge if f)

    def frames(self) -> int:
        return sum(folio.pages for folio in {*self.entries, *self.huge} if folio)


@common
@given(operations=STEPS, facts=FACT_SETS)
def test_anonymous_huge_pages_entry_by_entry(operations, facts):
    other = AnonByEntry(facts.thp_available, facts.use_zero_page)
    for operation in operations:
        other.do(operation, reclaim=facts.pt_reclaim)
    region = walked("anon-thp", operations, facts).region
    assert region.shared.bit_count() == other.mapped()
    assert shared_frames(region) == other.frames()
    assert region.tables == sum(there << chunk for chunk, there in enumerate(other.table))


@dataclass
class FileByPage:
    """The page cache of a memfd: each present page with (first page, order) of its folio."""

    cache: dict[int, tuple[int, int]] = field(default_factory=dict)
    private: set[int] = field(default_factory=set)

    def touch(self, page: int, *, huge: bool) -> None:
        window = range(page // 512 * 512, page // 512 * 512 + 512)
        if huge and not any(neighbour in self.cache for neighbour in window):
            self.cache |= dict.fromkeys(window, (window[0], 9))
        self.cache.setdefault(page, (page, 0))

    def split(self, at: int, *, uniform: bool) -> None:
        start, order = self.cache[at]
        while order:
            order = 0 if uniform else order - 1
            for page in range(start, start + (1 << self.cache[start][1])):
                self.cache[page] = (page >> order << order, order)
            start = self.cache[at][0]

    def punch(self, start: int, end: int, *, uniform: bool) -> None:
        for first, order in sorted({self.cache[page] for page in range(start, end) if page in self.cache}):
            if first < start or first + (1 << order) > end:
                self.split(max(first, start), uniform=uniform)
                if first + (1 << order) > end:
                    self.split(end, uniform=uniform)
        for page in range(start, end):
            self.cache.pop(page, None)

    def do(self, operation: Operation, *, huge: bool, uniform: bool) -> None:
        what, start, count = operation
        there = set(range(start, start + count))
        if what == "to_private":
            self.private |= there
        if what == "to_shared":
            self.private -= there
        if what in ("to_private", "discard"):
            self.punch(start, start + count, uniform=uniform)
        if what in ("write", "read"):
            for page in sorted(there - self.private):
                self.touch(page, huge=huge)


@common
@given(operations=STEPS, facts=FACT_SETS)
def test_huge_pages_of_a_memfd_page_by_page(operations, facts):
    other = FileByPage()
    for operation in operations:
        other.do(operation, huge=facts.thp_available, uniform=facts.uniform_split)
    region = walked("shmem-thp", operations, facts).region
    assert region.shared == sum(1 << page for page in other.cache)
    folios = {(start, order) for order, starts in region.shared_folios for start, _ in pages.runs(starts)}
    assert folios == {folio for folio in other.cache.values() if folio[1]}
