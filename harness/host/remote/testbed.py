# SPDX-License-Identifier: GPL-2.0-only
"""Testbeds on a host that runs already: for each case guests are started afresh, and everything is given back after it.

The host is reached over SSH alone.  Nothing can be restored there: a testbed is brought up as the emulated host's is
before it is saved, and what was set of the host's memory is set back.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from harness.counters.sample import Sample
from harness.errors import CrashError, InfraError, NothingRanError
from harness.guest.agent import GuestAgent
from harness.guest.console import find_crash, read_console
from harness.guest.launch import Places
from harness.host.emulated.control import Control
from harness.host.emulated.prepare import Clock, prepare
from harness.host.emulated.state import Channels, GuestState, TestbedSpec, TestbedState
from harness.host.emulated.testbed import DESCRIPTION
from harness.host.probe import ProbeClient, ProbeError
from harness.host.reach import Reach, check
from harness.host.remote.files import ROOT, Payload, install
from harness.host.remote.klog import Append, KernelLog
from harness.host.remote.link import RelayLink
from harness.host.remote.window import Window, WindowChannel

T = TypeVar("T")
_END_SECONDS = 10.0
_POLL = 0.02
_LISTS = "/proc/sys/vm/percpu_pagelist_high_fraction"


class _Reached:
    """The host as ``harness.host.testbed.Machine``."""

    def __init__(self, link: RelayLink) -> None:
        self._link = link

    @property
    def running(self) -> bool:
        """Whether the relay there can be asked."""
        return self._link.alive

    def last_words(self) -> str:
        """Part of a sentence."""
        return f"host {self._link.name} is not reached any more"


class RemoteTestbed:
    """Guests on a host that is not ours; use it as a context manager."""

    judges = ("*",)

    def __init__(self, reach: Reach, folder: str, spec: TestbedSpec, evidence: Path, clock: Clock) -> None:
        self._exit = contextlib.ExitStack()
        self._reach = reach
        self.evidence = evidence
        evidence.mkdir(parents=True, exist_ok=True)
        own = f"{ROOT}/testbed-{secrets.token_hex(4)}"
        places = Places(files=folder, ports=f"{own}/", logs=f"{own}/", forwards=False)
        self.spec = replace(spec, guests=tuple(replace(guest, places=places) for guest in spec.guests))
        self._windows: list[WindowChannel] = []
        self._streams: dict[str, int] = {}
        try:
            check(reach, ["mkdir", "-m", "0700", own])
            self._exit.callback(self._remove, own)
            self.link = self._exit.enter_context(RelayLink(reach, f"{folder}/gmem-relay"))
            self.link.kernel_log(KernelLog(self.console("host")))
            self.channels = self._open_channels(folder, own)
            self._exit.callback(self._set_back, self._settings())
            self.state: TestbedState = prepare(self.spec, self.channels, evidence, clock, own_host=False)
            self.check_consoles()
        except BaseException as error:
            self._exit.close()
            if isinstance(error, InfraError):
                self.check_consoles()  # a crash explains whatever else failed
            raise

    # -- coming and going

    def _open_channels(self, folder: str, own: str) -> Channels:
        """Each program and each of a guest's ports is a stream; the ports have to be there before QEMU opens them."""
        probe = self._channel(self.link.program("probe", [f"{folder}/gmem-probe"]), "probe")
        control = self._channel(self.link.program("control", [f"{folder}/gmem-control"]), "control")
        agents = {}
        for guest in self.spec.guests:
            port = f"{own}/{guest.name}"
            self.link.fifos("console", reads=f"{port}.console", sink=Append(self.console(guest.name)))
            self.link.fifos("log", reads=f"{port}.log", sink=Append(self.trace_log(guest.name)))
            agent = self.link.fifos("agent", reads=f"{port}.agent.out", writes=f"{port}.agent.in")
            self._streams[guest.name] = self.link.fifos("monitor", reads=f"{port}.qmp.out", writes=f"{port}.qmp.in")
            agents[guest.name] = GuestAgent(guest.name, self._channel(agent, f"agent of {guest.name}"))
        return Channels(
            control=Control(f"host {self.link.name}", control),
            probe=ProbeClient(probe),
            agents=agents,
            bridge=self._bridge,
            evidence=self.evidence,
            machine_runs=lambda: self.link.alive,
        )

    def _channel(self, stream: int, peer: str) -> WindowChannel:
        channel = WindowChannel(
            self.link, stream, self.evidence / f"{peer.replace(' ', '-')}-transcript.txt", peer=peer
        )
        self._windows.append(channel)
        self._exit.callback(channel.close)
        return channel

    def _bridge(self, guest: str) -> tuple[socket.socket, Callable[[], None]]:
        sock = self.link.attach(self._streams[guest])
        return sock, sock.close

    def _settings(self) -> list[tuple[str, str]]:
        """What is going to be set of the host, as it is now."""
        paths = [path for path, _ in self.spec.backing.host_settings(0)]
        found = []
        for path in dict.fromkeys([*paths, _LISTS]):
            with contextlib.suppress(ProbeError):
                text = self.channels.probe.read(path).decode("utf-8", "replace").strip()
                selected = [word[1:-1] for word in text.split() if word.startswith("[") and word.endswith("]")]
                found.append((path, selected[0] if selected else text))
        return found

    def _set_back(self, settings: list[tuple[str, str]]) -> None:
        """In reverse; the guests still run, and the relay ends them."""
        with contextlib.suppress(InfraError):
            for path, value in reversed(settings):
                self.channels.probe.write(path, value)

    def _remove(self, own: str) -> None:
        with contextlib.suppress(InfraError):
            self._reach.run(["rm", "-rf", own])

    def close(self) -> None:
        """End the guests and give everything back; safe to call twice."""
        self._exit.close()

    def __enter__(self) -> RemoteTestbed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what is known of it

    @property
    def machine(self) -> _Reached:
        """Whether it is still reached."""
        return _Reached(self.link)

    def guest(self, name: str) -> GuestState:
        """What is known of a guest by name; raises ``InfraError`` for an unknown one."""
        for guest in self.state.guests:
            if guest.name == name:
                return guest
        raise InfraError(f"the testbed has no guest {name}")

    def console(self, who: str) -> Path:
        """Console file of a guest, or the host's kernel log since the testbed was begun."""
        return self.evidence / f"{who}-console.txt"

    def trace_log(self, guest: str) -> Path:
        """The trace log of a guest's QEMU."""
        return self.evidence / f"{guest}-qemu.log"

    def check_consoles(self) -> None:
        """Raises ``CrashError`` when the kernel of host or guest printed an oops, WARN, BUG, lockup or panic."""
        for who in ("host", *(guest.name for guest in self.spec.guests)):
            crash = find_crash(read_console(self.console(who)))
            if crash:
                whose = "the kernel under test" if who == "host" else f"guest {who}"
                raise CrashError(f"{whose} printed: {crash.title} (line {crash.line} of {who}-console.txt)")

    # -- what a scenario does to it

    def undisturbed(self, work: Callable[[], T], *, rehearsal: Callable[[], T]) -> T:
        """The result of ``work``, with no traffic to the host from its first to its last request where that can be."""
        return Window(self.link, tuple(self._windows)).undisturbed(work, rehearsal)

    def settle(self, *, rcu: bool = True) -> None:
        """Bring the kernel's counters to rest."""
        self.channels.probe.settle(rcu=rcu)

    def sample(self, slot: int) -> None:
        """Read all counters into a slot on the host."""
        self.channels.probe.sample(slot)

    def fetch(self, slot: int) -> Sample:
        """The counters of a slot."""
        return self.channels.probe.fetch(slot, {guest.pid: guest.name for guest in self.state.guests})

    def fallocate(self, guest: str, mode: str, offset: int, length: int, *, timeout: float) -> None:
        """By the probe, on its own descriptor of the guest_memfd."""
        self.channels.probe.fallocate(self.guest(guest).pid, mode, offset, length, timeout=timeout)

    def end_guest(self, name: str, *, timeout: float) -> None:
        """Kill the guest's QEMU and collect it, in one request: what the kernel does with its memory is the same."""
        pid = self.guest(name).pid
        self.channels.probe.unwatch(pid)  # the probe's descriptor would keep the guest_memfd alive
        self.channels.control.end(pid, timeout=timeout)

    def save(self, folder: Path) -> None:
        """There is nothing that could be saved."""
        raise InfraError("a testbed on a host that runs cannot be saved")


class RemoteTestbeds:
    """Hands out testbeds of one host; ``close`` gives the connection back."""

    def __init__(self, reach: Reach, wanted: Payload) -> None:
        self.reach = reach
        self._payload = wanted
        self._cpus = int(check(reach, ["nproc"]))
        self._nodes = len(
            check(reach, ["sh", "-c", "ls -d /sys/devices/system/node/node[0-9]* 2>/dev/null || echo"]).split()
        )

    def saved(self, spec: TestbedSpec, evidence: Path, clock: Clock) -> Path:
        """A folder with the description of a testbed of that shape, which was brought up and ended once."""
        if spec.machine.nodes > self._nodes:
            raise NothingRanError(
                f"host {self.reach.name} has {self._nodes} NUMA node, the case needs {spec.machine.nodes}"
            )
        folder = evidence / "description"
        with self.restored(spec, folder, evidence, clock) as testbed:
            folder.mkdir()
            testbed.state.save(folder / DESCRIPTION)
        return folder

    def restored(self, spec: TestbedSpec, saved: Path, evidence: Path, clock: Clock) -> RemoteTestbed:
        """A testbed of that shape, brought up."""
        clock.begin("install")
        folder = install(self.reach, self._payload)
        clock.begin("guests")
        return RemoteTestbed(self.reach, folder, spec, evidence, clock)

    def close(self) -> None:
        """End the connection."""
        self.reach.close()
