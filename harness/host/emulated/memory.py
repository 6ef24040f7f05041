# SPDX-License-Identifier: GPL-2.0-only
"""The shared side of the guests on a host: its settings before they start, the proof once they run."""

from __future__ import annotations

import re

from harness.errors import InfraError
from harness.guest.backing import BackingRecord
from harness.guest.launch import GuestSpec
from harness.host.emulated.control import Control
from harness.host.probe import ProbeClient, ProbeError


def set_up_memory(backing: BackingRecord, memory_mib: int, probe: ProbeClient) -> None:
    """What the host needs for guests of ``memory_mib`` MiB together; each setting is read back.

    Raises ``InfraError`` where the kernel under test does not have it.
    """
    for path, value in backing.host_settings(memory_mib):
        try:
            now = probe.write(path, value).now or ""
        except ProbeError as error:
            raise InfraError(f"the kernel under test cannot give guests {backing.says}: {error}") from error
        if value != now and f"[{value}]" not in now.split():
            raise InfraError(f"{path} says {now!r} after {value!r} was written: guests need {backing.says}")


def check_memory(guest: GuestSpec, pid: int, ram: int, control: Control) -> None:
    """Raises ``InfraError`` where the guest's RAM is not what its backing says: what follows would show nothing."""
    if guest.launch.in_place:
        return
    # smaps as a whole is some 300 kB, for every library of QEMU
    wanted = f"^[0-9a-f]+-|^Rss:|^{guest.backing.huge_field}:"
    smaps = control.check(["grep", "-E", wanted, f"/proc/{pid}/smaps"])
    if wrong := guest.backing.wrong(smaps, ram, guest.memory_mib):
        raise InfraError(f"the memory of guest {guest.name} is not {guest.backing.says}: {wrong}")


def ram_address(name: str, blocks: str) -> int:
    """Where QEMU maps the RAM, out of its list of blocks; raises ``InfraError`` for a list without it."""
    for line in blocks.splitlines():
        words = line.split()
        if words and words[0].rpartition("/")[2] == "ram0" and re.fullmatch("0x[0-9a-f]+", words[-2]):
            return int(words[-2], 16)
    raise InfraError(f"QEMU of {name} does not say where its RAM is: {blocks[:300]!r}")
