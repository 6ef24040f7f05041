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

from harness.errors import InfraError, LeakError, NothingRanError
from harness.guest.agent import GuestAgent
from harness.guest.launch import Places
from harness.host.config.host import HostConfig
from harness.host.config.knobs import before_each as actions
from harness.host.config.knobs import wanted as knobs
from harness.host.emulated.control import Control
from harness.host.emulated.launching import STAND_INS, GuestLost, Starter
from harness.host.emulated.prepare import PCP_FRACTION, Clock, prepare
from harness.host.emulated.state import Channels, TestbedSpec
from harness.host.emulated.testbed import DESCRIPTION
from harness.host.frames import RemoteError
from harness.host.knobs.before import before_each
from harness.host.knobs.kernel_log import end_of_log, read_log
from harness.host.knobs.leaks import HostSnapshot, leaks, snapshot
from harness.host.knobs.lending import Lent, lent
from harness.host.knobs.values import selected
from harness.host.probe import ProbeClient
from harness.host.probed import GuestCrash, ProbedTestbed
from harness.host.reach import Reach, check
from harness.host.remote.files import ROOT, Payload, install
from harness.host.remote.klog import Append, KernelLog
from harness.host.remote.link import RelayLink
from harness.host.remote.window import Window, WindowChannel

T = TypeVar("T")
_END_SECONDS = 10.0
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


class RemoteTestbed(ProbedTestbed):
    """Guests on a host that is not ours; use it as a context manager."""

    judges = ("[!f]*", "f[!r]*", "fr[!a]*", "frames/gone", "frames/kept")
    """All but frames/back and frames/new: between two windows the host's network takes frames from the same lists."""
    answers_at_once = False

    def __init__(
        self, lent: Lent, folder: str, spec: TestbedSpec, evidence: Path, clock: Clock, starter: Starter = STAND_INS
    ) -> None:
        self._exit = contextlib.ExitStack()
        self._lent = lent
        self._reach = reach = lent.reach
        self._before = _not_settled(snapshot(reach))
        self._log = end_of_log(reach)
        self._gmem: list[int] = []
        """Pages of guest_memfd on the whole host, before the guests were started and after they ended."""
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
            self._set_memory()
            self._count_gmem()
            self._exit.callback(self._end_guests)
            self._state = prepare(self.spec, self.channels, evidence, clock, own_host=False, starter=starter)
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

    def _set_memory(self) -> None:
        """What preparing a testbed sets of the host, set before it: written down first, and set back by us."""
        memory = sum(guest.memory_mib for guest in self.spec.guests)
        for path, value in (*self.spec.backing.host_settings(memory), (_LISTS, str(PCP_FRACTION))):
            self._lent.set(path, value)
            self._exit.callback(self._lent.set, path, selected(self._lent.first[path]))

    def _count_gmem(self) -> None:
        """At rest: batches of the LRU lists and of RCU are behind us."""
        self.channels.probe.settle()
        self._gmem.append(self.channels.probe.census().gmem)

    def _end_guests(self) -> None:
        """All that still run, and see what is left of their memory; a host that is lost is not asked."""
        with contextlib.suppress(InfraError):
            self.channels.probe.unwatch()
            for pid in self.channels.control.children:
                with contextlib.suppress(RemoteError):
                    self.channels.control.end(pid, timeout=_END_SECONDS)
            self._count_gmem()

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
        """Raises ``LeakError`` when the host did not get everything back."""
        self.close()
        if kind is None:
            self.check_leaks()

    def check_leaks(self) -> None:
        """After the end: raises ``LeakError`` with what the host did not get back, or says that is amiss."""
        self._lent.beat()
        found = leaks(self._before, _not_settled(snapshot(self._reach)), read_log(self._reach, self._log))
        if len(self._gmem) != 2:
            raise InfraError(f"host {self.link.name} did not say what was left of the guests' memory after they ended")
        if (lost := self._gmem[1] - self._gmem[0]) > 0:
            found.append(f"{lost} pages of guest_memfd are still there although all guests ended")
        if found:
            raise LeakError(f"after the case, on host {self.link.name}: {'; '.join(found)}")

    # -- what is known of it

    @property
    def machine(self) -> _Reached:
        """Whether it is still reached."""
        return _Reached(self.link)

    # -- what a scenario does to it

    def undisturbed(self, work: Callable[[], T], *, rehearsal: Callable[[], T]) -> T:
        """The result of ``work``, with no traffic to the host from its first to its last request where that can be."""
        return Window(self.link, tuple(self._windows)).undisturbed(work, rehearsal)

    def cap_lists(self, fraction: int) -> None:
        """Set back when the testbed ends."""
        self._lent.set(_LISTS, str(fraction))

    def end_guest(self, name: str, *, timeout: float) -> None:
        """Kill the guest's QEMU and collect it, in one request: what the kernel does with its memory is the same."""
        pid = self.guest(name).pid
        self.channels.probe.unwatch(pid)  # the probe's descriptor would keep the guest_memfd alive
        self.channels.control.end(pid, timeout=timeout)

    def save(self, folder: Path) -> None:
        """There is nothing that could be saved."""
        raise InfraError("a testbed on a host that runs cannot be saved")


def _not_settled(shot: HostSnapshot) -> HostSnapshot:
    """A snapshot without what only a host at rest tells: the census does that better."""
    return replace(shot, meminfo={})


class RemoteTestbeds:
    """Hands out testbeds of one host, which is ours from the first one on; ``close`` gives it back."""

    def __init__(
        self,
        reach: Reach,
        wanted: Payload,
        host: HostConfig,
        option: str,
        notice: Callable[[str], None],
        starter: Starter = STAND_INS,
    ) -> None:
        """``option``: what ``--host`` was, for sentences.  ``starter`` says how guests are started."""
        self.reach = reach
        self._starter = starter
        self._exit = contextlib.ExitStack()
        self._exit.callback(reach.close)
        self._payload = wanted
        self._host = host
        self._option = option
        self._notice = notice
        self._lent: Lent | None = None
        nodes = "ls -d /sys/devices/system/node/node[0-9]* 2>/dev/null || echo node0"
        self._nodes = len(check(reach, ["sh", "-c", nodes]).split())

    def _borrowed(self) -> Lent:
        """The host, locked and set as its file says."""
        if self._lent is None:
            purpose = "gmem run"
            self._lent = self._exit.enter_context(
                lent(
                    self.reach, self._host.name, knobs(self._host),
                    purpose=purpose, notice=self._notice, host=self._option,
                )
            )  # fmt: skip
            self._lent.made(ROOT)
        return self._lent

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
        """A testbed of that shape, brought up.

        One of which a guest's kernel crashes or hangs while it is brought up is brought up once more, before anything
        is asked of it, and that is said: under nested emulation it happens in one of some twenty boots of guests.  The
        host's own kernel has no second try.
        """
        clock.begin("host")
        borrowed = self._borrowed()
        before_each(self.reach, actions(self._host))
        clock.begin("install")
        folder = install(self.reach, self._payload)
        clock.begin("guests")
        before = set(evidence.iterdir()) if evidence.is_dir() else set()
        try:
            return RemoteTestbed(borrowed, folder, spec, evidence, clock, self._starter)
        except (GuestCrash, GuestLost) as error:
            self._notice(f"{error}; bringing it up again")
        left = [path for path in evidence.iterdir() if path not in before]
        aside = evidence / "start-1"
        aside.mkdir()
        for path in left:
            path.rename(aside / path.name)
        return RemoteTestbed(borrowed, folder, spec, evidence, clock, self._starter)

    def close(self) -> None:
        """Give the host back, and end the connection."""
        self._exit.close()
