# SPDX-License-Identifier: GPL-2.0-only
"""Windows without traffic: requests are planned, carried out on the host by its relay, and then told to who made them.

What a step asks of a host is known before it asks, and what a healthy host answers is known too.  So a piece of work
is rehearsed here: its requests are noted and answered as a healthy host would, which reaches nobody; the relay then
carries them out one behind the other while the link is silent; then the work is done, asks the same, and gets the real
answers.  Where it asks something else, because an answer was not that of a healthy host, it is asked
over the link.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from harness.errors import GmemError, InfraError
from harness.host.frames import FrameChannel, Reply, encode_frame, parse_fields
from harness.host.remote.link import RelayLink

QUIET_MS: Final = 220
"""Silence before a window: no acknowledgement is held back for more than 200 ms (include/net/tcp.h:TCP_DELACK_MAX)."""
_GRACE: Final = 10.0
_ENTRY: Final = struct.Struct("<IIIII")  # harness/native/relay/window.c: struct entry
_ALWAYS: Final = ("settle", "sample")
_PLANNED_BYTES: Final = 1 << 19

T = TypeVar("T")


class NotPlannable(InfraError):
    """What a healthy host would answer is not known beforehand."""


def expected_reply(line: str, held: Mapping[str, int]) -> Reply:
    """What a healthy host answers to a request of the probe or of a guest's agent; raises ``NotPlannable``.

    Nobody relies on it: it only lets the work go on to its next request.  ``held``: pages by the number of their hold.
    """
    words = line.split(" ")
    fields = parse_fields(" ".join(words[2 if words[0] == "gmem" else 1 :]))
    number = {key: int(value, 0) for key, value in fields.items() if value.isdigit()}
    match words[0] if words[0] != "gmem" else f"gmem {words[1]}":
        case "settle":
            return Reply({"rounds": "1", "pcp": "0", "calm": "1"}, b"")
        case "sample":
            return Reply({"slot": fields["slot"], "ns": "0", "ns_end": "0", "steady": "1"}, b"")
        case "fallocate" | "hold" | "end":
            return Reply({}, b"")
        case "write":
            return Reply({"was": "", "now": fields["value"]}, b"")
        case "place":
            return Reply({"threads": "2"}, b"")
        case "refer":
            return Reply({"held": "0"}, b"")
        case "unwatch":
            return Reply({"closed": "1"}, b"")
        case "release":
            return Reply({"pages": str(held.get(fields["hold"], 0))}, b"")
        case "movepages":
            return Reply({"left": "0"}, b"")
        case "nodes":
            return Reply({}, bytes(number["pages"]))
        case "peek":
            return Reply({}, bytes(number["pages"] * 9))
        case "gmem touch":
            return Reply({"touched": str(-(-number["count"] // number["stride"]))}, b"")
        case "gmem verify":
            return Reply({"pages": fields["count"], "wrong": "0", "bad": "-"}, b"")
        case "gmem convert":
            return Reply({"calls": "0x0:1"}, b"")
    raise NotPlannable(f"no answer to {words[0]} is known beforehand")


@dataclass(frozen=True)
class _Planned:
    channel: WindowChannel
    line: str
    blob: bytes
    number: int
    timeout: float

    def entry(self) -> bytes:
        """The request as the relay takes it."""
        frame = encode_frame(self.number, self.line.encode() + (b"\n" + self.blob if self.blob else b""))
        always = int(self.line.split(" ")[0] in _ALWAYS)
        return _ENTRY.pack(self.channel.stream, self.number, int(self.timeout * 1000), len(frame), always) + frame


class WindowChannel(FrameChannel):
    """A channel over a stream of the relay, which takes part in windows."""

    def __init__(self, link: RelayLink, stream: int, transcript: Path | None, *, peer: str) -> None:
        socket = link.attach(stream)
        fd = socket.detach()
        super().__init__(fd, fd, transcript, peer=peer)
        self.stream = stream
        self.held: dict[str, int] = {}
        """Pages that the probe was asked to hold, by the number of the hold."""
        self.window: Window | None = None

    def request(self, line: str, blob: bytes = b"", *, timeout: float) -> Reply:
        """See ``FrameChannel``."""
        if self.window is None:
            return self.ask_now(line, blob, timeout)
        return self.window.request(self, line, blob, timeout)

    def ask_now(self, line: str, blob: bytes, timeout: float) -> Reply:
        """Over the link."""
        self._remember(line)
        return super().request(line, blob, timeout=timeout)

    def answer_of(self, planned: _Planned) -> Reply:
        """The reply to a request that the relay has carried out."""
        self._remember(planned.line)
        payload = self._exchange(planned.number, b"", planned.line, self._clock() + _GRACE, _GRACE)
        return self._parse(payload, planned.number, planned.line)

    def _remember(self, line: str) -> None:
        verb, _, words = line.partition(" ")
        if verb == "hold":
            fields = parse_fields(words)
            self.held[fields["hold"]] = int(fields["pages"])


@dataclass
class Window:
    """One window over the channels of a testbed."""

    link: RelayLink
    channels: tuple[WindowChannel, ...]
    _planned: list[_Planned] = field(default_factory=list)
    _done: list[_Planned] = field(default_factory=list)
    _planning: bool = True

    def undisturbed(self, work: Callable[[], T], rehearsal: Callable[[], object]) -> T:
        """The result of ``work``, whose requests nothing on the link comes between, where they can be planned.

        ``rehearsal`` makes the same requests, and believes what it is told.
        """
        for channel in self.channels:
            channel.window = self
        try:
            try:
                rehearsal()
            except GmemError:
                return self._live(work)
            self._carry_out()
            self._planning = False
            return work()
        finally:
            for channel in self.channels:
                channel.window = None

    def _live(self, work: Callable[[], T]) -> T:
        for channel in self.channels:
            channel.window = None
        return work()

    def request(self, channel: WindowChannel, line: str, blob: bytes, timeout: float) -> Reply:
        """A request of the work: noted, or answered."""
        if self._planning:
            number = int.from_bytes(os.urandom(4), "little")
            self._planned.append(_Planned(channel, line, blob, number, timeout))
            return expected_reply(line, channel.held)
        for index, planned in enumerate(self._done):
            if planned.channel is channel and (planned.line, planned.blob) == (line, blob):
                del self._done[: index + 1]
                return channel.answer_of(planned)
        return channel.ask_now(line, blob, timeout)

    def _carry_out(self) -> None:
        blob = b"".join(planned.entry() for planned in self._planned)
        if len(blob) > _PLANNED_BYTES:
            raise InfraError(
                f"a window has {len(self._planned)} requests of {len(blob)} bytes: more than the relay takes"
            )
        longest = sum(planned.timeout for planned in self._planned)
        done = int(self.link.request(f"window quiet={QUIET_MS}", blob, timeout=longest + _GRACE)["done"])
        behind = (one for one in self._planned[done:] if one.line.split(" ")[0] in _ALWAYS)
        self._done = [*self._planned[:done], *behind]
