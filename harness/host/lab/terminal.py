# SPDX-License-Identifier: GPL-2.0-only
"""Passes input and output between this process and a command or a shell at the other end of an SSH channel."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from types import FrameType

import paramiko

from harness.errors import InfraError
from harness.guest.ssh import SshSession

PIECE = 1 << 15
BEAT_SECONDS = 5.0
"""How often the testbed is asked whether it still answers while nothing arrives from the command."""
KILLED = 255
"""Exit status of a command that ended without one, because a signal killed it; as OpenSSH's ssh has it."""
_FULL_SECONDS = 0.02
"""Wait between two looks at a window that the other side has not opened again."""


class SessionLost(InfraError):
    """The SSH session ended before the command did."""


def run_there(
    session: SshSession, command: str | None, *, alive: Callable[[], object], timeout: float | None = None
) -> int:
    """Run a command there, or a shell when ``command`` is None; returns its exit status.

    Standard input, output and error are passed through.  A shell gets a terminal when standard input is one.
    ``alive`` is called every few seconds of silence and raises when the testbed is gone; with ``timeout``, a command
    that takes longer raises ``InfraError``, without it the command may take as long as its user wants.
    """
    channel = session.stream()
    terminal = command is None and os.isatty(0)
    try:
        with contextlib.ExitStack() as stack:
            if terminal:
                columns, rows = os.get_terminal_size(0)
                channel.get_pty(os.environ.get("TERM") or "vt100", columns, rows)
            if command is None:
                channel.invoke_shell()
            else:
                channel.exec_command(command)
            wake = stack.enter_context(_window_changes()) if terminal else -1
            if terminal:
                stack.enter_context(raw_terminal(0))
            return Pump(session.name, channel, wake=wake, alive=alive, timeout=timeout).run()
    except (paramiko.SSHException, EOFError) as error:
        raise SessionLost(f"{session.name}: the SSH session ended ({error or 'connection closed'})") from error
    finally:
        channel.close()


class Pump:
    """Moves bytes until the other side is done."""

    def __init__(
        self,
        name: str,
        channel: paramiko.Channel,
        *,
        wake: int,
        alive: Callable[[], object],
        timeout: float | None,
        fds: tuple[int, int, int] = (0, 1, 2),
    ) -> None:
        self._name = name
        self._stdin, self._stdout, self._stderr = fds
        self._channel = channel
        self._wake = wake
        self._alive = alive
        self._timeout = timeout
        self._began = self._heard = time.monotonic()
        self._unsent = b""
        self._input_open = True

    def run(self) -> int:
        """Returns the exit status."""
        channel = self._channel
        channel.setblocking(False)
        sys.stdout.flush()
        while True:
            # Before the look at what has arrived: the last output and the end may come between two looks.
            ended = channel.closed or (channel.eof_received and channel.exit_status_ready())
            moved = self._receive()
            if ended and not moved:
                return self._status()
            self._send()
            self._check()
            if not moved:
                self._wait()

    def _receive(self) -> bool:
        """Pass on what has arrived; whether anything had."""
        moved = False
        for ready, take, fd in (
            (self._channel.recv_ready, self._channel.recv, self._stdout),
            (self._channel.recv_stderr_ready, self._channel.recv_stderr, self._stderr),
        ):
            if ready():
                _write_all(fd, take(PIECE))
                moved = True
        if moved:
            self._heard = time.monotonic()
        return moved

    def _send(self) -> None:
        """Send what the window has room for; never blocks, so that output goes on while input is stuck."""
        while self._unsent and self._channel.send_ready():
            self._unsent = self._unsent[self._channel.send(self._unsent) :]
        if not self._unsent and not self._input_open and not self._channel.eof_sent:
            self._channel.shutdown_write()

    def _wait(self) -> None:
        wanted: list[int] = [self._channel.fileno()]
        if self._input_open and not self._unsent:
            wanted.append(self._stdin)
        if self._wake >= 0:
            wanted.append(self._wake)
        ready, _, _ = select.select(wanted, [], [], _FULL_SECONDS if self._unsent else 1.0)
        if self._wake in ready:
            os.read(self._wake, PIECE)
            columns, rows = os.get_terminal_size(self._stdin)
            self._channel.resize_pty(columns, rows)
        if self._stdin in ready:
            self._unsent = self._input()
            self._input_open = bool(self._unsent)

    def _input(self) -> bytes:
        try:
            return os.read(self._stdin, PIECE)
        except OSError:  # the terminal went away
            return b""

    def _check(self) -> None:
        now = time.monotonic()
        if self._timeout is not None and now - self._began > self._timeout:
            raise InfraError(f"{self._name}: the command did not end within {self._timeout:g} s")
        if now - self._heard > BEAT_SECONDS:
            self._alive()
            self._heard = time.monotonic()

    def _status(self) -> int:
        if self._channel.exit_status_ready() and self._channel.exit_status >= 0:
            return self._channel.exit_status
        transport = self._channel.get_transport()
        if not transport.is_active():
            raise SessionLost(f"{self._name}: the SSH session ended before the command did")
        return KILLED


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """The terminal passes every key on; as it was before at the end, however that comes."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _window_changes() -> Iterator[int]:
    """A descriptor that becomes readable when the size of the terminal changes."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def changed(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writer, b"w")

    before = signal.signal(signal.SIGWINCH, changed)
    try:
        yield reader
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(reader)
        os.close(writer)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
