# SPDX-License-Identifier: GPL-2.0-only
"""One exclusive lock on a file, with a deadline and the name of its holder.

``flock(2)`` is the lock, so that it ends with the processes that hold its file open, however they end.  A child that
must not be overtaken (``make`` after a ``kill -9`` of its parent) is given the lock's descriptor with ``pass_fds``:
the lock is then held until the child is gone too.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from harness.errors import InfraError

POLL_SECONDS = 0.05


class LockTimeout(InfraError):
    """Somebody else kept the lock for longer than the deadline allows."""


class FileLock:
    """Exclusive lock on ``path`` for the work ``what``, to be used with ``with``.

    ``timeout`` is in seconds.  ``waiting`` is called once, with one sentence, when the lock is not free at once.
    Entering raises :class:`LockTimeout` (who holds it, since when) or :class:`InfraError` (the file cannot be made).
    """

    def __init__(
        self, path: Path, *, what: str, timeout: float = 3600.0, waiting: Callable[[str], None] | None = None
    ) -> None:
        self.path = path
        self.what = what
        self.timeout = timeout
        self._waiting = waiting
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """The descriptor to hand to a child that must keep the lock alive."""
        assert self._fd is not None, "the lock is not held"
        return self._fd

    def holder(self) -> str:
        """Who holds the lock, as part of a sentence; best effort, the file may be empty or half written."""
        try:
            record = json.loads(self.path.read_text())
            return f"process {record['pid']} ({record['what']}, since {record['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "a process that has not written its name"

    def __enter__(self) -> FileLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InfraError(f"the lock file {self.path} cannot be opened: {error.strerror}") from error
        try:
            self._acquire(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        record = {"pid": os.getpid(), "since": time.strftime("%H:%M:%S"), "what": self.what}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(record, sort_keys=True).encode(), 0)
        return self

    def _acquire(self, fd: int) -> None:
        deadline = time.monotonic() + self.timeout
        told = False
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                    raise InfraError(f"{self.path} cannot be locked: {error.strerror}") from error
            if time.monotonic() >= deadline:
                raise LockTimeout(
                    f"waited {self.timeout:.0f} s for {self.path}, held by {self.holder()}: "
                    f"wait for that process or end it, then run again"
                )
            if not told:
                told = True
                (self._waiting or _print_line)(f"waiting for {self.holder()} to finish")
            time.sleep(POLL_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
