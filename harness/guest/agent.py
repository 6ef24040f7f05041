# SPDX-License-Identifier: GPL-2.0-only
"""What a guest can be asked to do: the requests of the conversion module, typed.

The module (``guest-images/module/gmem_conv.c``) is reached through the control program in the guest, over a
virtio-serial channel.  Regions are numbered there; here they are named, ``r0`` is region 0.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.errors import InfraError
from harness.guest.conversions import Conversion
from harness.host.frames import FrameChannel, Reply

CHUNK_PAGES = 512
PAGE_SIZE = 4096
CALLS_AT_ONCE = 16
"""Hypercalls that one request asks for.  QEMU writes a line to a port of the host for each; the line's buffer stays
allocated until the machine below has taken it, which may be long after, and one more write has come
(virtio_console.c:port_fops_write, reclaim_consumed_buffers).  Bursts of 171 took a slab for them now and then, bursts
of 16 fit into what a CPU's slab has free."""


class GuestError(InfraError):
    """The guest answered something that makes no sense, or refused what it should do."""


class ConversionRefused(GuestError):
    """A conversion was refused: the last one of ``made``, whose hypercall returned ``ret``, a negative errno."""

    def __init__(self, peer: str, made: Sequence[Conversion], ret: int) -> None:
        said = errno.errorcode.get(-ret, str(ret))
        super().__init__(f"{peer}: the conversion of {made[-1]} is refused: {said}")
        self.made = tuple(made)
        self.ret = ret


@dataclass(frozen=True)
class BadPage:
    """A page whose contents are not what they should be."""

    page: int
    word: int
    got: str
    """``zero``, a number, or whose pattern it is: ``guest:0/region:0/gen:2/page:7/word:0``."""


@dataclass(frozen=True)
class Verified:
    """Result of a verification."""

    pages: int
    wrong: int
    shown: tuple[BadPage, ...]
    """The first few wrong pages."""


class GuestAgent:
    """One guest, reached by its channel.  Each call has a deadline in seconds."""

    def __init__(self, name: str, channel: FrameChannel) -> None:
        self.name = name
        self.channel = channel

    def hello(self, nonce: int, timeout: float = 5.0) -> None:
        """Raises ``ChannelTimeout`` when the guest does not answer."""
        reply = self.channel.request(f"hello nonce={nonce}", timeout=timeout)
        if reply.fields.get("nonce") != str(nonce):
            raise GuestError(f"{self.name}: answered to another hello than was said ({reply.fields})")

    def ask(self, line: str, timeout: float) -> Reply:
        """One request to the module, as the line it takes; raises ``ChannelError``."""
        return self.channel.request(f"gmem {line}", timeout=timeout)

    def info(self, timeout: float = 5.0) -> dict[str, str]:
        """What the module says of itself: tag, chunk_pages, how (hypercall or set_memory), encrypt."""
        return dict(self.ask("info", timeout).fields)

    def alloc(self, region: int, chunks: int, timeout: float = 30.0) -> None:
        """Allocate a region of order-9 chunks."""
        self.ask(f"alloc region={region} chunks={chunks}", timeout)

    def where(self, region: int, *, chunks: int, memory_bytes: int, timeout: float = 5.0) -> tuple[int, ...]:
        """Guest physical address of each of ``chunks`` chunks in a guest of ``memory_bytes`` of RAM.

        Raises ``GuestError`` for places where they cannot lie: everything that follows is done and judged there.
        """
        text = self.ask(f"where region={region}", timeout).fields.get("gpa", "")
        try:
            found = tuple(int(word, 16) for word in text.split(","))
        except ValueError as error:
            raise GuestError(f"{self.name}: does not say where region {region} lies: {text!r}") from error
        if wrong := _misplaced(found, chunks, memory_bytes):
            raise GuestError(f"{self.name}: says of region {region} what cannot be, {wrong}: {text}")
        return found

    def convert(
        self, region: int, start: int, count: int, *, private: bool, timeout: float, by: int = CHUNK_PAGES
    ) -> list[Conversion]:
        """Convert pages, at most ``by`` with one hypercall; returns the hypercalls the guest made, in order.

        Raises ``ConversionRefused`` at the first that is refused; the guest asks for nothing after it.
        """
        to = "private" if private else "shared"
        reply = self.ask(f"convert region={region} start={start} count={count} to={to} by={by}", timeout)
        made = [_call(self.name, word, private) for word in reply.fields.get("calls", "").split(",")]
        if "refused" in reply.fields:
            raise ConversionRefused(self.name, made, _refusal(self.name, reply.fields["refused"]))
        return made

    def touch(self, region: int, start: int, count: int, *, stride: int, write: bool, gen: int, timeout: float) -> int:
        """Touch every ``stride``-th page; returns how many."""
        line = f"touch region={region} start={start} count={count} stride={stride} write={int(write)} gen={gen}"
        return _number(self.name, self.ask(line, timeout), "touched")

    def verify(self, region: int, start: int, count: int, *, gen: int | None, timeout: float) -> Verified:
        """Compare pages with the pattern of generation ``gen``, or with zeroes when ``gen`` is None."""
        expect = "expect=zero" if gen is None else f"expect=pattern gen={gen}"
        reply = self.ask(f"verify region={region} start={start} count={count} {expect}", timeout)
        shown = reply.fields.get("bad", "-")
        bad = () if shown == "-" else tuple(_bad_page(self.name, word) for word in shown.split(","))
        return Verified(_number(self.name, reply, "pages"), _number(self.name, reply, "wrong"), bad)

    def warm(self, timeout: float = 60.0) -> int:
        """Read every page of the guest's RAM once, so that its own work faults nothing in later; returns pages."""
        return _number(self.name, self.ask("warm", timeout), "pages")


def _misplaced(chunks: Sequence[int], wanted: int, memory_bytes: int) -> str:
    """What is wrong with the addresses of a region's chunks; '' for nothing."""
    size = CHUNK_PAGES * PAGE_SIZE
    if len(chunks) != wanted:
        return f"{len(chunks)} chunks where {wanted} were allocated"
    for first, second in pairwise(sorted(chunks)):
        if second - first < size:
            return f"the chunks at {first:#x} and {second:#x} overlap"
    for gpa in chunks:
        if gpa % size:
            return f"the chunk at {gpa:#x} is not 2 MiB aligned"
        if not 0 <= gpa <= memory_bytes - size:
            return f"the chunk at {gpa:#x} lies outside its RAM of {memory_bytes} bytes"
    return ""


def _number(name: str, reply: Reply, key: str) -> int:
    try:
        return int(reply.fields[key])
    except (KeyError, ValueError) as error:
        raise GuestError(f"{name}: the reply has no number {key}: {dict(reply.fields)}") from error


def _refusal(name: str, word: str) -> int:
    """What a refused hypercall returned: a negative errno."""
    try:
        if (ret := int(word)) < 0:
            return ret
    except ValueError:
        pass
    raise GuestError(f"{name}: says that a conversion was refused with {word!r}, which is no negative errno")


def _call(name: str, word: str, private: bool) -> Conversion:
    gpa, _, pages = word.partition(":")
    try:
        call = Conversion(int(gpa, 16), int(pages), private)
    except ValueError as error:
        raise GuestError(f"{name}: lists a call that makes no sense: {word!r}") from error
    if call.gpa < 0 or call.gpa % PAGE_SIZE or call.pages < 1:
        raise GuestError(f"{name}: lists a call that makes no sense: {word!r}")
    return call


def _bad_page(name: str, word: str) -> BadPage:
    place, _, got = word.partition("=")
    page, _, offset = place.partition("@")
    try:
        return BadPage(int(page), int(offset), got)
    except ValueError as error:
        raise GuestError(f"{name}: names a wrong page that makes no sense: {word!r}") from error


def words_blob(arguments: Sequence[str], environment: dict[str, str] | None = None) -> bytes:
    """A command for the control program: NUL-terminated words, the environment first, then an empty word.

    The empty word stands there without an environment too: an empty argument would be taken for it.
    """
    words = [*(f"{key}={value}" for key, value in sorted((environment or {}).items())), "", *arguments]
    if any("\0" in word for word in words):
        raise ValueError(f"a command cannot hold a NUL: {words}")
    return b"".join(word.encode() + b"\0" for word in words)
