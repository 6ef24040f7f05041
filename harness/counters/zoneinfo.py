# SPDX-License-Identifier: GPL-2.0-only
"""``/proc/zoneinfo``: zones with their watermarks, items and per-CPU page lists (mm/vmstat.c, zoneinfo_show_print)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from harness.counters.lines import CounterFormatError, number, numbered_lines

FILE: Final = "zoneinfo"
_ZONE: Final = re.compile(r"Node ([0-9]+), zone +(\S+)")
_ITEM: Final = re.compile(r" +([a-z][a-z0-9_]*):? +(-?[0-9]+)")
_FREE: Final = re.compile(r" +pages free +([0-9]+)")
_CPU: Final = re.compile(r" +cpu: ([0-9]+)")
_THRESHOLD: Final = re.compile(r" +vm stats threshold: ([0-9]+)")
_PROTECTION: Final = re.compile(r" +protection: \(([0-9, ]+)\)")
_HEADINGS: Final = ("  per-node stats", "  pagesets")


@dataclass(frozen=True)
class Pageset:
    """The free page lists of one CPU in one zone: ``count`` pages, given back above ``high``.

    ``limits`` has every printed line by name (pages): count, high, batch, and since 6.7 high_min and high_max.
    """

    cpu: int
    limits: Mapping[str, int]

    @property
    def count(self) -> int:
        return self.limits["count"]


@dataclass(frozen=True)
class Zone:
    """One zone. ``values`` holds free, min, low, high, spanned, present, managed, ... and the nr_* items, in pages."""

    node: int
    zone: str
    values: Mapping[str, int]
    pagesets: tuple[Pageset, ...]
    protection: tuple[int, ...]

    @property
    def free(self) -> int:
        """Pages on the buddy lists (NR_FREE_PAGES)."""
        return self.values["free"]

    @property
    def pcp(self) -> int:
        """Pages on the per-CPU lists: free, but counted nowhere else."""
        return sum(pageset.count for pageset in self.pagesets)


@dataclass
class _Draft:
    """A zone while its lines arrive."""

    node: int
    zone: str
    line: int
    values: dict[str, int] = field(default_factory=dict)
    pagesets: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    protection: tuple[int, ...] = ()
    in_pagesets: bool = False

    def finish(self) -> Zone:
        title = f"Node {self.node}, zone {self.zone}"
        if "free" not in self.values:
            raise CounterFormatError(FILE, self.line, title, "this zone has no 'pages free' line")
        for cpu, limits in self.pagesets:
            if "count" not in limits:
                raise CounterFormatError(FILE, self.line, title, f"the page lists of CPU {cpu} have no 'count' line")
        pagesets = tuple(Pageset(cpu, limits) for cpu, limits in self.pagesets)
        return Zone(self.node, self.zone, self.values, pagesets, self.protection)


def parse(text: str) -> tuple[Zone, ...]:
    """The zones in the kernel's order; unpopulated zones have no pagesets."""
    zones: list[Zone] = []
    draft: _Draft | None = None
    for line, content in numbered_lines(text, FILE):
        match = _ZONE.fullmatch(content)
        if match:
            if draft:
                zones.append(draft.finish())
            draft = _Draft(int(match[1]), match[2], line)
        elif draft is None:
            raise CounterFormatError(FILE, line, content, "expected 'Node N, zone NAME' first")
        else:
            _take(draft, line, content)
    if draft:
        zones.append(draft.finish())
    return tuple(zones)


def _take(draft: _Draft, line: int, content: str) -> None:
    """One line below a zone's title."""
    if content in _HEADINGS:
        draft.in_pagesets = content == "  pagesets"
    elif match := _CPU.fullmatch(content):
        draft.pagesets.append((int(match[1]), {}))
    elif match := _FREE.fullmatch(content):
        _store(draft.values, "free", match[1], line, content)
    elif match := _PROTECTION.fullmatch(content):
        draft.protection = tuple(number(word, FILE, line, content) for word in match[1].split(", "))
    elif match := _THRESHOLD.fullmatch(content):
        pass  # how far a per-CPU difference may lag; stat_refresh makes it irrelevant
    elif match := _ITEM.fullmatch(content):
        # Behind the pagesets come node_unreclaimable and start_pfn, which belong to the zone again.
        in_pageset = draft.in_pagesets and draft.pagesets and content.startswith(" " * 10)
        target = draft.pagesets[-1][1] if in_pageset else draft.values
        _store(target, match[1], match[2], line, content)
    else:
        raise CounterFormatError(FILE, line, content, "a line of no known kind")


def _store(target: dict[str, int], name: str, text: str, line: int, content: str) -> None:
    if name in target:
        raise CounterFormatError(FILE, line, content, "a value printed twice")
    target[name] = number(text, FILE, line, content)
