# SPDX-License-Identifier: GPL-2.0-only
"""Ports as FIFOs, and the bridge that shows one as a socket: both ways, every end, and no thread left behind."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.host.emulated.ports import SocketBridge, open_fifos

NAME = "gmem.g0.qmp"


class Qemu:
    """The other side of a port, as QEMU's pipe character device holds it: both FIFOs open in both directions."""

    def __init__(self, folder: Path) -> None:
        self.reader = os.open(folder / f"{NAME}.in", os.O_RDWR)
        self.writer = os.open(folder / f"{NAME}.out", os.O_RDWR)

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += os.read(self.reader, size - len(data))
        return data

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.writer, data) :]

    def end(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for end in ("in", "out"):
        os.mkfifo(tmp_path / f"{NAME}.{end}")
    return tmp_path


@pytest.fixture
def qemu(folder: Path) -> Qemu:
    return Qemu(folder)


@pytest.fixture(autouse=True)
def nothing_left(folder: Path) -> Iterator[None]:
    """Every test gives its descriptors and threads back, except those of the fake QEMU."""
    before = threading.active_count()
    yield
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before
    for fd in held(folder):
        os.close(fd)


def held(folder: Path) -> list[int]:
    """Descriptors of this process that lie in ``folder``."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - descriptors, not files
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith(str(folder)):  # noqa: PTH115
                found.append(int(name))
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


def receive(sock: socket.socket, size: int) -> bytes:
    sock.settimeout(10)
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"the socket ended after {len(data)} of {size} bytes"
        data += piece
    return data


class TestFifos:
    def test_nobody_is_waited_for(self, folder: Path) -> None:
        reader, writer = open_fifos(folder, NAME)
        assert os.read(reader, 1) == b""  # no QEMU yet
        assert not os.get_blocking(reader)
        assert not os.get_blocking(writer)
        for fd in (reader, writer):
            assert not os.get_inheritable(fd)
            os.close(fd)

    def test_what_is_written_before_qemu_comes_is_kept(self, folder: Path) -> None:
        reader, writer = open_fifos(folder, NAME)
        os.write(writer, b"early")
        qemu = Qemu(folder)
        assert qemu.read(5) == b"early"
        qemu.write(b"answer")
        assert os.read(reader, 100) == b"answer"
        os.close(reader)
        os.close(writer)

    def test_a_missing_half_leaves_nothing_open(self, folder: Path) -> None:
        (folder / f"{NAME}.in").unlink()
        with pytest.raises(FileNotFoundError):
            open_fifos(folder, NAME)
        assert held(folder) == []


class TestBridge:
    def test_both_ways(self, folder: Path, qemu: Qemu) -> None:
        with SocketBridge(folder, NAME) as sock:
            sock.sendall(b"request")
            assert qemu.read(7) == b"request"
            qemu.write(b"reply")
            assert receive(sock, 5) == b"reply"

    def test_more_than_a_fifo_holds_both_ways_at_once(self, folder: Path, qemu: Qemu) -> None:
        there, back = os.urandom(1_000_000), os.urandom(1_000_000)
        got: list[bytes] = []
        with SocketBridge(folder, NAME) as sock:
            threads = [
                threading.Thread(target=lambda: got.append(qemu.read(len(there)))),
                threading.Thread(target=lambda: sock.sendall(there)),
                threading.Thread(target=lambda: qemu.write(back)),
            ]
            for thread in threads:
                thread.start()
            assert receive(sock, len(back)) == back
            for thread in threads:
                thread.join(10)
        assert got == [there]

    def test_a_fifo_that_takes_a_part(self, folder: Path, qemu: Qemu) -> None:
        first, second = os.urandom(40_000), os.urandom(40_000)  # a FIFO holds 65,536 bytes
        with SocketBridge(folder, NAME) as sock:
            sock.sendall(first)
            end = time.monotonic() + 10
            while struct.unpack("i", fcntl.ioctl(qemu.reader, termios.FIONREAD, bytes(4)))[0] < len(first):
                assert time.monotonic() < end
                time.sleep(0.001)
            sock.sendall(second)
            time.sleep(0.05)
            qemu.write(b"and back")
            assert qemu.read(len(first) + len(second)) == first + second
            assert receive(sock, 8) == b"and back"

    def test_one_bridge_after_another(self, folder: Path, qemu: Qemu) -> None:
        for number in range(5):
            with SocketBridge(folder, NAME) as sock:
                sock.sendall(b"%d" % number)
                assert qemu.read(1) == b"%d" % number
                qemu.write(b"%d" % number)
                assert receive(sock, 1) == b"%d" % number

    def test_the_end_of_qemu_is_the_end_of_the_socket(self, folder: Path, qemu: Qemu) -> None:
        with SocketBridge(folder, NAME) as sock:
            qemu.write(b"last words")
            assert receive(sock, 10) == b"last words"
            qemu.end()
            sock.settimeout(10)
            assert sock.recv(1) == b""

    def test_the_end_of_our_side(self, folder: Path, qemu: Qemu) -> None:
        bridge = SocketBridge(folder, NAME)
        bridge.socket.sendall(b"bye")
        bridge.socket.shutdown(socket.SHUT_WR)
        assert qemu.read(3) == b"bye"
        bridge.close()
        with SocketBridge(folder, NAME) as sock:  # QEMU noticed nothing
            qemu.write(b"still here")
            assert receive(sock, 10) == b"still here"

    def test_closing_does_not_wait_for_a_qemu_that_does_not_read(self, folder: Path, qemu: Qemu) -> None:
        bridge = SocketBridge(folder, NAME)
        bridge.socket.setblocking(False)
        self.fill(bridge.socket)
        began = time.monotonic()
        bridge.close()
        assert time.monotonic() - began < 2

    def test_closing_does_not_wait_for_a_reader_of_ours(self, folder: Path, qemu: Qemu) -> None:
        bridge = SocketBridge(folder, NAME)
        os.set_blocking(qemu.writer, False)
        end = time.monotonic() + 10
        quiet = 0
        while quiet < 20 and time.monotonic() < end:
            try:
                os.write(qemu.writer, b"x" * 65536)
                quiet = 0
            except BlockingIOError:
                quiet += 1
                time.sleep(0.005)
        began = time.monotonic()
        bridge.close()
        assert time.monotonic() - began < 2

    @staticmethod
    def fill(sock: socket.socket) -> None:
        quiet = 0
        while quiet < 20:
            try:
                sock.send(b"x" * 65536)
                quiet = 0
            except BlockingIOError:
                quiet += 1
                time.sleep(0.005)
