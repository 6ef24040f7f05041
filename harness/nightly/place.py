# SPDX-License-Identifier: GPL-2.0-only
"""The state folder: what lies where, and what its master and workers have to know."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import InfraError, UsageError
from harness.locks import FileLock, LockTimeout
from harness.nightly.matrix import Matrix, load_matrix

MARK: Final = "GMEM_NIGHTLY_STATE"
"""In the environment of every process that belongs to a state folder: its path."""
LOOPBACK: Final = "127.0.0.1"
LOCK_SECONDS: Final = 2.0
"""Somebody who looks who the owner is holds the lock for a moment, too."""


def default_state(environ: Mapping[str, str] | None = None) -> Path:
    """``gmem-harness/nightly`` in ``$XDG_STATE_HOME``, else in ``~/.local/state``."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_STATE_HOME", "")
    state = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return state / "gmem-harness" / "nightly"


class Settings(msgspec.Struct, frozen=True):
    """What is chosen when the master is started; it holds passwords and is readable by its owner only."""

    matrix: str
    web_port: int
    worker_port: int
    password: str
    """Of the workers, of changes that are sent, and of ``gmem nightly`` itself at the web server."""
    timers: bool
    """False for ``once``: neither the clock nor new commits start anything."""


class Running(msgspec.Struct, frozen=True):
    """The process that owns master and workers."""

    pid: int
    url: str
    since: str


class Owning(FileLock):
    """The owner's lock; that it is taken is a sentence of ours."""

    def __enter__(self) -> FileLock:
        try:
            return super().__enter__()
        except LockTimeout:
            raise UsageError(f"{self.path.parent} belongs to {self.holder()}: gmem nightly down ends it") from None


@dataclass(frozen=True)
class Place:
    """A state folder."""

    path: Path

    @property
    def master(self) -> Path:
        return self.path / "master"

    @property
    def log(self) -> Path:
        """What the owner says."""
        return self.path / "nightly.log"

    def worker(self, host: str) -> Path:
        return self.path / "workers" / host

    def cell(self, key: str) -> Path:
        """The newest result of a cell, and since when it is so."""
        return self.path / "cells" / f"{key}.json"

    def results(self, key: str) -> Path:
        """Folders of a cell's runs."""
        return self.path / "results" / key

    def bisection(self, key: str) -> Path:
        return self.path / "bisections" / key

    def mirror(self, kernel: str) -> Path:
        """A copy of a git tree that has an URL."""
        return self.path / "mirrors" / f"{kernel}.git"

    def image(self, host: str, kernel: str) -> Path:
        """A link to the kernel that a job on that host is about to boot: one name for every night.

        Its configuration is beside it, named as distributions do.
        """
        return self.path / "kernels" / host / f"vmlinuz-{kernel}"

    def lock(self, what: str) -> FileLock:
        """Held by the owner of master and workers."""
        return Owning(self.path / "lock", what=what, timeout=LOCK_SECONDS, waiting=lambda _: None)

    def history(self, matrix: Matrix) -> str:
        """As ``gmem history --db`` takes it."""
        return matrix.history or matrix.database or str(self.path / "history.sqlite")

    # -- settings

    def choose(self, matrix: Path, *, timers: bool) -> Settings:
        """Settings for a start: ports and password as before where that is possible; written down."""
        asked = load_matrix(matrix)
        known = self._known()
        settings = Settings(
            matrix=str(matrix.resolve()),
            web_port=asked.web.port or free_port(known.web_port if known else 0),
            worker_port=free_port(known.worker_port if known else 0),
            password=known.password if known else secrets.token_hex(16),
            timers=timers,
        )
        self._write("settings.json", settings)
        return settings

    def settings(self) -> Settings:
        known = self._known()
        if known is None:
            raise UsageError(f"{self.path} is no state folder of gmem nightly: gmem nightly up --config FILE makes one")
        return known

    def _known(self) -> Settings | None:
        try:
            return msgspec.json.decode((self.path / "settings.json").read_bytes(), type=Settings)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, OSError) as error:
            raise InfraError(f"{self.path / 'settings.json'} cannot be read: {error}") from error

    def set_running(self, running: Running | None) -> None:
        """Written when everything answers, removed when it is about to end."""
        if running is None:
            (self.path / "running.json").unlink(missing_ok=True)
        else:
            self._write("running.json", running)

    def running(self) -> Running | None:
        """What the owner wrote, if it lives."""
        try:
            found = msgspec.json.decode((self.path / "running.json").read_bytes(), type=Running)
        except (OSError, msgspec.DecodeError):
            return None
        return found if found.pid == self.owner() else None

    def owner(self) -> int | None:
        """The process that holds the lock: that of ``up``, ``serve`` or ``once``."""
        try:
            fd = os.open(self.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return self._holder()
        finally:
            os.close(fd)
        return None

    def _holder(self) -> int | None:
        """The process whose number stands in the lock; None while it is being written."""
        try:
            return int(json.loads((self.path / "lock").read_text())["pid"])
        except (OSError, ValueError, KeyError):
            return None

    def _write(self, name: str, what: msgspec.Struct) -> None:
        write_json(self.path / name, what)


def write_json(path: Path, what: msgspec.Struct) -> None:
    """Whole or not at all, readable by its owner only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(what, order="sorted"), indent=1) + b"\n")
        new.replace(path)
    except OSError as error:
        raise InfraError(f"{path} cannot be written: {error.strerror}") from error


def mark(state: Path) -> bytes:
    """How the mark stands in ``/proc/PID/environ``."""
    return f"{MARK}={state}".encode()


def free_port(wanted: int = 0) -> int:
    """A free TCP port of the loopback: ``wanted`` if it is free."""
    for port in (wanted, 0) if wanted else (0,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise InfraError("this machine has no free TCP port on its loopback")
