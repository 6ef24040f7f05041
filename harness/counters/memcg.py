# SPDX-License-Identifier: GPL-2.0-only
"""memory.stat of one memory cgroup, of cgroup v1 or v2: the memory that its own processes were charged for.

A page of a guest_memfd is charged to whoever's access allocated it (mm/filemap.c:filemap_add_folio calls
mem_cgroup_charge), so that these counters see one guest's pages and nothing else of the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from harness.counters.lines import CounterFormatError

NAMES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"file": ("file", "cache"), "file_mapped": ("file_mapped", "mapped_file"), "unevictable": ("unevictable",) * 2}
)
"""Counter to its word in v2 and in v1; in bytes there, and in pages here."""
_PAGE: Final = 4096


def parse(text: str, guest: str) -> dict[str, int]:
    """``memcg/GUEST/file`` and the others in pages; one that the text lacks is missing.

    Raises CounterFormatError for a line that is no name and number, and for bytes that are no whole pages.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, _, value = line.partition(" ")
        if not name or not value.isdecimal():
            raise CounterFormatError("memory.stat", number, line, "expected a name and a number")
        found[name] = int(value)
        if any(name in words for words in NAMES.values()) and found[name] % _PAGE:
            raise CounterFormatError("memory.stat", number, line, "expected bytes of whole pages")
    return {
        f"memcg/{guest}/{counter}": next(found[word] // _PAGE for word in words if word in found)
        for counter, words in NAMES.items()
        if any(word in found for word in words)
    }
