# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's log of a host from a cursor on: no line twice, and none lost without saying so.

``/dev/kmsg`` numbers its records, and a reader begins with the oldest there is (kernel/printk/printk.c,
``devkmsg_open``).  A reader at the end would wait for more, so a mark is written first, as a debug message, and reading
stops there.  Where the device cannot be used, ``dmesg`` is read and the last line known is looked for.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Final

from harness.guest.console import Crash, find_crash
from harness.host.knobs.setting import KnobError
from harness.host.reach import COMMAND_SECONDS, Reach, check

READ_LIMIT: Final = 4 << 20
"""Bytes of one reading; what is beyond it comes with the next."""
MARK: Final = "gmem-harness: mark "
_TRIES: Final = 3
_RECORD = re.compile(r"(\d+),(\d+),(\d+),[^;]*;(.*)")
# Two marks, for sed reads a line ahead, and would wait for it.
# A record per read(), of at most 2 KiB (PRINTK_MESSAGE_MAX): sed reads 4 KiB at a time.  Lines that begin with a space
# belong to the record before (device names).  Reading fails with EPIPE when the oldest record is overwritten meanwhile.
_SCRIPT: Final = r"""
{ printf '<7>%s\n' "$3" > "$1" && printf '<7>%s, end\n' "$3" > "$1"; } 2>/dev/null || exit 95
sed "/;$3\$/q" "$1" 2>/dev/null | awk -F '[,;]' -v first="$2" '/^[0-9]/ && $2 + 0 >= first + 0' | head -c "$4"
"""


@dataclass(frozen=True)
class Cursor:
    """Where a reading goes on: the record ``sequence`` of boot ``boot``, or behind ``last`` in dmesg's output."""

    sequence: int = 0
    last: str = ""


@dataclass(frozen=True)
class LogPart:
    """Lines as ``[seconds] text``; ``lost`` records were overwritten before they could be read."""

    lines: tuple[str, ...]
    cursor: Cursor
    lost: int = 0
    more: bool = False
    """The bound was reached: the rest comes with the next reading."""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(f"{line}\n" for line in self.lines)

    @property
    def crash(self) -> Crash | None:
        """The first sign of a crash."""
        return find_crash(self.text)

    @property
    def notice(self) -> str:
        """A sentence about what is missing; '' when nothing is."""
        if self.lost < 0:
            return "the kernel's log was emptied or overwritten: how many lines are lost is not known"
        return f"the kernel's log overwrote {self.lost} records before they were read" if self.lost else ""


def end_of_log(reach: Reach, *, device: str = "/dev/kmsg") -> Cursor:
    """Where the log ends now."""
    part = read_log(reach, Cursor(), device=device)
    while part.more:
        part = read_log(reach, part.cursor, device=device)
    return part.cursor


def read_log(reach: Reach, cursor: Cursor, *, device: str = "/dev/kmsg", timeout: float = COMMAND_SECONDS) -> LogPart:
    """What was logged since ``cursor``.  Raises ``KnobError`` when neither /dev/kmsg nor dmesg can be read."""
    for _ in range(_TRIES):
        mark = f"{MARK}{secrets.token_hex(6)}"
        words = ["sh", "-c", _SCRIPT, "sh", device, str(cursor.sequence), mark, str(READ_LIMIT)]
        done = reach.run(words, timeout=timeout)
        if done.code == 95:
            return _dmesg(reach, cursor, timeout)
        part = parse_kmsg(done.text, cursor, mark, full=len(done.output) >= READ_LIMIT)
        if part is not None:
            return part
    raise KnobError(f"{reach.name}: the kernel logs faster than {device} can be read")


def parse_kmsg(text: str, cursor: Cursor, mark: str, *, full: bool = False) -> LogPart | None:
    """Records from ``cursor`` to ``mark``; None when the mark is missing although all was read.

    The marks of this harness are no news, and left out.
    """
    lines: list[str] = []
    expected, lost, ended = cursor.sequence, 0, False
    whole = text.split("\n")[:-1]  # a last one without its newline was cut off
    for record in whole:
        match = _RECORD.match(record)
        if match is None:
            continue
        sequence, seconds, said = int(match[2]), int(match[3]) / 1e6, match[4]
        lost += sequence - expected if expected else 0
        expected = sequence + 1
        if said == mark:
            ended = True
            break
        if not said.startswith(MARK):
            lines.append(f"[{seconds:12.6f}] {said}")
    if not ended and not full:
        return None
    return LogPart(tuple(lines), Cursor(sequence=expected), lost, more=not ended)


def _dmesg(reach: Reach, cursor: Cursor, timeout: float) -> LogPart:
    text = check(reach, ["dmesg"], timeout=timeout)[-READ_LIMIT:]
    return parse_dmesg(text, cursor)


def parse_dmesg(text: str, cursor: Cursor) -> LogPart:
    """What follows the last known line; everything, with ``lost`` -1, when that line is not there any more."""
    lines = text.splitlines()
    now = Cursor(last=lines[-1] if lines else cursor.last)
    if not cursor.last:
        return LogPart(tuple(lines), now)
    for index in range(len(lines) - 1, -1, -1):
        if lines[index] == cursor.last:
            return LogPart(tuple(lines[index + 1 :]), now)
    return LogPart(tuple(lines), now, lost=-1)
