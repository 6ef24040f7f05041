# SPDX-License-Identifier: GPL-2.0-only
"""QMP from synchronous code: one background event loop, every call with a deadline, every message kept.

The protocol itself is the package ``qemu.qmp``.  A monitor may be a Unix socket, or one end of a socket pair when the
monitor sits behind a virtio-serial port (see ``harness/host/emulated/ports.py``).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, Final, TypeVar

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError
from qemu.qmp.message import Message

from harness.errors import InfraError

_T = TypeVar("_T")
_TRANSCRIPT_MESSAGE: Final = 4096  # characters kept of one message; replies of query-qmp-schema are megabytes


class QmpLost(InfraError):
    """The monitor is gone or does not answer: QEMU died, hangs, or was never there."""


class QmpRefused(InfraError):
    """QEMU answered a command with an error."""


class _Loop:
    """The event loop of this process, started on first use."""

    _lock = threading.Lock()
    _loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def run(cls, work: Coroutine[Any, Any, _T], timeout: float) -> _T:
        with cls._lock:
            if cls._loop is None:
                cls._loop = asyncio.new_event_loop()
                threading.Thread(target=cls._loop.run_forever, name="gmem-qmp", daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(work, cls._loop)
        try:
            return future.result(timeout)
        except FutureTimeout:
            future.cancel()
            raise


class _Client(QMPClient):
    """The package's client; keeps a transcript of what passes."""

    def __init__(self, name: str, transcript: Path | None) -> None:
        super().__init__(name)
        self._transcript = transcript
        self._began = time.monotonic()
        # The package counts from 0: what a monitor still owes to an earlier session would be taken for ours.
        self._execute_id = secrets.randbelow(1 << 30)

    def _keep(self, arrow: str, message: Message) -> None:
        if self._transcript is None:
            return
        text = json.dumps(dict(message), sort_keys=True)[:_TRANSCRIPT_MESSAGE]
        with self._transcript.open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic() - self._began:9.4f} {arrow} {text}\n")

    def _cb_inbound(self, msg: Message) -> Message:
        self._keep("<-", msg)
        return super()._cb_inbound(msg)

    def _cb_outbound(self, msg: Message) -> Message:
        self._keep("->", msg)
        return super()._cb_outbound(msg)


class QmpSession:
    """One monitor of one QEMU.

    ``fresh`` says that QEMU has not greeted anybody on this monitor yet; a monitor that came out of a saved testbed
    greeted before it was saved.  Raises :class:`QmpLost` when no session stands within ``timeout`` seconds, or when
    ``alive`` says that nobody is left who would answer.
    """

    def __init__(
        self,
        name: str,
        endpoint: str | socket.socket,
        transcript: Path | None,
        *,
        fresh: bool = True,
        timeout: float = 10.0,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self._alive = alive
        self._client = _Client(name, transcript)
        self._client.await_greeting = fresh
        self._client.negotiate = fresh
        self._events = EventListener()
        self._client.register_listener(self._events)
        try:
            _Loop.run(self._connect(endpoint, timeout), timeout + 1)
        except (QMPError, OSError, FutureTimeout, TimeoutError) as error:
            raise QmpLost(f"{name}: no QMP session within {timeout:g} s ({_cause(error)})") from error

    async def _connect(self, endpoint: str | socket.socket, timeout: float) -> None:
        """A Unix socket may not exist yet: QEMU makes it a few milliseconds after it was started."""
        end = time.monotonic() + timeout
        refusal: QMPError | None = None
        while True:
            try:
                await asyncio.wait_for(self._client.connect(endpoint), max(0.001, end - time.monotonic()))
                return
            except QMPError as error:
                refusal = error
            except TimeoutError as error:
                # An attempt that the deadline cut short says nothing; the one before it may know why.
                raise refusal or error from None
            if not isinstance(endpoint, str) or time.monotonic() >= end or not self._alive():
                raise refusal
            await asyncio.sleep(0.003)

    def execute(self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float = 10.0) -> Any:
        """Run one QMP command and return its result; raises :class:`QmpRefused` or :class:`QmpLost`."""
        try:
            return _Loop.run(self._client.execute(command, dict(arguments) if arguments else None), timeout)
        except ExecuteError as error:
            raise QmpRefused(f"{self.name}: QEMU refused {command}: {error}") from error
        except (QMPError, FutureTimeout, asyncio.CancelledError) as error:
            raise QmpLost(f"{self.name}: {command} was not answered within {timeout:g} s ({_cause(error)})") from error

    def events(self) -> list[dict[str, Any]]:
        """Events that arrived since the last call, oldest first."""

        async def take() -> list[dict[str, Any]]:
            return [dict(message) for message in self._events.clear()]

        return _Loop.run(take(), 5)

    def close(self) -> None:
        """End the session; QEMU keeps running.  Never raises: the peer may be long gone."""
        try:
            _Loop.run(self._client.disconnect(), 2)
        except (QMPError, OSError, EOFError, ValueError, FutureTimeout, asyncio.CancelledError):
            return  # ValueError: the peer's last words were no text


def _cause(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text.replace("\n", " ")
