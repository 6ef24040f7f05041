# SPDX-License-Identifier: GPL-2.0-only
"""Client of ``gmem-probe``, the reader that runs on the host under test (sources: ``harness/native/probe``).

A sample is taken in two steps, so that nothing but the reading happens around what is observed::

    probe.settle(); probe.sample(0)
    ...                                   # the step
    probe.settle(); probe.sample(1)
    delta = difference(probe.fetch(0, guests), probe.fetch(1, guests))
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import unquote

from harness.counters.lines import CounterFormatError
from harness.counters.sample import Sample, build_sample
from harness.counters.sections import SampleFormatError
from harness.errors import InfraError
from harness.host.frames import ChannelError, FrameChannel, RemoteError, Reply

SLOTS: Final = 16  # samples the probe can hold
WATCHES: Final = 16  # processes it can watch
PAGE: Final = 4096

# Deadlines in seconds: what each request took on an idle emulated host (QEMU TCG, 2 CPUs), times 1000 or more, because
# a busy machine stretches TCG without bound. They exist so that a dead host ends a run, not to measure.
QUICK: Final = 10.0  # hello, sample (2.2 ms), fetch (1.2 ms), watch, cachestat: below 5 ms each
SETTLE: Final = 30.0  # 24 rounds: 7 ms
CENSUS: Final = 120.0  # 0.25 s for 5 GiB of page frame numbers; 0.5 s for 25 GiB on hardware


class ProbeError(InfraError):
    """The probe is lost, refused a request, or answered something that cannot be."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code  # the probe's word, such as "EINVAL" or "nogmem"; "" when it did not answer


@dataclass(frozen=True)
class Hello:
    """``locked``: the probe's memory is locked, so that reading faults nothing in."""

    version: int
    pid: int
    locked: bool
    files: int  # kernel files in each sample


@dataclass(frozen=True)
class Settled:
    """``pcp`` pages are left on per-CPU lists after ``rounds`` refreshes; ``calm``: more would not free more."""

    rounds: int
    pcp: int
    calm: bool


@dataclass(frozen=True)
class Taken:
    """When slot ``slot`` was read, by the host's monotonic clock in ns; ``steady`` as in Sample."""

    slot: int
    start_ns: int
    end_ns: int
    steady: bool


@dataclass(frozen=True)
class Watched:
    """The guest_memfd found in a QEMU process: its descriptor there and its size in bytes."""

    fd: int
    size: int
    cachestat: bool  # gmem/<guest> will be in samples
    kvm_stats: int  # how many of KVM's pages_* files will be; 0 without debugfs
    hook: bool  # the kernel has the hook that `refer` needs


@dataclass(frozen=True)
class Census:
    """guest_memfd pages by page flags over the whole machine; ``folios[order]`` counts folios of that order."""

    gmem: int
    heads: int
    tails: int
    folios: Mapping[int, int]
    scanned: int


class FrameRun(NamedTuple):
    """``pages`` neighbouring frames from page frame number ``pfn`` on, all folios of ``2**order`` pages."""

    pfn: int
    pages: int
    order: int


_UNMAPPED: Final = 0xFF  # harness/native/probe/shared.c: verb_nodes
_WORD: Final = struct.Struct("<Q")
HOLDS: Final = 4  # harness/native/probe/shared.c
_RUN: Final = struct.Struct("<QII")  # harness/native/probe/frames_census.c: struct run


@dataclass(frozen=True)
class Present:
    """Pages of a range of virtual memory by /proc/PID/pagemap."""

    present: int
    swapped: int


@dataclass(frozen=True)
class Written:
    """A kernel file before and after writing, as the kernel prints it; None where it cannot be read."""

    was: str | None
    now: str | None


class ProbeClient:
    """Typed requests over a channel that this object does not own. Every method raises ProbeError."""

    def __init__(self, channel: FrameChannel) -> None:
        self._channel = channel

    def hello(self, timeout: float = QUICK) -> Hello:
        """Prove that a probe of our version answers this very request."""
        nonce = int.from_bytes(os.urandom(4), "little")
        fields = self._ask(f"hello nonce={nonce}", timeout).fields
        if fields.get("program") != "gmem-probe" or fields.get("nonce") != str(nonce):
            raise ProbeError(f"something else than gmem-probe answers on the probe's channel: {dict(fields)}")
        if fields.get("version") != "1":
            raise ProbeError(
                f"the probe speaks version {fields.get('version')}, this harness speaks 1; rebuild the host"
            )
        number = _Numbers("hello", fields)
        return Hello(number["version"], number["pid"], bool(number["locked"]), number["files"])

    def settle(self, rounds: int = 100, timeout: float = SETTLE, *, rcu: bool = True) -> Settled:
        """Drain LRU batches and refresh statistics until the per-CPU free lists stop shrinking, at most ``rounds``.

        With ``rcu`` also wait until what was given to RCU before is freed (two grace periods); not needed where the
        settling before it did so and nothing has happened since.
        """
        number = _Numbers("settle", self._ask(f"settle max={rounds} rcu={int(rcu)}", timeout).fields)
        return Settled(number["rounds"], number["pcp"], bool(number["calm"]))

    def sample(self, slot: int, timeout: float = QUICK) -> Taken:
        """Read all counters into ``slot`` (0 to 15) on the host; nothing is transferred yet."""
        number = _Numbers("sample", self._ask(f"sample slot={slot}", timeout).fields)
        return Taken(number["slot"], number["ns"], number["ns_end"], bool(number["steady"]))

    def fetch(self, slot: int, guests: Mapping[int, str] | None = None, timeout: float = QUICK) -> Sample:
        """The counters in ``slot``; ``guests`` names QEMU processes: ``{4711: "g0"}`` gives gmem/g0 and kvm/g0/*."""
        blob = self._ask(f"fetch slot={slot}", timeout).blob
        try:
            return build_sample(blob, guests)
        except (SampleFormatError, CounterFormatError) as error:
            raise ProbeError(f"slot {slot} of the probe: {error}") from error

    def answer(self, size: int, count: int, timeout: float = QUICK) -> int:
        """Have an answer in ``count`` writes (2 to 64) of ``size`` bytes (17 to 2048) each; returns bytes of its blob.

        Nothing but its way through the port matters: each write takes a buffer of the cache of that size.
        """
        return len(self._ask(f"answer size={size} count={count}", timeout).blob)

    def stock(self, count: int, timeout: float = SETTLE) -> int:
        """Take ``count`` (1 to 256) objects of the cache of a port's buffers at once, and give them back.

        They are free on the CPU where the probe runs then, so that as many are there without a new slab.  Returns how
        many; ProbeError.code is the errno of a kernel that has no AF_UNIX sockets.
        """
        return _Numbers("stock", self._ask(f"stock count={count}", timeout).fields)["count"]

    def pcpcap(self, fraction: int, timeout: float = QUICK) -> int:
        """Set percpu_pagelist_high_fraction (0: the kernel's default) and return what it was."""
        return _Numbers("pcpcap", self._ask(f"pcpcap fraction={fraction}", timeout).fields)["was"]

    def watch(self, pid: int, ram: int, timeout: float = QUICK) -> Watched:
        """Observe the guest_memfd of ``ram`` bytes in process ``pid`` from now on.

        The probe holds that file open, which keeps the guest's memory alive after QEMU is gone: ``unwatch`` before a
        guest is closed.
        """
        number = _Numbers("watch", self._ask(f"watch pid={pid} ram={ram}", timeout).fields)
        return Watched(
            number["fd"], number["size"], bool(number["cachestat"]), number["kvmstats"], bool(number["hook"])
        )

    def unwatch(self, pid: int | None = None, timeout: float = QUICK) -> int:
        """Let go of one process, or of all; how many were let go."""
        which = "all" if pid is None else f"pid={pid}"
        return _Numbers("unwatch", self._ask(f"unwatch {which}", timeout).fields)["closed"]

    def cachestat(self, pid: int, offset: int, length: int, timeout: float = QUICK) -> int:
        """Pages present in a range (bytes) of a watched guest_memfd."""
        return _Numbers("cachestat", self._ask(f"cachestat pid={pid} off={offset} len={length}", timeout).fields)[
            "cache"
        ]

    def fallocate(self, pid: int, mode: str, offset: int, length: int, timeout: float = SETTLE) -> None:
        """``mode`` "alloc" or "punch" on a range (bytes) of a watched guest_memfd; ProbeError.code names the errno."""
        self._ask(f"fallocate pid={pid} mode={mode} off={offset} len={length}", timeout)

    def refer(self, pid: int, mode: str, offset: int, length: int, timeout: float = SETTLE) -> int:
        """``mode`` "take": a reference that nobody expects on each present page of a range (bytes) of a watched
        guest_memfd, where it is not held yet.  "drop": those in the range are given back, also on pages that left the
        file meanwhile.  Returns how many pages of the guest_memfd are held then; ``unwatch`` gives all of them back.

        ProbeError.code names the errno, or is "nohook" on a kernel without ``host-configs/patches/*/hold.patch``.
        """
        line = f"refer pid={pid} mode={mode} off={offset} len={length}"
        return _Numbers("refer", self._ask(line, timeout).fields)["held"]

    def place(self, pid: int, cpu: int | None, timeout: float = SETTLE) -> int:
        """Every thread of a watched process, or of the probe itself, on host CPU ``cpu`` from now on; None: anywhere.

        With a watched process also what :meth:`fallocate` does to its memory.  Returns how many threads.
        ProbeError.code is EINVAL for a CPU that is not there.
        """
        where = "any" if cpu is None else str(cpu)
        return _Numbers("place", self._ask(f"place pid={pid} cpu={where}", timeout).fields)["threads"]

    def move_pages(self, pid: int, address: int, pages: int, node: int, timeout: float = SETTLE) -> int:
        """Move pages of a process, at most a chunk, to a NUMA node; returns how many the kernel gave up on."""
        line = f"movepages pid={pid} addr={address} pages={pages} node={node}"
        return _Numbers("movepages", self._ask(line, timeout).fields)["left"]

    def nodes(self, pid: int, address: int, pages: int, timeout: float = QUICK) -> list[int | None]:
        """The NUMA node of each of at most a chunk of pages; None for one that the process does not map."""
        blob = self._ask(f"nodes pid={pid} addr={address} pages={pages}", timeout).blob
        if len(blob) != pages:
            raise ProbeError(f"the probe told the nodes of {len(blob)} pages where {pages} were asked")
        return [None if node == _UNMAPPED else node for node in blob]

    def peek(self, pid: int, address: int, pages: int, timeout: float = QUICK) -> list[int | None]:
        """The first word of each of at most a chunk of pages of a process; None for one that cannot be read (EFAULT).

        A page that is not mapped is faulted in: ask :meth:`nodes` first.
        """
        blob = self._ask(f"peek pid={pid} addr={address} pages={pages}", timeout).blob
        if len(blob) != pages * (_WORD.size + 1):
            raise ProbeError(f"the probe read {len(blob)} bytes where {pages} pages were asked")
        words = [word for (word,) in _WORD.iter_unpack(blob[: pages * _WORD.size])]
        return [None if bad else word for word, bad in zip(words, blob[pages * _WORD.size :], strict=True)]

    def hold(self, pid: int, number: int, offset: int, pages: int, timeout: float = QUICK) -> None:
        """Take a reference on each page of the file that a watched process has as its RAM, into hold ``number``."""
        self._ask(f"hold pid={pid} hold={number} off={offset} pages={pages}", timeout)

    def release(self, number: int, timeout: float = QUICK) -> int:
        """Drop the references of a hold; returns how many there were."""
        return _Numbers("release", self._ask(f"release hold={number}", timeout).fields)["pages"]

    def anon_present(self, pid: int, address: int, length: int, timeout: float = QUICK) -> Present:
        """Pages that the page tables of ``pid`` have in a range (bytes) of its virtual memory."""
        number = _Numbers("anon", self._ask(f"anon pid={pid} addr=0x{address:x} len={length}", timeout).fields)
        return Present(number["present"], number["swapped"])

    def maps(self, pid: int, timeout: float = QUICK) -> str:
        """``/proc/PID/maps``."""
        return self._ask(f"maps pid={pid}", timeout).blob.decode(errors="backslashreplace")

    def census(self, timeout: float = CENSUS) -> Census:
        """Count the machine's guest_memfd pages by their flags; settle first, pages in LRU batches are not seen."""
        fields = self._ask("census", timeout).fields
        number = _Numbers("census", fields)
        text = fields.get("orders", "")
        try:
            pairs = [] if text == "none" else [pair.split(":") for pair in text.split(",")]
            folios = {int(order): int(count) for order, count in pairs}
        except ValueError as error:
            raise ProbeError(f"the probe's census has unreadable orders {text!r}") from error
        return Census(number["gmem"], number["heads"], number["tails"], folios, number["scanned"])

    def frames(self, timeout: float = CENSUS) -> tuple[FrameRun, ...]:
        """The frames that guest_memfd pages of the whole machine are, in rising order; settle first, as for ``census``.

        It reads the flags of all memory (docs/model.md says what that costs) and allocates nothing.
        """
        found: list[FrameRun] = []
        start = 0
        while True:
            reply = self._ask(f"frames from={start}", timeout)
            number = _Numbers("frames", reply.fields)
            if len(reply.blob) != number["runs"] * _RUN.size:
                raise ProbeError(f"the probe's frames are {len(reply.blob)} bytes where {dict(reply.fields)} was said")
            found += map(FrameRun._make, _RUN.iter_unpack(reply.blob))
            ends = [run.pfn + run.pages for run in found]
            if any(run.pfn < end for run, end in zip(found[1:], ends, strict=False)) or any(
                run.pages < 1 or run.pages % (1 << run.order) for run in found
            ):
                raise ProbeError("the probe's frames are not rising runs of whole folios")
            if not number["next"]:
                return tuple(found)
            if number["next"] <= start:
                raise ProbeError(f"the probe's frames go on at page {number['next']}, not beyond page {start}")
            start = number["next"]

    def write(self, path: str, value: str, timeout: float = QUICK) -> Written:
        """Write a file under /proc or /sys; ``value`` has no white space, else ValueError."""
        if not value or value.split() != [value]:
            raise ValueError(f"a value of one word is needed, not {value!r}")
        fields = self._ask(f"write path={path} value={value}", timeout).fields
        return Written(_printed(fields.get("was")), _printed(fields.get("now")))

    def read(self, path: str, limit: int = 1 << 19, timeout: float = QUICK) -> bytes:
        """A file under /proc or /sys of at most ``limit`` bytes; a longer one is an error, not cut off."""
        return self._ask(f"read path={path} max={limit}", timeout).blob

    def _ask(self, line: str, timeout: float) -> Reply:
        try:
            return self._channel.request(line, timeout=timeout)
        except RemoteError as error:
            raise ProbeError(str(error), error.code) from error
        except ChannelError as error:
            raise ProbeError(str(error)) from error


class _Numbers:
    """The numeric words of a reply; a missing or malformed one is the probe's fault, and said so."""

    def __init__(self, verb: str, fields: Mapping[str, str]) -> None:
        self._verb = verb
        self._fields = fields

    def __getitem__(self, key: str) -> int:
        text = self._fields.get(key, "")
        if not (text.isascii() and text.isdigit()):
            raise ProbeError(f"the probe's answer to {self._verb} has no number {key!r}: {dict(self._fields)}")
        return int(text)


def _printed(word: str | None) -> str | None:
    return None if word is None or word == "-" else unquote(word)
