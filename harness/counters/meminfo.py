# SPDX-License-Identifier: GPL-2.0-only
"""``/proc/meminfo``: ``Name:   value kB`` or, for counts of huge pages, ``Name:   value`` (fs/proc/meminfo.c)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from harness.counters.lines import CounterFormatError, number, numbered_lines

FILE: Final = "meminfo"
_LINE: Final = re.compile(r"([A-Za-z][A-Za-z0-9_]*(?:\([a-z_]+\))?): +(-?[0-9]+)( kB)?")


def parse(text: str) -> Mapping[str, int]:
    """Values by name as printed: kB, or pages of the pool for ``HugePages_*``."""
    values: dict[str, int] = {}
    for line, content in numbered_lines(text, FILE):
        match = _LINE.fullmatch(content)
        if match is None:
            raise CounterFormatError(FILE, line, content, "expected 'Name: value kB'")
        if match[1] in values:
            raise CounterFormatError(FILE, line, content, "a name printed twice")
        values[match[1]] = number(match[2], FILE, line, content)
    return values
