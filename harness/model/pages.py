# SPDX-License-Identifier: GPL-2.0-only
"""Sets of pages as Python integers: bit n is page n of a region.

Counting, cutting and comparing such sets costs a few machine words per 64 pages, so the same rules serve a region of
16 MiB in microseconds and one of a terabyte in seconds.
"""

from __future__ import annotations

import re
from functools import lru_cache


def span(start: int, count: int) -> int:
    """Pages ``start`` to ``start + count - 1``."""
    return ((1 << count) - 1) << start


def strided(start: int, end: int, stride: int) -> int:
    """Pages ``start``, ``start + stride``, ... below ``end``."""
    steps = (end - start + stride - 1) // stride
    return ((1 << (steps * stride)) - 1) // ((1 << stride) - 1) << start


def first(pages: int) -> int:
    """The first page of a set that is not empty."""
    return (pages ^ pages - 1).bit_length() - 1


def runs(pages: int) -> list[tuple[int, int]]:
    """Maximal runs of neighbouring pages as (start, count), in rising order."""
    if not pages:
        return []
    low = first(pages)
    if pages.bit_length() - low <= _DENSE:
        digits = bin(pages >> low)[:1:-1]
        return [(low + found.start(), found.end() - found.start()) for found in _ONES.finditer(digits)]
    return _few_runs(pages)


_ONES = re.compile("1+")
_DENSE = 1 << 18
"""Bits from the first to the last page up to which digits are cheaper to search than numbers to shift: 1 GiB, 1 ms."""


def _few_runs(pages: int) -> list[tuple[int, int]]:
    """The same by shifting: quick for few runs in a large region."""
    found = []
    start = 0
    while pages:
        gap = first(pages)
        pages >>= gap
        start += gap
        length = first(~pages)
        found.append((start, length))
        pages >>= length
        start += length
    return found


def groups(pages: int, order: int) -> int:
    """The aligned groups of ``2**order`` pages that hold at least one page: bit n*2**order stands for group n."""
    if not pages:
        return 0
    for shift in range(order - 1, -1, -1):
        pages |= pages >> (1 << shift)
    return pages & _group_marks(pages.bit_length(), order)


@lru_cache(maxsize=64)
def _group_marks(bits: int, order: int) -> int:
    return strided(0, bits, 1 << order)
