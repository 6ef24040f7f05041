# SPDX-License-Identifier: GPL-2.0-only
"""``/proc/buddyinfo``: free blocks per order, one line per populated zone (mm/vmstat.c, frag_show_print)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from harness.counters.lines import CounterFormatError, number, numbered_lines

FILE: Final = "buddyinfo"
_LINE: Final = re.compile(r"Node ([0-9]+), zone +(\S+) +([0-9 ]+)")


@dataclass(frozen=True)
class BuddyZone:
    """One zone: ``free[n]`` is its number of free blocks of order n."""

    node: int
    zone: str
    free: tuple[int, ...]


def parse(text: str) -> tuple[BuddyZone, ...]:
    """The zones in the kernel's order; every zone has the same number of orders."""
    zones: list[BuddyZone] = []
    for line, content in numbered_lines(text, FILE):
        match = _LINE.fullmatch(content)
        if match is None:
            raise CounterFormatError(FILE, line, content, "expected 'Node N, zone NAME' and counts")
        free = tuple(number(word, FILE, line, content) for word in match[3].split())
        if zones and len(zones[0].free) != len(free):
            raise CounterFormatError(FILE, line, content, f"{len(free)} orders after a zone with {len(zones[0].free)}")
        zones.append(BuddyZone(int(match[1]), match[2], free))
    return tuple(zones)


def free_per_order(zones: tuple[BuddyZone, ...]) -> tuple[int, ...]:
    """Free blocks of each order over all zones."""
    return tuple(sum(column) for column in zip(*(zone.free for zone in zones), strict=True))
