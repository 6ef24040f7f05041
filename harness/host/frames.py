# SPDX-License-Identifier: GPL-2.0-only
"""The frame protocol to the probe, the guest agent and the control daemon of the emulated host.

A frame is ``b"GMF1"``, request id, payload length and crc32 of the payload (three little-endian u32), then the payload:
one line, optionally a newline and a binary blob. The C side is ``harness/native/frame``.
"""

from __future__ import annotations

import os
import select
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

from harness.errors import InfraError

MAGIC: Final = b"GMF1"
HEADER: Final = struct.Struct("<4sIII")
MAX_PAYLOAD: Final = 1 << 20
_TRANSCRIPT_LINE: Final = 512  # characters of a line kept in the transcript: the other side is not trusted
_READ: Final = 1 << 16


class ChannelError(InfraError):
    """The program at the other end of a channel cannot be used, or refused a request."""


class ChannelClosed(ChannelError):
    """The other end is gone."""


class ChannelTimeout(ChannelError):
    """No reply before the deadline."""


class ChannelCorrupt(ChannelError):
    """The reply to our request arrived damaged."""


class RemoteError(ChannelError):
    """The program answered ``err``: ``code`` is its word, ``text`` its explanation."""

    def __init__(self, peer: str, line: str, code: str, text: str) -> None:
        super().__init__(f"{peer} refused {line.split(' ')[0]!r}: {text} ({code}); request: {line}")
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Reply:
    """An ``ok`` reply: the words of its line, and the bytes behind it."""

    fields: Mapping[str, str]
    blob: bytes


def encode_frame(request_id: int, payload: bytes) -> bytes:
    """One frame as bytes. Raises ValueError when the payload exceeds MAX_PAYLOAD."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"payload of {len(payload)} bytes exceeds {MAX_PAYLOAD}")
    return HEADER.pack(MAGIC, request_id, len(payload), zlib.crc32(payload)) + payload


@dataclass(frozen=True)
class Scan:
    """What a scan of received bytes found: our payload if complete, and how many bytes may be forgotten."""

    payload: bytes | None
    consumed: int
    damage: str | None = None


def scan_frames(data: bytes | bytearray, wanted: int) -> Scan:
    """Look for the frame with id ``wanted`` among garbage, frames of others and torn frames.

    A frame of another id that is complete and undamaged is skipped whole; any other magic is only skipped itself, so
    that a frame torn by a peer that went away never swallows the one behind it.
    """
    position, keep = 0, None
    while True:
        position = data.find(MAGIC, position)
        if position < 0 or len(data) - position < HEADER.size:
            tail = _possible_magic(data) if position < 0 else position
            return Scan(None, tail if keep is None else keep)
        _, found_id, length, crc = HEADER.unpack_from(data, position)
        begin = position + HEADER.size
        complete = len(data) - begin >= length
        if found_id == wanted:
            if length > MAX_PAYLOAD:
                return Scan(None, position + len(MAGIC), f"its length field says {length} bytes")
            if not complete:
                return Scan(None, position if keep is None else keep)
            payload = bytes(data[begin : begin + length])
            if zlib.crc32(payload) != crc:
                return Scan(None, position + len(MAGIC), f"the checksum of its {length} bytes is wrong")
            return Scan(payload, begin + length)
        if complete and zlib.crc32(data[begin : begin + length]) == crc:
            position = begin + length
        else:
            if not complete and length <= MAX_PAYLOAD and keep is None:
                keep = position
            position += len(MAGIC)


def _possible_magic(data: bytes | bytearray) -> int:
    """Offset of a tail that may be the beginning of a magic."""
    for size in range(min(len(MAGIC) - 1, len(data)), 0, -1):
        if data.endswith(MAGIC[:size]):
            return len(data) - size
    return len(data)


def parse_fields(words: str) -> dict[str, str]:
    """``"a=1 text=the rest"`` to a mapping; ``text=`` takes the rest of the line. Raises ValueError."""
    fields: dict[str, str] = {}
    rest = words.strip(" ")
    while rest:
        if rest.startswith("text="):
            fields["text"] = rest[len("text=") :]
            break
        word, _, rest = rest.partition(" ")
        rest = rest.lstrip(" ")
        key, equals, value = word.partition("=")
        if not key or not equals or key in fields:
            raise ValueError(f"{word!r} is not a new key=value")
        fields[key] = value
    return fields


class FrameChannel:
    """Synchronous requests over two file descriptors (a pipe pair, or one socket given twice).

    The channel owns the descriptors, makes them non-blocking and closes them (a socket object must be detached).
    ``peer`` names the other end in errors. With ``transcript`` each request and reply line is appended to that file,
    with seconds since the channel was opened. ``first_id`` is random by default, so that a reply that a restored
    testbed still owes to an earlier channel is not taken for ours.
    """

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        transcript: Path | None = None,
        *,
        peer: str = "the probe",
        first_id: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._peer = peer
        self._clock = clock
        self._opened = clock()
        self._next_id = int.from_bytes(os.urandom(4), "little") if first_id is None else first_id
        self._data = bytearray()
        self._garbage = 0
        self._closed = False
        for fd in {read_fd, write_fd}:
            os.set_blocking(fd, False)
        self._transcript: TextIO | None = transcript.open("a", encoding="utf-8") if transcript else None

    def __enter__(self) -> FrameChannel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both descriptors and the transcript; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for fd in {self._read_fd, self._write_fd}:
            os.close(fd)
        if self._transcript:
            self._transcript.close()

    def request(self, line: str, blob: bytes = b"", *, timeout: float) -> Reply:
        """Send one request and wait at most ``timeout`` seconds for its reply.

        Raises ChannelClosed, ChannelTimeout, ChannelCorrupt, or RemoteError when the reply is ``err``.
        """
        if "\n" in line:
            raise ValueError("a request line has no newline")
        if self._closed:
            raise ChannelClosed(f"the channel to {self._peer} is closed already; request: {line}")
        payload = line.encode() + (b"\n" + blob if blob else b"")
        request_id = self._next_id = (self._next_id + 1) & 0xFFFFFFFF
        frame = encode_frame(request_id, payload)
        self._note(f"> id={request_id} {self._shown(line, blob)}")
        try:
            reply = self._exchange(request_id, frame, line, self._clock() + timeout, timeout)
            return self._parse(reply, request_id, line)
        except ChannelError as error:
            if not isinstance(error, RemoteError):
                self._note(f"! id={request_id} {type(error).__name__}: {error}")
            raise

    def _exchange(self, request_id: int, frame: bytes, line: str, deadline: float, timeout: float) -> bytes:
        """Write the frame while reading, so that a peer that is itself writing cannot block us; the reply's payload."""
        unsent = memoryview(frame)
        self._garbage = 0
        while True:
            scan = scan_frames(self._data, request_id)
            del self._data[: scan.consumed]
            if scan.payload is not None:
                return scan.payload
            if scan.damage:
                raise ChannelCorrupt(f"the reply of {self._peer} to {line!r} is damaged: {scan.damage}")
            self._garbage += scan.consumed
            left = deadline - self._clock()
            if left <= 0:
                state = f"{len(unsent)} bytes of the request were not taken" if unsent else "the request was taken"
                seen = f"{self._garbage} bytes arrived that are not its reply, {len(self._data)} may be its beginning"
                raise ChannelTimeout(f"{self._peer} did not answer {line!r} within {timeout:g} s ({state}; {seen})")
            unsent = self._step(unsent, left)

    def _step(self, unsent: memoryview, left: float) -> memoryview:
        """Wait for either direction, move what can move, return what is still to be sent."""
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        if unsent:
            poll.register(self._write_fd, select.POLLOUT | (select.POLLIN if self._write_fd == self._read_fd else 0))
        ready = dict(poll.poll(max(1, int(left * 1000))))
        if unsent and ready.get(self._write_fd, 0) & (select.POLLOUT | select.POLLERR | select.POLLHUP):
            try:
                unsent = unsent[os.write(self._write_fd, unsent) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise ChannelClosed(f"{self._peer} is gone: writing to it failed ({error.strerror})") from error
        if ready.get(self._read_fd, 0) & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._receive()
        return unsent

    def _receive(self) -> None:
        try:
            data = os.read(self._read_fd, _READ)
        except BlockingIOError:
            return
        except OSError as error:
            raise ChannelClosed(f"{self._peer} is gone: reading from it failed ({error.strerror})") from error
        if not data:
            raise ChannelClosed(f"{self._peer} is gone: it closed the channel")
        self._data += data

    def _parse(self, payload: bytes, request_id: int, line: str) -> Reply:
        head, newline, blob = payload.partition(b"\n")
        try:
            text = head.decode()
            word, _, words = text.partition(" ")
            fields = parse_fields(words)
        except ValueError as error:
            raise ChannelCorrupt(f"{self._peer} answered {line!r} with a line that cannot be read: {error}") from error
        self._note(f"< id={request_id} {self._shown(text, blob if newline else b'')}")
        if word == "err":
            raise RemoteError(self._peer, line, fields.get("code", "unknown"), fields.get("text", "no reason given"))
        if word != "ok":
            raise ChannelCorrupt(f"{self._peer} answered {line!r} with {word[:40]!r} instead of ok or err")
        return Reply(fields, blob)

    def _shown(self, line: str, blob: bytes) -> str:
        text = line.encode("unicode_escape").decode()
        text = text if len(text) <= _TRANSCRIPT_LINE else text[:_TRANSCRIPT_LINE] + "..."
        return f"{text} [blob {len(blob)}]" if blob else text

    def _note(self, text: str) -> None:
        if self._transcript:
            self._transcript.write(f"{self._clock() - self._opened:11.6f} {text}\n")
            self._transcript.flush()
