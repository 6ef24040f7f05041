# SPDX-License-Identifier: GPL-2.0-only
"""What every testbed has whose host is read by the probe, and whose guests have QEMUs with consoles."""

from __future__ import annotations

from pathlib import Path

from harness.counters.sample import Sample
from harness.errors import CrashError, InfraError
from harness.guest.console import find_crash, read_console
from harness.host.emulated.state import Channels, GuestState, TestbedSpec, TestbedState


class GuestCrash(CrashError):
    """It was a guest's kernel that crashed, not the one under test."""


class ProbedTestbed:
    """The part of ``harness.host.testbed.Testbed`` that does not depend on how a testbed came up."""

    answers_at_once = True
    spec: TestbedSpec
    evidence: Path
    channels: Channels
    _state: TestbedState | None = None

    @property
    def state(self) -> TestbedState:
        """What is known of kernel and guests, keys among it; raises ``InfraError`` before the testbed is ready."""
        if self._state is None:
            raise InfraError("the testbed is not ready yet")
        return self._state

    def guest(self, name: str) -> GuestState:
        """What is known of a guest by name; raises ``InfraError`` for an unknown one."""
        for guest in self.state.guests:
            if guest.name == name:
                return guest
        raise InfraError(f"the testbed has no guest {name}")

    def console(self, who: str) -> Path:
        """Console file of ``host`` or of a guest."""
        return self.evidence / f"{who}-console.txt"

    def trace_log(self, guest: str) -> Path:
        """The trace log of a guest's QEMU."""
        return self.evidence / f"{guest}-qemu.log"

    def check_consoles(self) -> None:
        """Raises ``CrashError`` when the console of host or guest shows an oops, WARN, BUG, lockup or panic."""
        for who in ("host", *(guest.name for guest in self.spec.guests)):
            crash = find_crash(read_console(self.console(who)))
            if crash:
                where = f"printed: {crash.title} (line {crash.line} of {who}-console.txt)"
                if who == "host":
                    raise CrashError(f"the kernel under test {where}")
                raise GuestCrash(f"guest {who} {where}")

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
