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

# In this order: the line of a lockup says "BUG:" too.  Each pattern is anchored where the kernel's own text begins, for
# what a program prints ("DEBUG: ...", a general protection fault of its own) is no crash of the kernel.  The gaps are
# bounded, so that a hostile line costs no more than an honest one.
_TITLES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("panic", re.compile(r"\bKernel panic - not syncing: .*")),
    (
        "lockup",
        re.compile(
            r"\b[Ww]atchdog: .{0,60}(lockup|LOCKUP).*"  # kernel/watchdog.c
            r"|\bBUG: workqueue lockup.*"  # kernel/workqueue.c
            r"|\bINFO: rcu\w{0,20} (self-)?detected .{0,20}stall.*"  # kernel/rcu/tree_stall.h, tree_exp.h, tasks.h
            r"|\bINFO: task .{1,60} blocked.{0,20} for more than .*"  # kernel/hung_task.c
        ),
    ),
    ("BUG", re.compile(r"\bkernel BUG at .*|\bBUG: .*|^UBSAN: .*")),
    (
        "oops",
        # arch/x86/kernel/dumpstack.c prints "Oops: WHAT: 0000 [#1] ...", before Linux 6.10 without "Oops: "
        re.compile(r"\bOops: .*|^unable to handle (kernel|page).*|^\w.{1,200}: [0-9a-f]{4} \[#\d+\].*"),
    ),
    (
        "WARN",
        # __warn() in kernel/panic.c, also as it was before Linux 6.18 with "CPU: 0 PID: 1" in front, and lockdep's own
        re.compile(
            r"\bWARNING: (CPU: \d.*|.{0,200}\bat (\S{1,200}:\d+|[\w.]{1,200}\+0x[0-9a-f]+).*)"
            r"|\brefcount_t: .*"
            r"|\bWARNING: (possible|suspicious|inconsistent|bad|held|lock|Nested) .*"
            r"|\bWARNING: .{0,60}( still has|-unsafe) lock.*"
        ),
    ),
)
_HINT = re.compile(
    r"panic|BUG|Oops|UBSAN|WARNING|refcount_t|lockup|LOCKUP|INFO: (?:rcu|task)|unable to handle|: [0-9a-f]{4} \[#"
)
"""What a line must hold to be worth a closer look: consoles are searched after every step."""
_PREFIX = re.compile(r"^(\[ *\d+\.\d+\])?(\[ *[CT]\d+\])? ?")
_CONTROL = re.compile(
    r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]"  # sequences first: without its escape the rest would look like text
    r"|\x1b[\]PX^_][^\x07\x1b\n]{0,256}(?:\x07|\x1b\\)"
    r"|\x1b[ -/]{0,8}[0-OQ-WYZ\\`-~]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_TITLE_LIMIT = 200


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
    text = clean(text)
    number, begin, end = 1, 0, -1
    for hint in _HINT.finditer(text):
        if hint.start() < end:
            continue  # in a line that was looked at already
        last, begin = begin, text.rfind("\n", 0, hint.start()) + 1
        number += text.count("\n", last, begin)
        newline = text.find("\n", begin)
        end = newline if newline >= 0 else len(text)
        line = _PREFIX.sub("", text[begin:end])
        for kind, pattern in _TITLES:
            match = pattern.search(line)
            if match:
                return Crash(kind, match.group(0)[:_TITLE_LIMIT], number)
    return None


def read_console(path: Path, offset: int = 0) -> str:
    """The console file from byte ``offset``, bounded; '' when it does not exist yet."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(READ_LIMIT).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
