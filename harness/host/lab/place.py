# SPDX-License-Identifier: GPL-2.0-only
"""The folder ``ROOT/lab/NAME`` of a testbed that stays up: who may use it, and how its holder is reached."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InfraError, UsageError
from harness.locks import FileLock

DEFAULT_NAME = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_LOCK_SECONDS = 2.0
"""Long enough for everybody who only asks whether the lock is held."""


@dataclass(frozen=True)
class Place:
    """The folder of the testbed ``name`` below the cache ``root``; it may not exist."""

    root: Path
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"a testbed cannot be called {self.name!r}: use up to 40 letters, digits, dots, dashes and underscores"
            )

    @property
    def folder(self) -> Path:
        """Readable by its owner only: keys and sockets lie in it."""
        return self.root / "lab" / self.name

    @property
    def record(self) -> Path:
        """What is known of the testbed, see :class:`.record.LabRecord`."""
        return self.folder / "record.json"

    @property
    def state(self) -> Path:
        """Pids, addresses and SSH keys, see ``TestbedState``."""
        return self.folder / "testbed.json"

    @property
    def evidence(self) -> Path:
        """Consoles, QMP transcripts, QEMU's command lines."""
        return self.folder / "evidence"

    @property
    def evidence_before(self) -> Path:
        """The evidence of the testbed of this name that died before this one."""
        return self.folder / "evidence-before"

    @property
    def log(self) -> Path:
        """What the holder printed; empty unless it failed in a way nobody foresaw."""
        return self.folder / "holder.log"

    def make(self) -> None:
        """Make the folder; raises ``InfraError`` when that cannot be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as error:
            raise InfraError(f"the folder {self.folder} cannot be made: {error.strerror}") from error

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Make room for a new testbed; the evidence of the last one stays."""
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if path.is_dir() and path not in (self.evidence, self.evidence_before):
                    shutil.rmtree(path)
                elif not path.is_dir():
                    path.unlink()
        if self.evidence.exists():
            shutil.rmtree(self.evidence_before, ignore_errors=True)
            self.evidence.rename(self.evidence_before)

    # -- the lock that lives as long as the holder

    def lock(self) -> FileLock:
        """The holder's lock, to be used with ``with``."""
        return FileLock(
            self.folder / "holder.lock", what=f"testbed {self.name}", timeout=_LOCK_SECONDS, waiting=_wait_quietly
        )

    def held(self) -> bool:
        """Whether a holder is alive: the kernel gives its lock back when it ends, for whatever reason."""
        try:
            fd = os.open(self.folder / "holder.lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    # -- the socket

    def listen(self) -> socket.socket:
        """A listening socket in the folder."""
        listener = socket.socket(socket.AF_UNIX)
        try:
            with self._short_path() as path:
                Path(path).unlink(missing_ok=True)
                listener.bind(path)
            listener.listen(16)
        except OSError as error:
            listener.close()
            raise InfraError(f"no socket can be made in {self.folder}: {error.strerror}") from error
        return listener

    def connect(self, timeout: float) -> socket.socket:
        """A connection to the holder, with that timeout on everything; raises ``OSError``."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            with self._short_path() as path:
                connection.connect(path)
        except OSError:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _short_path(self) -> Iterator[str]:
        """A path of the socket that is short whatever the cache is called: unix(7) has room for 108 bytes."""
        fd = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}/socket"
        finally:
            os.close(fd)


def places(root: Path) -> list[Place]:
    """Every testbed of which there is a record, sorted by name."""
    found = sorted(path.parent.name for path in (root / "lab").glob("*/record.json"))
    return [Place(root, name) for name in found if _NAME.fullmatch(name)]


def _wait_quietly(line: str) -> None:
    """The lock is only ever contended by somebody who asks whether it is held."""
