# SPDX-License-Identifier: GPL-2.0-only
"""``/proc/vmstat``: one ``name value`` per line (mm/vmstat.c, vmstat_show)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from harness.counters.lines import CounterFormatError, number, numbered_lines

FILE: Final = "vmstat"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


def parse(text: str) -> Mapping[str, int]:
    """All counters by the kernel's name, known or not; items in pages (``thp``: huge pages), events in events."""
    values: dict[str, int] = {}
    for line, content in numbered_lines(text, FILE):
        words = content.split(" ")
        if len(words) != 2 or not _NAME.fullmatch(words[0]):
            raise CounterFormatError(FILE, line, content, "expected 'name value'")
        if words[0] in values:
            raise CounterFormatError(FILE, line, content, "a counter printed twice")
        values[words[0]] = number(words[1], FILE, line, content)
    return values
