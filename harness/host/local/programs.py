# SPDX-License-Identifier: GPL-2.0-only
"""Programs that run on this machine: built once and kept in the cache, and ended with whoever started them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.cache import ContentCache, content_key
from harness.errors import InfraError
from harness.host.frames import FrameChannel
from harness.native.build import HERE, PROGRAMS, build_program

END_SECONDS = 10.0
"""Deadline for a program to end after the end of its input; the probe takes a millisecond, gmem-bare some twenty."""


def program(cache: ContentCache, name: str) -> Path:
    """The program ``name`` of ``harness.native.build``, from the cache or built now."""
    folders = [HERE / folder for folder in PROGRAMS[name].folders]
    sources = sorted(path for folder in folders for path in folder.glob("*.[ch]"))
    key = content_key("native", name, HERE / "build.py", *sources)

    def build(folder: Path) -> None:
        build_program(name, folder)

    return cache.entry("native", key, build, what=PROGRAMS[name].file) / PROGRAMS[name].file


class Served:
    """A program that answers frames on its standard input and output, and that ends with its input."""

    def __init__(self, command: Sequence[str], *, peer: str, transcript: Path | None = None) -> None:
        """Raises ``InfraError`` when it cannot be started."""
        self.peer = peer
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C of the terminal is not for it
            )
        except OSError as error:
            raise InfraError(f"{peer} cannot be started: {error.strerror}") from error
        assert self.process.stdin
        assert self.process.stdout
        fds = os.dup(self.process.stdout.fileno()), os.dup(self.process.stdin.fileno())
        self.channel = FrameChannel(*fds, transcript, peer=peer)

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def close(self) -> None:
        """End its input and wait for its end; kills it after ``END_SECONDS``."""
        self.channel.close()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
