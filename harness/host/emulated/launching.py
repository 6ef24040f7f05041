# SPDX-License-Identifier: GPL-2.0-only
"""Starts the guests of a testbed, and waits until each is up or says why it is not.

Which command line a guest gets and what its QEMU's last words mean depends on the kind of host: a ``Starter`` knows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from harness.errors import GmemError, InfraError, NoBootError
from harness.guest.console import read_console
from harness.guest.launch import GuestSpec, guest_command
from harness.host.emulated.control import Control
from harness.host.emulated.state import Channels

GUEST_SECONDS = 180.0
"""Deadline for a guest's boot under nested emulation; it takes 4 s on an idle machine, and took more than a minute on
two cores with sixteen programs running."""
SILENT_SECONDS = 75.0
"""A guest that prints nothing for that long hangs, as one does under nested emulation now and then: a whole boot took
little more than a minute with sixteen programs running, and lines come all the time."""
_CPUID_ENCRYPTED_MEMORY = 0x8000001F
_ENDED_BY_GUEST = "exited with status 0"


class GuestLost(InfraError):
    """A guest that hangs or resets itself while it boots, and its QEMU knows no reason: another attempt may go well."""


class Starter(Protocol):
    """One way to start guests on a host."""

    silent_seconds: float
    """How long a guest's console may stand still before it is up."""

    def command(self, guest: GuestSpec, control: Control) -> tuple[list[str], dict[str, str]]:
        """Arguments and environment of the guest's QEMU; raises ``GmemError`` where the host cannot have it."""

    def failed(self, guest: GuestSpec, what: str, said: str, console: str) -> GmemError:
        """The error for a guest that did not come up.

        ``what`` became of its QEMU (``exited with status 1``), what that ``said`` on standard error, and the last line
        of the guest's console.
        """

    def came_up(self, guest: GuestSpec, pid: int, channels: Channels) -> None:
        """Look at a guest that is up, before anything is done with it; raises ``InfraError`` for a wrong one."""


def start_guests(starter: Starter, guests: Sequence[GuestSpec], control: Control, evidence: Path) -> dict[str, int]:
    """Start all; process id by the guest's name."""
    pids = {}
    for guest in guests:
        arguments, environment = starter.command(guest, control)
        script = [f"{key}={value}" for key, value in sorted(environment.items())]
        (evidence / f"{guest.name}-qemu.txt").write_text(
            "# run on the host under test\n" + " \\\n    ".join([*script, *arguments]) + "\n"
        )
        pids[guest.name] = control.spawn(arguments, environment, guest.error_log)
    return pids


def wait_guest(starter: Starter, guest: GuestSpec, pid: int, channels: Channels, evidence: Path) -> None:
    """Wait until the guest's first process says that it is up."""
    console = evidence / f"{guest.name}-console.txt"
    end = time.monotonic() + GUEST_SECONDS
    said: str | None = None
    still = end
    while f"gmem: guest {guest.name} is up" not in (text := read_console(console)):
        if text != said:
            said, still = text, time.monotonic() + starter.silent_seconds
        state = channels.control.status(pid)
        if state != "running":
            error = _failed(starter, guest, f"its QEMU {state}", channels.control, console)
            # with -no-reboot a guest that resets itself ends a QEMU that has nothing to complain of
            raise _lost(error) if state == _ENDED_BY_GUEST else error
        if not channels.machine_runs():
            raise InfraError("the outer QEMU ended while a guest was booting")
        if time.monotonic() > end:
            what = f"it did not come up within {GUEST_SECONDS:g} s"
            raise _failed(starter, guest, what, channels.control, console)
        if time.monotonic() > still:
            what = f"its console stood still for {starter.silent_seconds:g} s before it was up"
            raise _lost(_failed(starter, guest, what, channels.control, console))
        time.sleep(0.02)


def _lost(error: GmemError) -> GmemError:
    """The same of a guest that may come up at another attempt; what the kernel under test lacks stays what it is."""
    return GuestLost(str(error)) if isinstance(error, InfraError) else error


def _failed(starter: Starter, guest: GuestSpec, what: str, control: Control, console: Path) -> GmemError:
    said = control.get(guest.error_log).decode("utf-8", "replace")
    last = next((line for line in reversed(read_console(console).splitlines()) if line.strip()), "nothing")
    return starter.failed(guest, what, said, last[:200])


class StandIns:
    """Guests of the emulated host, and of what stands in its place: ``harness.guest.launch``."""

    silent_seconds = SILENT_SECONDS

    def command(self, guest: GuestSpec, control: Control) -> tuple[list[str], dict[str, str]]:
        """See ``Starter``."""
        return guest_command(guest, cbitpos=control.cpuid(_CPUID_ENCRYPTED_MEMORY)["ebx"] & 0x3F)

    def failed(self, guest: GuestSpec, what: str, said: str, console: str) -> GmemError:
        """The kernel's fault where QEMU names a missing KVM feature."""
        lines = [line for line in said.splitlines() if line.strip() and "warning: host doesn't support" not in line]
        last = lines[-1][:300] if lines else "it printed no error"
        for sign, why in _KERNEL_LACKS:
            if sign in said:
                return NoBootError(f"the kernel under test came up, but {why} (QEMU says: {last})")
        return InfraError(
            f"guest {guest.name} did not start: {what}; QEMU says: {last}; its console ends with: {console}"
        )

    def came_up(self, guest: GuestSpec, pid: int, channels: Channels) -> None:
        """Nothing is to be looked at: the interposers refuse anything else than what they are for."""


STAND_INS = StandIns()

_KERNEL_LACKS = (
    (
        "vm-type SEV-SNP not supported by KVM",
        "KVM offers no software-protected VM: CONFIG_KVM_SW_PROTECTED_VM (with CONFIG_EXPERT) is needed",
    ),
    ("KVM makes no software-protected VM", "KVM offers no software-protected VM: CONFIG_KVM_SW_PROTECTED_VM is needed"),
    ("guest_memfd", "KVM makes no guest_memfd: CONFIG_KVM_GUEST_MEMFD is needed (Linux 6.8 or later)"),
    ("Could not access KVM kernel module", "KVM cannot be used"),
    ("failed to initialize kvm", "KVM cannot be used"),
)
