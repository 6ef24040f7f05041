# SPDX-License-Identifier: GPL-2.0-only
"""The guest's pattern as the host would read it: each word says whose page it is (``guest-images/module/gmem_conv.c``).

>>> words_of(first_word("g0.r0", 7, 3))
'g0.r0, page 7, generation 3'
"""

from __future__ import annotations

KEY = 0x6D656D67C0DEBEAD
"""``PATTERN_KEY`` of the module."""


def first_word(region: str, page: int, generation: int) -> int:
    """The first word of a page of ``region`` (``g0.r0``) that the guest wrote in that generation."""
    guest, _, number = region.partition(".r")
    tag = int(guest.removeprefix("g"))
    word = (tag & 0xF) << 60 | (int(number) & 0xF) << 56 | (generation & 0xFFFF) << 40 | (page & 0xFFFFFF) << 16
    return word ^ KEY


def words_of(word: int) -> str:
    """What a first word says: ``nothing``, whose page it is, or the number itself."""
    if not word:
        return "nothing"
    plain = word ^ KEY
    if plain & 0xFFFF:
        return f"{word:#018x}"
    return f"g{plain >> 60}.r{plain >> 56 & 0xF}, page {plain >> 16 & 0xFFFFFF}, generation {plain >> 40 & 0xFFFF}"
