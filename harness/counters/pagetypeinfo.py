# SPDX-License-Identifier: GPL-2.0-only
"""``/proc/pagetypeinfo``: free blocks per migratetype and order, and pageblocks per migratetype (mm/vmstat.c).

The kernel stops counting a free list at 100000 entries and prints ``>100000`` (pagetypeinfo_showfree_print): such a
count is unknown. With page_owner a third table counts pageblocks that mix migratetypes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from harness.counters.lines import CounterFormatError, number, numbered_lines

FILE: Final = "pagetypeinfo"
_BLOCK_ORDER: Final = re.compile(r"Page block order: ([0-9]+)")
_BLOCK_PAGES: Final = re.compile(r"Pages per block: +([0-9]+)")
_FREE_HEAD: Final = re.compile(r"Free pages count per migrate type at order ([0-9 ]+)")
_FREE: Final = re.compile(r"Node +([0-9]+), zone +(\S+), type +(\S+) ([>0-9 ]+)")
_TABLE_HEAD: Final = re.compile(r"Number of (mixed blocks|blocks type) +(\S[A-Za-z ]*)")
_TABLE_ROW: Final = re.compile(r"Node ([0-9]+), zone +(\S+) ([0-9 ]+)")


@dataclass(frozen=True)
class FreeRow:
    """Free blocks of one zone and migratetype; ``free[n]`` is the count of order n, None where it is unknown."""

    node: int
    zone: str
    migratetype: str
    free: tuple[int | None, ...]

    @property
    def pages(self) -> int | None:
        """Free pages, or None when a count is unknown."""
        total = 0
        for order, blocks in enumerate(self.free):
            if blocks is None:
                return None
            total += blocks << order
        return total


@dataclass(frozen=True)
class BlockRow:
    """Pageblocks of one zone by migratetype."""

    node: int
    zone: str
    blocks: Mapping[str, int]


@dataclass(frozen=True)
class PageTypeInfo:
    """The whole file; ``mixed`` is empty unless the kernel runs with page_owner."""

    pageblock_order: int
    pages_per_block: int
    free: tuple[FreeRow, ...]
    blocks: tuple[BlockRow, ...]
    mixed: tuple[BlockRow, ...]

    def free_pages(self) -> Mapping[str, int]:
        """Free pages by migratetype over all zones, without the types of which a count is unknown."""
        sums: dict[str, int] = {}
        unknown: set[str] = set()
        for row in self.free:
            pages = row.pages
            if pages is None:
                unknown.add(row.migratetype)
            else:
                sums[row.migratetype] = sums.get(row.migratetype, 0) + pages
        return {name: pages for name, pages in sums.items() if name not in unknown}

    def pieces(self) -> Mapping[str, int]:
        """By migratetype over all zones: free pages in blocks smaller than a pageblock (``small/TYPE``) and free blocks
        of exactly a pageblock (``single/TYPE``); without the types of which a count is unknown."""
        found: dict[str, int] = {}
        unknown: set[str] = set()
        for row in self.free:
            if None in row.free:
                unknown.add(row.migratetype)
                continue
            counts = [blocks for blocks in row.free if blocks is not None]
            small = sum(blocks << order for order, blocks in enumerate(counts[: self.pageblock_order]))
            for name, counted in (("small", small), ("single", sum(counts[self.pageblock_order :][:1]))):
                key = f"{name}/{row.migratetype}"
                found[key] = found.get(key, 0) + counted
        return {key: counted for key, counted in found.items() if key.partition("/")[2] not in unknown}

    def first_zone(self) -> Mapping[str, int]:
        """The zone that an allocation without a zone of its own is asked of first: free pages per migratetype, and
        free blocks of the largest order as ``whole``.

        That is the highest zone that has pageblocks (include/linux/gfp.h:gfp_zone, mmzone.h:first_zones_zonelist).
        Empty on a machine of several nodes, where it depends on the CPU.  A list that nobody counted is missing.
        """
        populated = [row for row in self.blocks if any(row.blocks.values())]
        if len({row.node for row in populated}) != 1:
            return {}
        zone = populated[-1].zone  # the kernel prints zones in rising order
        rows = [row for row in self.free if row.zone == zone]
        found = {row.migratetype: pages for row in rows if (pages := row.pages) is not None}
        largest = [row.free[-1] for row in rows]
        if None not in largest:
            found["whole"] = sum(blocks for blocks in largest if blocks is not None)
        return found

    def block_counts(self) -> Mapping[str, int]:
        """Pageblocks by migratetype over all zones."""
        sums: dict[str, int] = {}
        for row in self.blocks:
            for name, count in row.blocks.items():
                sums[name] = sums.get(name, 0) + count
        return sums


def parse(text: str) -> PageTypeInfo:
    """Raises CounterFormatError for any line that is not understood, and when a table is missing or uneven."""
    reader = _Reader()
    for line, content in numbered_lines(text, FILE):
        if content:
            reader.take(line, content)
    return reader.finish()


class _Reader:
    """Collects the tables; which one a row belongs to is said by the heading above it."""

    def __init__(self) -> None:
        self.order: int | None = None
        self.pages: int | None = None
        self.orders: int | None = None
        self.free: list[FreeRow] = []
        self.tables: dict[str, list[BlockRow]] = {}
        self.columns: tuple[str, ...] = ()
        self.table: list[BlockRow] | None = None

    def take(self, line: int, content: str) -> None:
        if match := _BLOCK_ORDER.fullmatch(content):
            self.order = number(match[1], FILE, line, content)
        elif match := _BLOCK_PAGES.fullmatch(content):
            self.pages = number(match[1], FILE, line, content)
        elif match := _FREE_HEAD.fullmatch(content):
            self.orders = len(match[1].split())
        elif match := _TABLE_HEAD.fullmatch(content):
            self.columns = tuple(match[2].split())
            self.table = self.tables.setdefault(match[1], [])
        elif match := _FREE.fullmatch(content):
            self.free.append(self._free_row(match, line, content))
        elif match := _TABLE_ROW.fullmatch(content):
            self._block_row(match, line, content)
        else:
            raise CounterFormatError(FILE, line, content, "a line of no known kind")

    def _free_row(self, match: re.Match[str], line: int, content: str) -> FreeRow:
        words = match[4].split()
        if len(words) != self.orders:
            raise CounterFormatError(FILE, line, content, f"{len(words)} counts, {self.orders} orders were announced")
        counts = tuple(None if word.startswith(">") else number(word, FILE, line, content) for word in words)
        return FreeRow(int(match[1]), match[2], match[3], counts)

    def _block_row(self, match: re.Match[str], line: int, content: str) -> None:
        words = match[3].split()
        if self.table is None or len(words) != len(self.columns):
            raise CounterFormatError(FILE, line, content, f"{len(words)} counts under {len(self.columns)} types")
        counts = {name: number(word, FILE, line, content) for name, word in zip(self.columns, words, strict=True)}
        self.table.append(BlockRow(int(match[1]), match[2], counts))

    def finish(self) -> PageTypeInfo:
        blocks = self.tables.get("blocks type")
        if self.order is None or self.pages is None or not self.free or not blocks:
            raise CounterFormatError(FILE, 1, "", "a heading or a whole table is missing")
        if self.pages != 1 << self.order:
            raise CounterFormatError(FILE, 1, f"{self.pages} pages, order {self.order}", "the block sizes disagree")
        return PageTypeInfo(
            self.order, self.pages, tuple(self.free), tuple(blocks), tuple(self.tables.get("mixed blocks", ()))
        )
