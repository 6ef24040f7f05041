# SPDX-License-Identifier: GPL-2.0-only
"""Records what QEMU and the guest say of the guest's kind, for ``proof.prove``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from harness.guest.qmp import QmpRefused
from harness.guest.tee.proof import Facts

GMEM_LINK = "[kvm-gmem]"
"""In the target of /proc/PID/fd/N of a guest_memfd: ``anon_inode:[kvm-gmem]``, since it has a file system of its own
``[kvm-gmem]`` with more around it (virt/kvm/guest_memfd.c)."""


class Monitor(Protocol):
    """QMP of one QEMU, as ``QmpSession`` gives it."""

    def execute(self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float = 10.0) -> Any:
        """Answer of a command; raises ``QmpRefused`` for one that QEMU refuses."""


def host_facts(monitor: Monitor, links: Iterable[str] | None = None) -> Facts:
    """What the host's side says.

    ``links``: targets of the links in /proc/PID/fd of that QEMU; None where they were not read.  Raises ``QmpLost``.
    """
    gmem = None if links is None else sum(GMEM_LINK in link for link in links)
    return Facts(object_type=_object_type(monitor), query_sev=_answer(monitor, "query-sev"), gmem_files=gmem)


def _object_type(monitor: Monitor) -> str | None:
    """Type of the object behind the machine's link; '' for an empty link, None for a machine without the link."""
    link = _answer(monitor, "qom-get", {"path": "/machine", "property": "confidential-guest-support"})
    if not isinstance(link, str):
        return None
    if not link:
        return ""
    found = _answer(monitor, "qom-get", {"path": link, "property": "type"})
    return found if isinstance(found, str) else None


def _answer(monitor: Monitor, command: str, arguments: Mapping[str, object] | None = None) -> Any:
    """None for what this QEMU refuses."""
    try:
        return monitor.execute(command, arguments)
    except QmpRefused:
        return None


def with_guest(facts: Facts, *, log: str | None, cpuinfo: str | None, vmpl: bool | None) -> Facts:
    """The same with what the guest's side says: its kernel's log, /proc/cpuinfo, whether there is ``proof.SEV_VMPL``.

    The log has to begin with the boot: one that lost its first lines is None.
    """
    return replace(
        facts,
        features=None if log is None else features_line(log),
        cpu_flags=None if cpuinfo is None else flags_of(cpuinfo),
        vmpl=vmpl,
    )


def features_line(log: str) -> str:
    """What a guest's kernel log says of memory encryption; '' when it says nothing of it."""
    found = re.search(r"Memory Encryption Features active: *([^\r\n]*)", log)
    return found[1].strip() if found else ""


def flags_of(cpuinfo: str) -> frozenset[str]:
    """The flags of the first CPU in /proc/cpuinfo."""
    found = re.search(r"^flags\s*: (.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()
