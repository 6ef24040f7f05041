# SPDX-License-Identifier: GPL-2.0-only
"""What a holder does when it is asked: JSON lines over its socket.

A request is an object with ``do``; a reply is an object, with ``error`` (one sentence) and ``code`` (the exit code of
its class) when the request failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import GmemError, InfraError, UsageError
from harness.host.emulated.reach import HOST
from harness.host.lab.held import Held

IDLE_SECONDS = 60.0
"""A connection on which nothing is asked for so long is closed."""
LINE_LIMIT = 1 << 16

Reply = dict[str, Any]


class Service:
    """Answers requests about one testbed; ``down`` is called when it shall end."""

    def __init__(self, held: Held, down: Callable[[], None]) -> None:
        self._held = held
        self._down = down
        self._verbs: dict[str, Callable[[Reply], Reply]] = {
            "down": self._end,
            "pulse": self._pulse,
            "save": self._save,
            "ssh": self._ssh,
            "status": self._status,
        }

    def serve(self, connection: socket.socket) -> None:
        """Answer one connection until its end."""
        connection.settimeout(IDLE_SECONDS)
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            while line := lines.readline(LINE_LIMIT):
                connection.sendall(json.dumps(self.answer(line), sort_keys=True).encode() + b"\n")

    def answer(self, line: bytes) -> Reply:
        """The reply to one request."""
        try:
            request = json.loads(line)
            verb = self._verbs[request["do"]]
        except (ValueError, KeyError, TypeError):
            known = ", ".join(self._verbs)
            return _failed(UsageError(f"the holder does not know the request {line[:80]!r}; it knows {known}"))
        try:
            return verb(request)
        except GmemError as error:
            return _failed(error)
        except OSError as error:
            return _failed(InfraError(f"{error.filename or 'the holder'}: {error.strerror}"))
        except Exception as error:  # noqa: BLE001 - a defect in one request is no reason to give the testbed up
            traceback.print_exc()
            return _failed(InfraError(f"this is a defect of gmem itself ({error!r}); please report the holder's log"))

    def _status(self, request: Reply) -> Reply:
        return {"health": self._held.health()}

    def _pulse(self, request: Reply) -> Reply:
        self._held.pulse()
        return {}

    def _ssh(self, request: Reply) -> Reply:
        return {"port": self._held.ssh_port(str(request.get("machine", HOST)))}

    def _end(self, request: Reply) -> Reply:
        self._down()
        return {"ends": True}

    def _save(self, request: Reply) -> Reply:
        folder = Path(str(request.get("folder", "")))
        began = time.monotonic()
        fresh = make_empty(folder)
        try:
            self._held.save(folder)
        except BaseException:
            _clear(folder, fresh)
            raise
        used = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
        return {"seconds": time.monotonic() - began, "bytes": used}


def make_empty(folder: Path) -> bool:
    """Make ``folder``, or check that it is empty; returns whether it was made.  Raises ``UsageError``."""
    if not folder.is_absolute():
        raise UsageError(f"a testbed is saved into a folder with an absolute path, not into {str(folder)!r}")
    try:
        folder.mkdir(parents=True, mode=0o700)
        return True
    except FileExistsError:
        pass
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error.strerror}") from error
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    if next(folder.iterdir(), None) is not None:
        raise UsageError(f"{folder} is not empty: name a folder that is, or that does not exist yet")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"the folder {folder} cannot be written to")
    return False


def _clear(folder: Path, fresh: bool) -> None:
    """Half a saved testbed is worth nothing."""
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        path.unlink(missing_ok=True)


def _failed(error: GmemError) -> Reply:
    return {"code": error.exit_code, "error": str(error)}
