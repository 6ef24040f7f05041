# SPDX-License-Identifier: GPL-2.0-only
"""Reads consoles for signs of a crash and for a title that names it.

A console is untrusted text: it is bounded and stripped of control characters before it goes anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

READ_LIMIT = 8 << 20
"""Bytes of a console that are searched; a kernel that prints more than that is looping."""

_TITLES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("panic", re.compile(r"Kernel panic - not syncing: .*")),
    ("BUG", re.compile(r"(kernel BUG at .*|BUG: .*)")),
    ("oops", re.compile(r"(Oops: .*|general protection fault.*|unable to handle .*|double fault: .*)")),
    (
        "lockup",
        re.compile(r"(watchdog: .*lockup.*|rcu: INFO: .* detected .*stall.*|INFO: task .* blocked for more than .*)"),
    ),
    ("WARN", re.compile(r"(WARNING: .* at .*|WARNING: CPU.*|refcount_t: .*)")),
)
_PREFIX = re.compile(r"^\[ *\d+\.\d+\](\[ *[CT]\d+\])? ?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Crash:
    """A sign of a crash: its kind and the line that shows it."""

    kind: str
    title: str
    line: int
    """Line number in the console, from 1."""


def clean(text: str) -> str:
    """``text`` without escape sequences and control characters (newlines and tabs stay)."""
    return _CONTROL.sub("", text)


def find_crash(text: str) -> Crash | None:
    """The first sign of a crash in a console's text, None when there is none."""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = _PREFIX.sub("", clean(raw))
        for kind, pattern in _TITLES:
            match = pattern.search(line)
            if match:
                return Crash(kind, match.group(0)[:200], number)
    return None


def read_console(path: Path, offset: int = 0) -> str:
    """The console file from byte ``offset``, bounded; '' when it does not exist yet."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(READ_LIMIT).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
