# SPDX-License-Identifier: GPL-2.0-only
"""Input and output of a remote command: whole, in order, without a deadlock, and with the right exit status."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import paramiko
import pytest

from harness.errors import InfraError
from harness.host.lab import terminal
from harness.host.lab.terminal import KILLED, Pump, SessionLost, raw_terminal

SECONDS = 10.0


class FakeChannel:
    """The part of ``paramiko.Channel`` that a pump uses, in front of a function that acts as the remote command.

    The window for input is ``window`` bytes; it opens again as the command reads.
    """

    def __init__(self, command: Callable[[FakeChannel], int | None], window: int = 1 << 16) -> None:
        self.window = window
        self.closed = self.eof_received = self.eof_sent = False
        self.exit_status = -1
        self._ended = False
        self.active = True
        self.taken = b""
        self._out, self._err = bytearray(), bytearray()
        self._lock = threading.Condition()
        self._pipe, self._wake = os.pipe()
        os.set_blocking(self._pipe, False)
        self.sizes: list[tuple[int, int]] = []
        self._thread = threading.Thread(target=self._run, args=(command,), daemon=True)
        self._thread.start()

    # the remote side

    def _run(self, command: Callable[[FakeChannel], int | None]) -> None:
        status = command(self)
        with self._lock:
            self.exit_status = -1 if status is None else status
            self._ended = True
            self.eof_received = self.closed = True
        os.write(self._wake, b"x")

    def read(self, size: int) -> bytes:
        with self._lock:
            assert self._lock.wait_for(lambda: self.taken or self.eof_sent, SECONDS)
            data, self.taken = self.taken[:size], self.taken[size:]
            return data

    def write(self, data: bytes, *, error: bool = False) -> None:
        with self._lock:
            (self._err if error else self._out).extend(data)
        os.write(self._wake, b"x")
        while len(self._out) > self.window:  # the command blocks on a full pipe
            time.sleep(0.001)

    # our side

    def fileno(self) -> int:
        return self._pipe

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def recv_ready(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(self._pipe, 4096)
        with self._lock:
            return bool(self._out)

    def recv_stderr_ready(self) -> bool:
        with self._lock:
            return bool(self._err)

    def recv(self, size: int) -> bytes:
        return self._take(self._out, size)

    def recv_stderr(self, size: int) -> bytes:
        return self._take(self._err, size)

    def _take(self, buffer: bytearray, size: int) -> bytes:
        with self._lock:
            data = bytes(buffer[:size])
            del buffer[:size]
            return data

    def send_ready(self) -> bool:
        return not self.closed and len(self.taken) < self.window

    def send(self, data: bytes) -> int:
        with self._lock:
            piece = data[: self.window - len(self.taken)]
            self.taken += piece
            self._lock.notify_all()
            return len(piece)

    def shutdown_write(self) -> None:
        with self._lock:
            self.eof_sent = True
            self._lock.notify_all()

    def exit_status_ready(self) -> bool:
        return self._ended

    def resize_pty(self, columns: int, rows: int) -> None:
        self.sizes.append((columns, rows))

    def get_transport(self) -> Any:
        channel = self

        class Transport:
            def is_active(self) -> bool:
                return channel.active

        return Transport()


def pump(tmp_path: Path, channel: FakeChannel, given: bytes = b"", **options: Any) -> tuple[int, bytes, bytes]:
    """Run a pump on files; returns the exit status, standard output and standard error."""
    (tmp_path / "in").write_bytes(given)
    options.setdefault("alive", lambda: None)
    options.setdefault("timeout", SECONDS)
    paths = [tmp_path / name for name in ("in", "out", "err")]
    with paths[0].open("rb") as stdin, paths[1].open("wb") as out, paths[2].open("wb") as err:
        fds = (stdin.fileno(), out.fileno(), err.fileno())
        status = Pump("g0", cast("paramiko.Channel", channel), wake=-1, fds=fds, **options).run()
    return status, paths[1].read_bytes(), paths[2].read_bytes()


def test_output_errors_and_status(tmp_path: Path) -> None:
    def command(channel: FakeChannel) -> int:
        channel.write(b"to out")
        channel.write(b"to err", error=True)
        return 7

    assert pump(tmp_path, FakeChannel(command)) == (7, b"to out", b"to err")


def test_much_passes_both_ways_at_once(tmp_path: Path) -> None:
    def cat(channel: FakeChannel) -> int:
        while data := channel.read(1000):
            channel.write(data)
        return 0

    given = os.urandom(1 << 19)
    assert pump(tmp_path, FakeChannel(cat, window=3000), given)[:2] == (0, given)


def test_a_command_that_does_not_read_its_input(tmp_path: Path) -> None:
    def command(channel: FakeChannel) -> int:
        time.sleep(0.1)
        channel.write(b"done")
        return 0

    assert pump(tmp_path, FakeChannel(command, window=10), b"x" * 100_000)[:2] == (0, b"done")


class LateChannel(FakeChannel):
    """Output and end arrive together, right after somebody looked for output."""

    def shutdown_write(self) -> None:
        super().shutdown_write()
        self._thread.join(SECONDS)


def test_output_that_comes_with_the_end(tmp_path: Path) -> None:
    def command(channel: FakeChannel) -> int:
        channel.read(1)
        channel.write(b"late")
        return 0

    assert pump(tmp_path, LateChannel(command))[:2] == (0, b"late")


def test_killed_by_a_signal(tmp_path: Path) -> None:
    assert pump(tmp_path, FakeChannel(lambda channel: None))[0] == KILLED


def test_the_connection_is_lost(tmp_path: Path) -> None:
    def command(channel: FakeChannel) -> None:
        channel.write(b"half")
        channel.active = False

    with pytest.raises(SessionLost, match="g0: the SSH session ended before the command did"):
        pump(tmp_path, FakeChannel(command))
    assert (tmp_path / "out").read_bytes() == b"half"


def test_a_deadline(tmp_path: Path) -> None:
    gone = threading.Event()

    def command(channel: FakeChannel) -> int:
        gone.wait(SECONDS)
        return 0

    try:
        with pytest.raises(InfraError, match=r"g0: the command did not end within 0\.2 s"):
            pump(tmp_path, FakeChannel(command), timeout=0.2)
    finally:
        gone.set()


def test_a_silent_command_is_asked_for_its_testbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "BEAT_SECONDS", 0.05)
    asked: list[float] = []
    enough = threading.Event()

    def alive() -> None:
        asked.append(time.monotonic())
        if len(asked) == 2:
            raise InfraError("testbed default is not up any more")

    def command(channel: FakeChannel) -> int:
        enough.wait(SECONDS)
        return 0

    try:
        with pytest.raises(InfraError, match="not up any more"):
            pump(tmp_path, FakeChannel(command), alive=alive)
    finally:
        enough.set()
    assert len(asked) == 2


def test_the_terminal_is_as_it_was_after_an_error() -> None:
    ours, theirs = pty.openpty()
    try:
        before = termios.tcgetattr(theirs)

        def session() -> None:
            with raw_terminal(theirs):
                assert not termios.tcgetattr(theirs)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
                raise InfraError("gone")

        with pytest.raises(InfraError):
            session()
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_window_follows_the_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    done = threading.Event()
    reader, writer = os.pipe()
    channel = FakeChannel(lambda _: 0 if done.wait(SECONDS) else 1)
    try:
        termios.tcsetwinsize(theirs, (33, 77))
        os.write(writer, b"w")
        with (tmp_path / "out").open("wb") as out:
            fds = (theirs, out.fileno(), out.fileno())
            pumping = Pump("g0", cast("paramiko.Channel", channel), wake=reader, alive=list, timeout=SECONDS, fds=fds)
            thread = threading.Thread(target=pumping.run)
            thread.start()
            end = time.monotonic() + SECONDS
            while not channel.sizes and time.monotonic() < end:
                select.select([], [], [], 0.01)
            done.set()
            thread.join(SECONDS)
        assert channel.sizes == [(77, 33)]
    finally:
        for fd in (ours, theirs, reader, writer):
            os.close(fd)
