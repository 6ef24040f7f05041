# SPDX-License-Identifier: GPL-2.0-only
"""Runs one command of the build machine: output by lines, a deadline, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import InfraError

TAIL_LINES = 40


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    # Exit code; negative: the signal that ended it.
    code: int
    # The last lines of standard output and standard error together.
    tail: tuple[str, ...]
    # Wall time in seconds.
    seconds: float

    @property
    def text(self) -> str:
        """The tail as one text."""
        return "\n".join(self.tail)


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    line: Callable[[str], None] | None = None,
    log: IO[str] | None = None,
    pass_fds: Sequence[int] = (),
    tail_lines: int = TAIL_LINES,
) -> Finished:
    """Runs ``argv`` without a shell and without standard input; ``line`` sees every line as it comes.

    ``timeout`` in seconds.  At the deadline, and when an exception passes through (Ctrl-C), the whole process group
    is ended.  Raises :class:`InfraError` if the program does not exist or the deadline passes; a non-zero exit code is
    the caller's to judge.
    """
    started = time.monotonic()
    words = [str(word) for word in argv]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=None if env is None else dict(env),
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise InfraError(f"{error.filename} is not there: cannot run {words[0]}") from error
    tail: deque[str] = deque(maxlen=tail_lines)

    def take(text: str) -> None:
        tail.append(text)
        if log is not None:
            log.write(text + "\n")
        if line is not None:
            line(text)

    try:
        _follow(process, take, started + timeout)
        code = process.wait(max(1.0, started + timeout - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise InfraError(f"{Path(words[0]).name} did not finish within {timeout:.0f} s and was ended") from None
    finally:
        if process.poll() is None:
            _end(process)
        if process.stdout is not None:
            process.stdout.close()
    return Finished(code=code, tail=tuple(tail), seconds=time.monotonic() - started)


def _follow(process: subprocess.Popen[bytes], take: Callable[[str], None], deadline: float) -> None:
    """Hands over lines until end of file; raises ``TimeoutError`` at the deadline."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if not selector.select(left):
                continue
            data = os.read(fd, 65536)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for raw in lines:
                take(raw.decode(errors="replace").rstrip("\r"))
    if rest:
        take(rest.decode(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group politely, then for good."""
    for number in (signal.SIGTERM, signal.SIGKILL):  # the second also reaches what outlived its leader
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5.0)
