# SPDX-License-Identifier: GPL-2.0-only
"""What neither the kernel's configuration nor a symbol tells, nor QEMU's version: it is tried.

On a chunk of the guest that no scenario uses, before the caches are warmed.  A backing's record asks what the kernel
does with huge pages of the shared side; whether QEMU populates what it converts, its own trace says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.errors import InfraError
from harness.guest.agent import CHUNK_PAGES, GuestAgent
from harness.guest.console import read_console
from harness.guest.conversions import parse_trace
from harness.guest.qmp import QmpSession
from harness.host.probe import ProbeClient

_SECONDS = 30.0
_HALF = CHUNK_PAGES // 2
_WHOLE = _HALF // 2
"""A read of a page maps what is present of its 64 KiB, 16 pages, or the whole folio of half a chunk: 256."""


def huge_zero_replaced(agent: GuestAgent, region: int, probe: ProbeClient) -> bool:
    """Whether a write under the huge zero folio gets a huge folio (7.3), or one page after a split (6.12).

    mm/huge_memory.c:do_huge_zero_wp_pmd, which a compiler makes part of its only caller.
    """
    _give_up(agent, region)
    agent.touch(region, 0, 1, stride=1, write=False, gen=0, timeout=_SECONDS)
    before = _vmstat(probe, "thp_fault_alloc")
    agent.touch(region, 0, 1, stride=1, write=True, gen=0, timeout=_SECONDS)
    return _vmstat(probe, "thp_fault_alloc") > before


def whole_folio_around(agent: GuestAgent, region: int, probe: ProbeClient) -> bool:
    """Whether a read fault on a file maps a large folio whole (7.3), or what of it lies in its 64 KiB (6.12).

    mm/filemap.c:filemap_map_pages.  A hole of one page leaves a folio of half the chunk, unless splits are uniform.
    """
    _give_up(agent, region)
    agent.touch(region, 0, 1, stride=1, write=True, gen=0, timeout=_SECONDS)
    agent.convert(region, 0, 1, private=True, timeout=_SECONDS)
    before = _vmstat(probe, "nr_mapped")
    agent.touch(region, _HALF, 1, stride=1, write=False, gen=0, timeout=_SECONDS)
    return _vmstat(probe, "nr_mapped") - before > _WHOLE


QUESTIONS: Mapping[str, Callable[[GuestAgent, int, ProbeClient], bool]] = {
    "thp.huge_zero_replaced": huge_zero_replaced,
    "shmem.whole_folio_around": whole_folio_around,
}
"""By the name of the fact."""


def answer(name: str, agent: GuestAgent, region: int, probe: ProbeClient) -> Mapping[str, str]:
    """The fact of that name, ``y`` or ``n``; none for ''."""
    return {name: "y" if QUESTIONS[name](agent, region, probe) else "n"} if name else {}


PREFAULTS = "qemu.prefaults"
"""The fact whether QEMU has KVM populate what it converted."""
_IOCTL_EVENT = "kvm_vcpu_ioctl"
_PRE_FAULT_MEMORY = "type 0xc040aed5,"
"""KVM_PRE_FAULT_MEMORY as QEMU traces it (accel/kvm/trace-events)."""
_LOG_SECONDS = 10.0
_POLL = 0.02


def prefaults(agent: GuestAgent, region: int, monitor: QmpSession, log: Path) -> Mapping[str, str]:
    """The fact ``PREFAULTS``: whether QEMU asks for it when the guest converts a page.  ``log`` is QEMU's.

    What KVM makes of the request is not looked at: a kernel that populates by itself is not excused.  Raises
    ``InfraError`` where QEMU traces nothing.
    """
    before = log.stat().st_size if log.exists() else 0  # of a host that is reached, it begins with its first line
    monitor.execute("trace-event-set-state", {"name": _IOCTL_EVENT, "enable": True})
    try:
        # The line of the second conversion stands behind everything of the first.
        for private in (True, False):
            agent.convert(region, 0, 1, private=private, timeout=_SECONDS)
    finally:
        monitor.execute("trace-event-set-state", {"name": _IOCTL_EVENT, "enable": False})
    end = time.monotonic() + _LOG_SECONDS
    while len(parse_trace(text := read_console(log, before))) < 2:
        if time.monotonic() > end:
            raise InfraError(f"QEMU traced no conversion in {log.name} within {_LOG_SECONDS:g} s")
        time.sleep(_POLL)
    return {PREFAULTS: "y" if _PRE_FAULT_MEMORY in text else "n"}


def _give_up(agent: GuestAgent, region: int) -> None:
    """The chunk is shared and nothing of it is there, not even a page table."""
    for private in (True, False):
        agent.convert(region, 0, CHUNK_PAGES, private=private, timeout=_SECONDS)


def _vmstat(probe: ProbeClient, name: str) -> int:
    probe.settle()  # folds the per-CPU differences
    for line in probe.read("/proc/vmstat").decode().splitlines():
        counter, _, value = line.partition(" ")
        if counter == name:
            return int(value)
    raise InfraError(f"/proc/vmstat of the kernel under test has no {name}")
