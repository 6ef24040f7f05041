# SPDX-License-Identifier: GPL-2.0-only
"""The link to ``gmem-relay`` on a host under test: many byte streams over one pipe.

A stream ends here in a socket, so that what speaks over ports of an emulated host (frames, QMP) speaks over it too, or
in a file.  One thread moves the bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Final

from harness.errors import InfraError
from harness.host.frames import HEADER, MAGIC, MAX_PAYLOAD, RemoteError, encode_frame, parse_fields
from harness.host.reach import Reach

LINK_SECONDS: Final = 20.0
_KEPT_BYTES: Final = 1 << 22
"""Bytes of a stream that wait for somebody who reads it; older ones go."""
_STREAMS: Final = 40  # harness/native/relay/relay.h


class LinkLost(InfraError):
    """The relay or the connection to its host is gone, or does not answer."""


@dataclass
class _Stream:
    """One stream, on this side."""

    name: str
    number: int
    sink: Callable[[bytes], None] | None = None
    """Takes what arrives, in place of a socket."""
    ours: socket.socket | None = None
    """Our end of the socket pair of whoever uses it now."""
    waiting: bytearray = field(default_factory=bytearray)
    """What arrived, and was not taken yet."""
    ended: bool = False


class RelayLink:
    """One running relay; ``with`` gives it back with everything that it started."""

    def __init__(self, reach: Reach, program: str) -> None:
        """Raises ``LinkLost`` when the relay does not answer."""
        self.name = reach.name
        self._process = reach.start([program])
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._replies: dict[int, Future[tuple[str, bytes]]] = {}
        self._streams: dict[int, _Stream] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._data = bytearray()
        self._unsent = bytearray()
        self._lost = ""
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._out, self._in = self._process.stdout.fileno(), self._process.stdin.fileno()
        for fd in (self._out, self._in):  # both directions at once: the relay may be writing while we are
            os.set_blocking(fd, False)
        self._selector.register(self._out, selectors.EVENT_READ, self._receive)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._woken)
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name=f"gmem-link-{self.name}", daemon=True)
        self._thread.start()
        try:
            self.request("hello nonce=1")
        except InfraError:
            self.close()
            raise

    # -- requests

    @property
    def alive(self) -> bool:
        """Whether the relay can be asked."""
        return not self._lost and self._process.poll() is None

    def request(self, line: str, blob: bytes = b"", *, timeout: float = LINK_SECONDS) -> dict[str, str]:
        """One request to the relay itself; raises ``LinkLost``, or ``RemoteError`` when it is refused."""
        future: Future[tuple[str, bytes]] = Future()
        number = next(self._ids)
        self._replies[number] = future
        self._send(number, line.encode() + (b"\n" + blob if blob else b""))
        try:
            words, _ = future.result(timeout)
        except FutureTimeout as error:
            raise LinkLost(f"the relay on {self.name} did not answer {line!r} within {timeout:g} s") from error
        finally:
            self._replies.pop(number, None)
        word, _, rest = words.partition(" ")
        fields = parse_fields(rest)
        if word != "ok":
            raise RemoteError(
                f"the relay on {self.name}", line, fields.get("code", "?"), fields.get("text", "no reason given")
            )
        return fields

    def _send(self, number: int, payload: bytes) -> None:
        if self._lost:
            raise LinkLost(self._lost)
        with self._lock:
            self._unsent += encode_frame(number, payload)
        self._wake()

    def _transmit(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            del self._unsent[: os.write(self._in, self._unsent)]

    # -- streams

    def program(self, name: str, words: list[str]) -> int:
        """Start a program there whose standard input and output are the stream ``name``; returns its number."""
        stream = self._new(name)
        self.request(f"start stream={stream.number}", b"".join(word.encode() + b"\0" for word in words))
        return stream.number

    def fifos(
        self, name: str, *, reads: str = "", writes: str = "", sink: Callable[[bytes], None] | None = None
    ) -> int:
        """FIFOs there: what is written into ``reads`` arrives in the stream, and the other way round; its number.

        With ``sink`` that gets it.
        """
        stream = self._new(name, sink)
        words = "".join(f" {key}={path}" for key, path in (("from", reads), ("to", writes)) if path)
        self.request(f"fifo stream={stream.number}{words}")
        return stream.number

    def kernel_log(self, sink: Callable[[bytes], None]) -> int:
        """The host's kernel log from now on, in the records of /dev/kmsg."""
        stream = self._new("kernel log", sink)
        self.request(f"kmsg stream={stream.number}")
        return stream.number

    def _new(self, name: str, sink: Callable[[bytes], None] | None = None) -> _Stream:
        number = next(number for number in range(_STREAMS + 1) if number not in self._streams)
        if number == _STREAMS:
            raise InfraError(f"the relay on {self.name} carries {_STREAMS} streams, one more is needed for {name}")
        self._streams[number] = _Stream(name, number, sink)
        return self._streams[number]

    def drop(self, number: int) -> None:
        """End a stream."""
        stream = self._streams.pop(number, None)
        if stream is not None:
            self.request(f"close stream={number}")
            if stream.ours is not None:
                stream.ours.shutdown(socket.SHUT_RDWR)
        self._wake()

    def attach(self, number: int) -> socket.socket:
        """A socket that is the stream, from now on; whoever had it before reads its end.  The caller closes it."""
        theirs, ours = socket.socketpair()
        ours.setblocking(False)
        stream = self._streams[number]
        with self._lock:
            before, stream.ours = stream.ours, ours
        if before is not None:
            with contextlib.suppress(OSError):
                before.shutdown(socket.SHUT_RDWR)
        self._wake()
        return theirs

    def forget(self, number: int) -> None:
        """Drop what arrived on a stream and was not read."""
        self._streams[number].waiting.clear()

    # -- the thread

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"w")

    def _woken(self) -> None:
        os.read(self._wake_read, 4096)

    def _loop(self) -> None:
        try:
            while not self._closing and not self._lost:
                self._watch_sockets()
                for key, _ in self._selector.select(1.0):
                    key.data()
        except OSError as error:
            self._fail(f"the link to {self.name} broke: {error.strerror}")
        finally:
            self._fail(self._lost or f"the link to {self.name} is closed")

    def _watch_sockets(self) -> None:
        """Each attached socket is watched for what it wants of us, and the relay while there is something for it."""
        if bool(self._unsent) != (self._in in self._selector.get_map()):
            if self._unsent:
                self._selector.register(self._in, selectors.EVENT_WRITE, self._transmit)
            else:
                self._selector.unregister(self._in)
        wanted: dict[socket.socket, tuple[int, _Stream]] = {}
        for stream in list(self._streams.values()):
            if stream.ours is not None:
                mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if stream.waiting else 0)
                wanted[stream.ours] = (mask, stream)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket) and key.fileobj not in wanted:
                self._selector.unregister(key.fileobj)
                key.fileobj.close()
        for sock, (mask, stream) in wanted.items():
            act = _Act(self, stream, sock)
            if sock in self._selector.get_map():
                self._selector.modify(sock, mask, act)
            else:
                self._selector.register(sock, mask, act)

    def _serve(self, stream: _Stream, sock: socket.socket) -> None:
        """Pass on what arrived, take what is to be sent."""
        if stream.ours is not sock:
            return
        try:
            if stream.waiting:
                del stream.waiting[: sock.send(stream.waiting)]
            data = sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            with self._lock:
                if stream.ours is sock:
                    stream.ours = None
            return
        self._send(next(self._ids), f"write stream={stream.number}\n".encode() + data)

    def _receive(self) -> None:
        try:
            data = os.read(self._out, 1 << 18)
        except BlockingIOError:
            return
        if not data:
            code = self._process.poll()
            raise_with = f"the relay on {self.name} is gone" + (f" (status {code})" if code is not None else "")
            self._fail(raise_with)
            return
        self._data += data
        while (taken := _take(self._data)) is not None:
            number, payload = taken
            head, _, blob = payload.partition(b"\n")
            if number:
                future = self._replies.get(number)
                if future is not None and not future.done():
                    future.set_result((head.decode("utf-8", "replace"), blob))
            else:
                self._arrived(head.decode("ascii", "replace"), blob)

    def _arrived(self, head: str, blob: bytes) -> None:
        word, _, rest = head.partition(" ")
        stream = self._streams.get(int(parse_fields(rest).get("stream", "-1")))
        if stream is None:
            return
        if word == "end":
            stream.ended = True
            if stream.ours is not None:
                with contextlib.suppress(OSError):
                    stream.ours.shutdown(socket.SHUT_WR)
        elif stream.sink is not None:
            stream.sink(blob)
        else:
            stream.waiting += blob
            del stream.waiting[: max(0, len(stream.waiting) - _KEPT_BYTES)]

    def _fail(self, why: str) -> None:
        self._lost = self._lost or why
        for future in list(self._replies.values()):
            if not future.done():
                future.set_exception(LinkLost(self._lost))
        for stream in list(self._streams.values()):
            if stream.ours is not None:
                with contextlib.suppress(OSError):
                    stream.ours.shutdown(socket.SHUT_RDWR)

    # -- the end

    def close(self) -> None:
        """End the relay, with everything that it started; safe to call twice."""
        if self._closing:
            return
        self._closing = True
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(LINK_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(LINK_SECONDS)
        self._wake()
        self._thread.join(LINK_SECONDS)
        for stream in self._streams.values():
            if stream.ours is not None:
                stream.ours.close()
        self._selector.close()
        for fd in (self._wake_read, self._wake_write):
            os.close(fd)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> RelayLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Act:
    """What to do when a socket is ready."""

    link: RelayLink
    stream: _Stream
    sock: socket.socket

    def __call__(self) -> None:
        self.link._serve(self.stream, self.sock)


def _take(data: bytearray) -> tuple[int, bytes] | None:
    """The next whole frame, taken out; what cannot be the beginning of one is skipped."""
    begin = data.find(MAGIC)
    if begin < 0:
        del data[: max(0, len(data) - len(MAGIC) + 1)]
        return None
    del data[:begin]
    if len(data) < HEADER.size:
        return None
    _, number, length, _ = HEADER.unpack_from(data)
    if length > MAX_PAYLOAD:
        del data[: len(MAGIC)]
        return _take(data)
    if len(data) < HEADER.size + length:
        return None
    payload = bytes(data[HEADER.size : HEADER.size + length])
    del data[: HEADER.size + length]
    return number, payload
