# SPDX-License-Identifier: GPL-2.0-only
"""The virtio-serial ports of the emulated host, and how to reach them from outside.

Each two-way port is a pair of FIFOs that QEMU's ``pipe`` character device keeps open in both directions: nobody inside
ever sees a disconnect, whoever comes and goes outside.  So a port works in a restored testbed as it did before, and a
QEMU *inside* can use a port as its own character device without a relay between.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType


@dataclass(frozen=True)
class Port:
    """One virtio-serial port: its name inside, and what it is outside (a FIFO pair, or a file it appends to)."""

    name: str
    file: str = ""
    """Name of a file in the evidence folder; empty for a two-way port."""


def open_fifos(folder: Path, name: str) -> tuple[int, int]:
    """Descriptors (read, write) of the port ``name``; both non-blocking, owned by the caller."""
    reader = os.open(folder / f"{name}.out", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        writer = os.open(folder / f"{name}.in", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        os.close(reader)
        raise
    return reader, writer


class SocketBridge:
    """Presents a port as a socket, for code that can only talk to sockets; ``with`` gives the socket."""

    def __init__(self, folder: Path, name: str) -> None:
        self._reader, self._writer = open_fifos(folder, name)
        self.socket, self._ours = socket.socketpair()
        self._ours.setblocking(False)  # a side that does not read must not keep close() waiting
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._pump, name=f"bridge-{name}", daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        poll = select.poll()
        for fd in (self._reader, self._ours.fileno(), self._stop_read):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._stop_read:
                    return
                try:
                    data = os.read(fd, 65536)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:  # QEMU ended, or our side closed its socket
                    with contextlib.suppress(OSError):
                        self._ours.shutdown(socket.SHUT_RDWR)
                    return
                if not self._forward(self._writer if fd == self._ours.fileno() else self._ours.fileno(), data):
                    return

    def _forward(self, fd: int, data: bytes) -> bool:
        """Write all of it; False when that was stopped by :meth:`close`."""
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                wait = select.poll()
                wait.register(self._stop_read, select.POLLIN)
                wait.register(fd, select.POLLOUT)
                if any(ready == self._stop_read for ready, _ in wait.poll()):
                    return False
            except OSError:
                return True  # that side is gone; the pump finds out by itself
        return True

    def close(self) -> None:
        """Stop and give every descriptor back."""
        os.write(self._stop_write, b"x")
        self._thread.join(5)
        self._ours.close()
        self.socket.close()
        for fd in (self._reader, self._writer, self._stop_read, self._stop_write):
            os.close(fd)

    def __enter__(self) -> socket.socket:
        return self.socket

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
