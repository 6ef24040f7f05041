# SPDX-License-Identifier: GPL-2.0-only
"""The texts that a host gave, and what is concluded from them."""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class HostProbe:
    """What one host printed, unjudged; None is a file that is not there or not readable, or a command that failed."""

    host: str
    """The host as sentences call it."""
    files: Mapping[str, str | None]
    """By absolute path."""
    commands: Mapping[str, str | None]
    """By the names of ``gather.COMMANDS``."""
    present: Mapping[str, bool]
    """Whether a device file or folder exists, by path."""
    kvmcaps: str | None = None
    """Standard output of ``gmem-kvmcaps``."""
    kvmcaps_failed: str = ""
    """Why there is none, or not all of it."""
    firmware: Mapping[str, str] = field(default_factory=dict)
    """Files of firmware there, by the kind of guest; their content is not looked at here."""

    def file(self, path: str) -> str | None:
        """Text of a file without the white space around it."""
        text = self.files.get(path)
        return None if text is None else text.strip()

    def command(self, name: str) -> str | None:
        """Output of a command; None when it failed."""
        return self.commands.get(name)

    def parameter(self, name: str) -> str | None:
        """``kvm_amd.sev_snp``: what the kernel prints for a module parameter; None when the module is not there."""
        module, _, parameter = name.partition(".")
        return self.file(f"/sys/module/{module}/parameters/{parameter}")

    @functools.cached_property
    def cmdline(self) -> tuple[str, ...]:
        """Words of the kernel's command line."""
        return tuple((self.file("/proc/cmdline") or "").split())

    @functools.cached_property
    def cpu(self) -> Mapping[str, str]:
        """The first CPU of ``/proc/cpuinfo``."""
        first = (self.file("/proc/cpuinfo") or "").split("\n\n")[0]
        pairs = (line.partition(":") for line in first.splitlines())
        return {key.strip(): value.strip() for key, colon, value in pairs if colon}

    @functools.cached_property
    def cpu_flags(self) -> frozenset[str]:
        """Words of its ``flags``; empty where there are none to read."""
        return frozenset(self.cpu.get("flags", "").split())

    @functools.cached_property
    def config(self) -> Mapping[str, str]:
        """The kernel's configuration without ``CONFIG_``; what is not set is ``n``; empty when nobody knows it."""
        text = self.command("config") or ""
        found = {name: "n" for name in re.findall(r"^# CONFIG_(\w+) is not set$", text, re.M)}
        found.update(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.M))
        return found

    @functools.cached_property
    def log(self) -> tuple[str, ...]:
        """Lines of the kernel's log since it booted, as far as they are kept."""
        return tuple((self.command("dmesg") or "").splitlines())

    def says(self, pattern: str) -> str:
        """First line of the kernel's log with it, without its time; "" when there is none."""
        for line in self.log:
            if re.search(pattern, line):
                return re.sub(r"^\[[ .0-9]+\]\s*(kernel: )?", "", line).strip()
        return ""

    @functools.cached_property
    def qemu_objects(self) -> frozenset[str] | None:
        """Words of ``-object help``; None when QEMU did not answer."""
        text = self.command("qemu objects")
        if text is None:
            return None
        return frozenset(line.strip().split()[0] for line in text.splitlines() if line.startswith(" ") and line.strip())


class State(enum.StrEnum):
    """Whether the host has something."""

    UNKNOWN = "unknown"
    YES = "yes"
    NO = "no"


@dataclass(frozen=True)
class Cause:
    """Why something is missing, and what mends it."""

    reason: str
    fix: str = ""


@dataclass(frozen=True)
class Capability:
    """One thing that a host may be able to do."""

    name: str
    state: State
    primary: str
    """What the question itself was answered."""
    supporting: tuple[str, ...] = ()
    """What else fits, or contradicts."""
    causes: tuple[Cause, ...] = ()
    """Why not, or why nobody knows."""
    unverified: bool = False
    """Written from the kernel's source and documentation; not yet confirmed on such a machine."""
