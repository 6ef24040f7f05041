# SPDX-License-Identifier: GPL-2.0-only
"""``host-configs/NAME.yaml``: one host under test."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from harness.errors import UsageError
from harness.host.config.settings import (
    Action,
    Count,
    Cpu,
    HugePages,
    Ksm,
    Numa,
    PageReporting,
    Section,
    Thp,
    Value,
    Vm,
)
from harness.host.reach import SshTarget

SCHEMA: Final = 1
TeeKind = Literal["snp", "tdx", "sw-protected", "plain", "bare"]
"""Kinds of guests: the three whose memory is private, a plain VM, and guest_memfd without a VM that runs."""
VmType = Literal["default", "sw-protected", "sev", "sev-es", "snp", "tdx"]
"""KVM_X86_*_VM of arch/x86/include/uapi/asm/kvm.h."""
KvmCap = Literal[
    "guest_memfd", "guest_memfd_flags", "memory_attributes", "exit_hypercall", "pre_fault_memory", "user_memory2"
]
Command = tuple[Annotated[str, Meta(min_length=1)], ...]
"""A program and its arguments, which no shell reads."""
_UNIT: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Ssh(Section, frozen=True):
    """How OpenSSH reaches the host; what is left out is as in the user's own ``~/.ssh/config``.

    Files are relative to the folder of the host's file.
    """

    host: Annotated[str, Meta(pattern=r"^[^-\s]\S*$")]
    user: str = ""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    key: str = ""
    jump: str = ""
    known_hosts: str = ""
    config: str = ""

    def target(self) -> SshTarget:
        """For :class:`harness.host.reach.SshReach`."""
        return SshTarget(self.host, self.user, self.port, self.key, self.jump, self.known_hosts, self.config)


class Requires(Section, frozen=True):
    """What the host must have before anything is run on it; nothing of it is set."""

    vm_types: tuple[VmType, ...] = ()
    kvm_caps: dict[KvmCap, Count] = field(default_factory=dict)
    """Least answer of KVM_CHECK_EXTENSION, asked of a VM of the first of ``vm_types``; flags must all be there."""
    kernel_min: Annotated[str, Meta(pattern=r"^[0-9]+\.[0-9]+$", extra_json_schema={"also": ["number"]})] = ""
    config: tuple[Annotated[str, Meta(pattern=r"^[A-Z0-9_]+(=\S+)?$")], ...] = ()
    """Options without ``CONFIG_``: ``NAME`` is y or m, ``NAME=y`` exactly that."""
    module_params: dict[Annotated[str, Meta(pattern=r"^\w+\.\w+$")], Value] = field(default_factory=dict)
    """``kvm_intel.tdx: Y``."""
    cpu_flags: tuple[str, ...] = ()
    """Words of ``flags`` in ``/proc/cpuinfo``."""
    qemu_objects: tuple[str, ...] = ()
    """Words of ``-object help``."""
    min_free_memory: Annotated[
        str, Meta(pattern=r"^([1-9][0-9]*[KMGT]?)?$", extra_json_schema={"also": ["integer"]})
    ] = ""
    """MemAvailable in bytes, or with K, M, G, T."""
    numa_nodes: Count = 0

    @property
    def min_free_bytes(self) -> int:
        """``min_free_memory`` in bytes."""
        found = re.fullmatch(r"([0-9]+)([KMGT]?)", self.min_free_memory)
        return int(found[1]) * _UNIT[found[2]] if found else 0


class KernelCmdline(Section, frozen=True):
    """Words that ``/proc/cmdline`` must have, and must not have."""

    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()


class Hooks(Section, frozen=True):
    """Commands of the laboratory, run on this machine; an empty one does not exist."""

    power_on: Command = ()
    power_off: Command = ()
    power_cycle: Command = ()
    console: Command = ()
    """Shows the serial console until it is ended."""
    install_kernel: Command = ()
    boot_once: Command = ()


class Handover(Section, frozen=True):
    """How the host gets another kernel (``gmem host boot``, ``gmem run --kernel``)."""

    how: Literal["kexec", "grub", "hooks"] | None = None
    """None: it gets none from a run."""
    initrd: str = ""
    """File on this machine, relative to the folder of the host's file; ``cache:PATH`` is one in the cache."""
    append: str = ""
    """Words behind the command line that the host has."""
    seconds: Annotated[float, Meta(gt=0)] = 600.0
    """Until the host has to answer again."""


class Qemu(Section, frozen=True):
    """Paths on the host."""

    binary: str = "qemu-system-x86_64"
    firmware: dict[TeeKind, str] = field(default_factory=dict)
    """By the kind of guest; for QEMU's ``-bios``."""


class HostConfig(Section, frozen=True):
    """One host under test, as its file says; relative paths of ``ssh`` are already whole."""

    schema_version: Literal[1] = field(name="schema")
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    transport: Literal["local", "ssh", "emulated"]
    description: str = ""
    ssh: Ssh | None = None
    tee: tuple[TeeKind, ...] = ()
    """Kinds of guests that the host is for."""
    requires: Requires = Requires()
    kernel_cmdline: KernelCmdline = KernelCmdline()
    module_params: dict[str, dict[str, Value]] = field(default_factory=dict)
    thp: Thp = Thp()
    hugepages: dict[Literal["2M", "1G"], HugePages] = field(default_factory=dict)
    vm: Vm = Vm()
    numa: Numa = Numa()
    ksm: Ksm = Ksm()
    page_reporting: PageReporting = PageReporting()
    cpu: Cpu = Cpu()
    knobs: dict[Annotated[str, Meta(pattern=r"^/(sys|proc/sys)/\S+$")], Value] = field(default_factory=dict)
    """Further files by absolute path, set last: for what a branch adds."""
    before_each: tuple[Action, ...] = ()
    hooks: Hooks = Hooks()
    handover: Handover = Handover()
    qemu: Qemu = Qemu()
    probes: dict[str, str] = field(default_factory=dict)
    """What no program can read and a person wrote down, e.g. the settings of the BIOS; goes into every report."""

    def check(self) -> None:
        """What the types cannot say; raises ``UsageError`` with one sentence."""
        if (self.transport == "ssh") != (self.ssh is not None):
            wrong = (
                "needs a section ssh" if self.ssh is None else f"has a section ssh, but transport is {self.transport}"
            )
            raise UsageError(f"the host {self.name} {wrong}")
        for size, pool in self.hugepages.items():
            if pool.nr is not None and pool.per_node:
                raise UsageError(f"hugepages.{size} has nr and per_node: give one of them")
        for index, action in enumerate(self.before_each):
            if len(action.written()) != 1:
                raise UsageError(f"before_each[{index}] must have exactly one of {', '.join(Action.__struct_fields__)}")
        if self.cpu.governor is not None and self.cpu.policies is None:
            raise UsageError("cpu.governor needs cpu.policies, e.g. 0-63: the policies to set it for")
        for path in self.knobs:
            if ".." in path.split("/"):
                raise UsageError(f"knobs: {path} must be a plain absolute path")
