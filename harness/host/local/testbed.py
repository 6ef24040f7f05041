# SPDX-License-Identifier: GPL-2.0-only
"""Guest_memfds of this machine's own kernel, without a VM that runs: made for each case, and given back after it.

A guest is a process that maps its guest_memfd and touches the pages as a guest would (``harness/native/bare``).  The
machine does other things too, so that only what is ours is judged: the guest_memfd itself, by cachestat(2), and the
memory cgroup of the guest's process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TypeVar

import msgspec

from harness.counters import memcg
from harness.counters.sample import Sample
from harness.errors import InfraError, NothingRanError
from harness.guest.agent import CHUNK_PAGES, PAGE_SIZE, GuestAgent
from harness.guest.qmp import QmpSession
from harness.host.emulated.control import Control
from harness.host.emulated.state import GuestState, TestbedSpec, TestbedState
from harness.host.frames import FrameChannel, RemoteError
from harness.host.local.cgroups import NAME
from harness.host.local.programs import Served
from harness.host.probe import ProbeClient, ProbeError

KVM = Path("/dev/kvm")
T = TypeVar("T")
_QUICK = 10.0
"""Deadline in seconds of a request that takes milliseconds."""


@dataclass(frozen=True)
class Kit:
    """What testbeds on this machine are made of."""

    bare: Path
    probe: Path
    kvm: Path = KVM
    cgroups: Path | None = None
    """Where memory cgroups are made; None: the host has none."""


def greet(channel: FrameChannel) -> int:
    """The pid of the process with the guest_memfd; raises ``NothingRanError`` for what the host lacks."""
    nonce = secrets.randbelow(1 << 31)
    try:
        fields = channel.request(f"hello nonce={nonce}", timeout=_QUICK).fields
    except RemoteError as error:
        if error.code == "lacking":
            raise NothingRanError(f"this machine has no guest_memfd for --guest bare: {error.text}") from error
        raise
    if (fields.get("program"), fields.get("version"), fields.get("nonce")) != ("gmem-bare", "1", str(nonce)):
        raise InfraError(f"something else than gmem-bare answers: {dict(fields)}")
    return int(fields["pid"])


@dataclass
class LocalWays:
    """The ways into the testbed; a guest is no QEMU, so that some do not exist."""

    probe: ProbeClient
    agents: dict[str, GuestAgent] = field(default_factory=dict)

    @property
    def control(self) -> Control:
        """Raises ``InfraError``."""
        raise InfraError("a bare testbed has no control program: nothing but its guest_memfds is there to work on")

    def monitor(self, guest: str, /) -> AbstractContextManager[QmpSession]:
        """Raises ``InfraError``."""
        raise InfraError(f"{guest} is a bare guest_memfd: it has no QEMU")


@dataclass(frozen=True)
class ProbeProcess:
    """The process by which the host is read."""

    served: Served

    @property
    def running(self) -> bool:
        """Whether it still answers."""
        return self.served.running

    def last_words(self) -> str:
        """How it ended."""
        return f"the probe ended with status {self.served.process.poll()}"


class LocalTestbed:
    """One testbed; use it as a context manager."""

    judges: tuple[str, ...] = ("gmem/*", "memcg/*")
    """Counters of our own objects: everything else on this machine moves the others."""
    answers_at_once = True

    def __init__(self, kit: Kit, spec: TestbedSpec, state: TestbedState, evidence: Path) -> None:
        self.spec = spec
        self.evidence = evidence
        self._kit = kit
        self._exit = contextlib.ExitStack()
        self._guests: dict[str, Served] = {}
        self._memcg: dict[int, dict[str, str]] = {}
        try:
            probe = self._serve([str(kit.probe)], "probe")
            self.machine = ProbeProcess(probe)
            self.channels = LocalWays(ProbeClient(probe.channel))
            self.channels.probe.hello()
            found = tuple(self._start(guest.number) for guest in spec.guests)
            self.state = msgspec.structs.replace(state, guests=found)
        except BaseException:
            self._exit.close()
            raise

    def _serve(self, command: list[str], peer: str) -> Served:
        served = Served(command, peer=peer, transcript=self.evidence / f"{peer.replace(' ', '-')}-transcript.txt")
        self._exit.callback(served.close)
        return served

    def _start(self, number: int) -> GuestState:
        name, cgroups = f"g{number}", self._kit.cgroups
        own = "-" if cgroups is None else str(cgroups / f"{NAME}{os.getpid()}-{secrets.token_hex(4)}-{name}")
        chunks = self.spec.chunks
        served = self._serve([str(self._kit.bare), str(self._kit.kvm), str(number), str(chunks), own], f"bare {name}")
        pid = greet(served.channel)
        watched = self.channels.probe.watch(pid, chunks * CHUNK_PAGES * PAGE_SIZE)
        if not watched.cachestat:
            raise NothingRanError("this machine's kernel has no cachestat(2), by which the pages are seen")
        self._guests[name] = served
        self.channels.agents[name] = GuestAgent(name, served.channel)
        return GuestState(name=name, pid=pid, chunks=tuple(n * CHUNK_PAGES * PAGE_SIZE for n in range(chunks)))

    # -- what is known of it

    def guest(self, name: str) -> GuestState:
        """What is known of a guest by name; raises ``InfraError`` for an unknown one."""
        for guest in self.state.guests:
            if guest.name == name:
                return guest
        raise InfraError(f"the testbed has no guest {name}")

    def trace_log(self, guest: str) -> Path:
        """Raises ``InfraError``: nothing converts."""
        raise InfraError(f"{guest} is a bare guest_memfd: nobody traces conversions")

    def check_consoles(self) -> None:
        """There is none: what the kernel of this machine prints may be anybody's doing."""

    # -- observing

    def undisturbed(self, work: Callable[[], T], *, rehearsal: Callable[[], T]) -> T:
        """The result of ``work``; whatever else this machine does goes on."""
        return work()

    def cap_lists(self, fraction: int) -> None:
        """Nothing of this machine is set."""
        raise NothingRanError("the lists of this machine's CPUs are not ours to size")

    def settle(self, *, rcu: bool = True) -> None:
        """Bring the kernel's counters to rest, as far as a busy machine has any; it drains the LRU batches."""
        self.channels.probe.settle(rcu=rcu)

    def sample(self, slot: int) -> None:
        """Read all counters into a slot."""
        self.channels.probe.sample(slot)
        if self._kit.cgroups is not None:
            self._memcg[slot] = {
                name: served.channel.request("memcg", timeout=_QUICK).blob.decode("ascii", "replace")
                for name, served in self._guests.items()
            }

    def fetch(self, slot: int) -> Sample:
        """The counters of a slot, with those of the guests' memory cgroups."""
        sample = self.channels.probe.fetch(slot, {guest.pid: guest.name for guest in self.state.guests})
        values: dict[str, int] = dict(sample.values)
        raw: dict[str, str] = dict(sample.raw)
        for name, text in self._memcg.get(slot, {}).items():
            values |= memcg.parse(text, name)
            raw[f"memcg/{name}/memory.stat"] = text
        return replace(sample, values=MappingProxyType(dict(sorted(values.items()))), raw=MappingProxyType(raw))

    # -- what a scenario does to it

    def fallocate(self, guest: str, mode: str, offset: int, length: int, *, timeout: float) -> None:
        """By the guest's own process, so that pages are charged to its memory cgroup."""
        line = f"fallocate mode={mode} off={offset} len={length}"
        try:
            self._guests[guest].channel.request(line, timeout=timeout)
        except RemoteError as error:
            raise ProbeError(str(error), error.code) from error

    def end_guest(self, name: str, *, timeout: float) -> None:
        """End the guest's process; its memory cgroup stays until the testbed ends, so that it can be read."""
        self.channels.probe.unwatch(self.guest(name).pid)  # the probe's descriptor would keep the guest_memfd alive
        self._guests[name].channel.request("quit", timeout=timeout)

    def save(self, folder: Path) -> None:
        """Raises ``InfraError``: there is nothing that could be restored."""
        raise InfraError("a bare testbed cannot be saved")

    # -- life

    def close(self) -> None:
        """Give back processes and memory cgroups; safe to call twice."""
        self._exit.close()

    def __enter__(self) -> LocalTestbed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
