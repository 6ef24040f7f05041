# SPDX-License-Identifier: GPL-2.0-only
"""Which processes belong to a state folder: each has its mark in the environment, however it was started.

The mark is inherited, so that nothing that a job starts can get lost: QEMU, compilers, and what watches over them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import InfraError
from harness.nightly.place import mark
from harness.report.text import one_line

_LOOK_SECONDS: Final = 0.2
_END_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Process:
    """A process that is there."""

    pid: int
    command: str


def marked(state: Path) -> list[Process]:
    """Every process of that state folder but this one and its parents."""
    mine, wanted, found = _parents(), mark(state), []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in mine:
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or is somebody else's
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if words:  # a zombie has none
                    found.append(Process(int(folder.name), one_line(words, 120)))
    return sorted(found, key=lambda process: process.pid)


def wait_for_none(state: Path, seconds: float) -> list[Process]:
    """Those that are still there after so many seconds; most end by themselves when their parent does."""
    end = time.monotonic() + seconds
    while (found := marked(state)) and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
    return found


def end_all(state: Path, seconds: float) -> int:
    """Waits, then ends what is left; returns how many had to be ended.  Raises :class:`InfraError` for what stays."""
    left = wait_for_none(state, seconds)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in marked(state):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        if not wait_for_none(state, _END_SECONDS):
            return len(left)
    stays = marked(state)
    raise InfraError(f"{len(stays)} processes do not end, first {stays[0].pid}: {stays[0].command}")


def _parents() -> set[int]:
    """This process and those above it."""
    found, pid = set(), os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(text.rpartition(")")[2].split()[1])
    return found
