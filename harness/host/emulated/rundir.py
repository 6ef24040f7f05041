# SPDX-License-Identifier: GPL-2.0-only
"""The private directory of one running testbed, and the janitor that gives everything back.

The janitor is a shell that waits for the end of its standard input.  The kernel closes that when the harness ends, for
whatever reason, kill -9 included; then the janitor kills the processes whose pid files lie in the directory and removes
the directory.  An orderly end takes the same path, so the path is exercised by every run.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from harness.errors import InfraError

# $1 is the directory.  A pid file is only believed when that process has the directory's name on its command line: the
# pid may have been given to somebody else since.
_JANITOR = """
cat >/dev/null
for file in "$1"/*.pid; do
    [ -r "$file" ] || continue
    pid=
    read -r pid < "$file"
    [ -n "$pid" ] || continue
    if tr '\\0' ' ' < "/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$1"; then
        kill -9 "$pid" 2>/dev/null
    fi
done
rm -rf -- "$1"
"""
_JANITOR_SECONDS = 20
_SOCKET_NAME = 107
"""Bytes of the longest path that a Unix socket can have (unix(7): sun_path, without its NUL)."""


class RunDir:
    """A 0700 directory for sockets, FIFOs and pid files; gone, with its processes, when this process is."""

    def __init__(self) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix="gmem-"))
        except OSError as error:
            raise InfraError(f"no directory for the testbed's sockets can be made ({error}); set TMPDIR") from error
        longest = self.path / "outer.qmp"
        if len(os.fsencode(longest)) > _SOCKET_NAME:
            self.path.rmdir()
            raise InfraError(f"{longest} is too long for the name of a socket; set TMPDIR to a shorter path")
        try:
            self._janitor = subprocess.Popen(
                ["sh", "-c", _JANITOR, "gmem-janitor", str(self.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C of the terminal is not for it
            )
        except OSError as error:
            self.path.rmdir()
            raise InfraError(f"cannot start a shell for cleaning up: {error.strerror}") from error

    def close(self) -> None:
        """Kill what still runs and remove the directory; waits for it."""
        if self._janitor.stdin and not self._janitor.stdin.closed:
            self._janitor.stdin.close()
        try:
            self._janitor.wait(_JANITOR_SECONDS)
        except subprocess.TimeoutExpired:
            self._janitor.kill()
            self._janitor.wait()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
