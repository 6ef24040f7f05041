# SPDX-License-Identifier: GPL-2.0-only
"""What a holder needs of a testbed, and the emulated testbed as such."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from harness.cache import ContentCache
from harness.errors import GmemError, InfraError
from harness.guest.console import find_crash, read_console
from harness.host.emulated.prepare import Clock
from harness.host.emulated.reach import HOST
from harness.host.emulated.state import TestbedState
from harness.host.emulated.testbed import Lab, Testbed
from harness.host.lab.record import Plan

MONITOR_SECONDS = 3.0
"""Deadline for a monitor's answer to a status request; it answers in milliseconds."""
BUSY_SECONDS = 10.0
"""How long a request waits for one that is going on; a save takes half a second."""


class Held(Protocol):
    """A testbed that is up.  Requests may come from several threads."""

    @property
    def qemu(self) -> int:
        """Process id whose end is the end of the testbed."""

    @property
    def run(self) -> Path:
        """The directory that is gone when the testbed is."""

    @property
    def state(self) -> TestbedState:
        """Pids, addresses and keys."""

    def greet(self) -> None:
        """One harmless request to every monitor."""

    def pulse(self) -> None:
        """Raises ``GmemError`` when the machine does not answer at all; waits a few seconds at most."""

    def health(self) -> dict[str, str]:
        """State of ``host`` (``running`` when all is well) and of every guest, in a few words; ``crash`` if there is
        one on a console.  Waits some seconds at most."""

    def save(self, folder: Path) -> None:
        """Write the state; the testbed goes on."""

    def ssh_port(self, machine: str) -> int:
        """The port of the loopback that leads to the host's SSH, for a session with ``host`` or a guest."""

    def last_words(self) -> str:
        """Why it is no longer up."""

    def close(self) -> None:
        """Give everything back."""


class BringUp(Protocol):
    """Brings the testbed of a plan up; raises ``GmemError``, and leaves nothing then."""

    def __call__(self, plan: Plan, evidence: Path, clock: Clock, /) -> Held: ...


def bring_up_emulated(plan: Plan, evidence: Path, clock: Clock) -> Held:
    """An emulated testbed, restored or booted."""
    lab = Lab(ContentCache(Path(plan.root)), kernel=Path(plan.image), initrd=Path(plan.initrd))
    if plan.saved:
        testbed = lab.restored(plan.spec, Path(plan.saved), evidence, clock)
    else:
        testbed = lab.booted(plan.spec, evidence, clock)
    return EmulatedHeld(testbed)


class EmulatedHeld:
    """An emulated testbed under a lock: its channels carry one request at a time."""

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed
        self._lock = threading.Lock()

    @property
    def qemu(self) -> int:
        return self._testbed.machine.pid

    @property
    def run(self) -> Path:
        return self._testbed.run

    @property
    def state(self) -> TestbedState:
        return self._testbed.state

    def greet(self) -> None:
        with self._locked(BUSY_SECONDS):
            for guest in self._testbed.spec.guests:
                with self._testbed.channels.monitor(guest.name) as monitor:
                    monitor.execute("query-status", timeout=MONITOR_SECONDS)

    def pulse(self) -> None:
        self._testbed.machine.qmp.execute("query-status", timeout=MONITOR_SECONDS)

    def health(self) -> dict[str, str]:
        words = {}
        try:
            with self._locked(BUSY_SECONDS):
                answer = self._testbed.machine.qmp.execute("query-status", timeout=MONITOR_SECONDS)
                words["host"] = str(answer["status"])
                for guest in self._testbed.state.guests:
                    words[guest.name] = self._testbed.channels.control.status(guest.pid)
        except GmemError as error:
            words["host"] = f"does not answer ({error})"
        crash = self._crash()
        return words | ({"crash": crash} if crash else {})

    def save(self, folder: Path) -> None:
        with self._locked(BUSY_SECONDS):
            machine = self._testbed.machine
            try:
                self._testbed.save(folder)
            except GmemError:
                with contextlib.suppress(GmemError):  # the reason is what the save said
                    machine.qmp.execute("migrate_cancel", timeout=MONITOR_SECONDS)
                    machine.resume()
                raise
            machine.resume()

    def ssh_port(self, machine: str) -> int:
        with self._locked(BUSY_SECONDS):
            if machine != HOST:
                state = self._testbed.channels.control.status(self._testbed.guest(machine).pid)
                if state != "running":
                    raise InfraError(f"guest {machine} is gone: its QEMU {state}")
            return self._testbed.ssh_port(machine)

    def last_words(self) -> str:
        crash = self._crash()
        return self._testbed.machine.last_words() + (f"; before that, {crash}" if crash else "")

    def close(self) -> None:
        self._testbed.close()

    def _crash(self) -> str:
        for name in ("host", *(guest.name for guest in self._testbed.spec.guests)):
            crash = find_crash(read_console(self._testbed.console(name)))
            if crash:
                return f"the kernel of {name} printed: {crash.title}"
        return ""

    @contextlib.contextmanager
    def _locked(self, seconds: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=seconds):
            raise InfraError("the testbed is busy with another request; try again")
        try:
            yield
        finally:
            self._lock.release()
