# SPDX-License-Identifier: GPL-2.0-only
"""How the kernel prints a knob, and when what it prints is what was asked for.

A knob is a file of /sys or /proc/sys.  ``before`` and ``wanted`` are texts without the last newline.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

from harness.errors import UsageError

_SELECTION = re.compile(r"(?:^|\s)\[([^\[\]\s]+)\](?=\s|$)")
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]+|0|[1-9][0-9]*)\Z", re.IGNORECASE)
_BOOLEAN: Final = {"y": "Y", "1": "Y", "on": "Y", "true": "Y", "yes": "Y"} | {
    "n": "N", "0": "N", "off": "N", "false": "N", "no": "N",
}  # fmt: skip
_COUNTS = ("nr_hugepages", "nr_hugepages_mempolicy")

_THP = "/sys/kernel/mm/transparent_hugepage"
_POOLS = "/sys/devices/system/node/node*/hugepages/{}/nr_hugepages"
_FOLLOWERS: Final[dict[str, tuple[str, ...]]] = {
    # mm/khugepaged.c start_stop_khugepaged(): raises or recomputes min_free_kbytes
    f"{_THP}/enabled": ("/proc/sys/vm/min_free_kbytes",),
    # mm/util.c overcommit_*_handler() and mm/page-writeback.c dirty_*_handler(): setting one zeroes the other
    "/proc/sys/vm/overcommit_ratio": ("/proc/sys/vm/overcommit_kbytes",),
    "/proc/sys/vm/overcommit_kbytes": ("/proc/sys/vm/overcommit_ratio",),
    "/proc/sys/vm/dirty_ratio": ("/proc/sys/vm/dirty_bytes",),
    "/proc/sys/vm/dirty_bytes": ("/proc/sys/vm/dirty_ratio",),
    "/proc/sys/vm/dirty_background_ratio": ("/proc/sys/vm/dirty_background_bytes",),
    "/proc/sys/vm/dirty_background_bytes": ("/proc/sys/vm/dirty_background_ratio",),
    # mm/hugetlb.c set_max_huge_pages(): spread over the nodes, not as they were
    "/proc/sys/vm/nr_hugepages": (_POOLS.format("hugepages-*"),),
}


def check_path(path: str) -> None:
    """Raises ``UsageError`` for a path that is no knob."""
    if not path.startswith(("/proc/sys/", "/sys/")) or posixpath.normpath(path) != path or "\n" in path:
        raise UsageError(f"{path} is no knob: a file below /proc/sys or /sys is needed")


def followers(path: str) -> tuple[str, ...]:
    """Knobs, or patterns of them, that the kernel may change when this one is written."""
    if re.fullmatch(rf"{_THP}/hugepages-\w+/enabled", path):
        return _FOLLOWERS[f"{_THP}/enabled"]
    pool = re.fullmatch(r"/sys/kernel/mm/hugepages/(hugepages-\w+)/nr_hugepages", path)
    if pool:
        return (_POOLS.format(pool[1]),)
    return _FOLLOWERS.get(path, ())


def is_count(path: str) -> bool:
    """Whether the kernel may do a part of what was asked: a number of huge pages."""
    return posixpath.basename(path) in _COUNTS


def selected(printed: str) -> str:
    """The word that is written to have this: ``madvise`` of ``always [madvise] never``, else the text itself."""
    found = _SELECTION.findall(printed)
    return found[0] if len(found) == 1 else printed.strip()


def same(wanted: str, printed: str) -> bool:
    """Whether the kernel prints what was asked for.

    White space counts as one space (triples of sysctls are printed with tabs), a selection is its word, numbers are
    numbers, and where Y or N is printed (module parameters of type bool, ``param_get_bool``) every spelling will do.
    """
    left, right = _plain(wanted), _plain(printed)
    if left == right:
        return True
    if right in ("Y", "N"):
        return _BOOLEAN.get(left.lower()) == right
    words, printed_words = left.split(), right.split()
    return len(words) == len(printed_words) and all(map(_same_word, words, printed_words))


def _plain(text: str) -> str:
    return " ".join(selected(text).split())


def _same_word(left: str, right: str) -> bool:
    if left == right:
        return True
    return bool(_NUMBER.match(left) and _NUMBER.match(right)) and int(left, 0) == int(right, 0)
