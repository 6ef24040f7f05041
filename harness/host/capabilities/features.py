# SPDX-License-Identifier: GPL-2.0-only
"""What KVM and QEMU offer beside the kinds of guests: guest_memfd and its flags, conversions, objects, devices.

An extension is answered per type of VM, asked of a VM of it: the row names each type that could be made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from harness.host.capabilities.kvm import INIT_SHARED, MAP_GPA_RANGE, MMAP, PRIVATE, KvmAnswers
from harness.host.capabilities.record import Capability, Cause, HostProbe, State

_PRIVATE_TYPES: Final = frozenset({"snp", "tdx"})
"""Types whose answers nobody saw on such a machine yet."""


@dataclass(frozen=True)
class Extension:
    """A capability of KVM that is asked of VMs."""

    name: str
    asked: str
    """Name in the output of ``gmem-kvmcaps``."""
    mask: int
    """Bits that must be there; 0 for any result above 0."""
    shown: str
    cause: Cause


EXTENSIONS: Final = (
    Extension(
        "guest_memfd",
        "guest_memfd",
        0,
        "KVM_CAP_GUEST_MEMFD",
        Cause(
            "no VM that this host makes has it: before 6.18 an ordinary VM has none",
            "a kernel of 6.18 or later with CONFIG_KVM_GUEST_MEMFD, or a private kind of VM",
        ),
    ),
    Extension(
        "guest_memfd mmap",
        "guest_memfd_flags",
        MMAP,
        "KVM_CAP_GUEST_MEMFD_FLAGS bit 0",
        Cause("the kernel cannot map a guest_memfd", "a kernel of 6.18 or later"),
    ),
    Extension(
        "guest_memfd init-shared",
        "guest_memfd_flags",
        INIT_SHARED,
        "KVM_CAP_GUEST_MEMFD_FLAGS bit 1",
        Cause("no guest_memfd is shared from its start; VMs with private memory never have that", "6.18 or later"),
    ),
    Extension(
        "memory attributes",
        "memory_attributes",
        PRIVATE,
        "KVM_CAP_MEMORY_ATTRIBUTES bit 3",
        Cause("no VM that this host makes has private memory", "a private kind of VM: see snp, tdx, sw-protected"),
    ),
    Extension(
        "conversion exits",
        "exit_hypercall",
        MAP_GPA_RANGE,
        "KVM_CAP_EXIT_HYPERCALL bit 12",
        Cause("KVM does not hand KVM_HC_MAP_GPA_RANGE to QEMU", "a kernel of 5.17 or later"),
    ),
    Extension(
        "pre-fault",
        "pre_fault_memory",
        0,
        "KVM_CAP_PRE_FAULT_MEMORY",
        Cause("KVM cannot populate guest memory ahead", "a kernel of 6.11 or later, with EPT or NPT on"),
    ),
)


def extension(wanted: Extension, kvm: KvmAnswers | None, unanswered: tuple[Cause, ...]) -> Capability:
    """One row; yes when at least one type of VM has it."""
    answers = {kind: kvm.number(f"vm.{kind}.{wanted.asked}") for kind in kvm.types()} if kvm else {}
    known = {kind: value for kind, value in answers.items() if value is not None}
    if not known:
        causes = unanswered or (Cause("no VM could be made to ask", "read the kernel's log"),)
        return Capability(wanted.name, State.UNKNOWN, "KVM was not asked", (), causes)
    having = {kind for kind, value in known.items() if (value & wanted.mask == wanted.mask if wanted.mask else value)}
    primary = f"{wanted.shown}: " + ", ".join(f"{kind} {'yes' if kind in having else 'no'}" for kind in known)
    supporting = []
    if wanted.name == "guest_memfd" and kvm:
        supporting = [f"one was made for {kind}" for kind in known if kvm.number(f"vm.{kind}.gmem") == 0]
        supporting += [
            f"none could be made for {kind}: {kvm.error(f'vm.{kind}.gmem')}"
            for kind in known
            if kvm.error(f"vm.{kind}.gmem")
        ]
    state, causes = (State.YES, ()) if having else (State.NO, (wanted.cause,))
    return Capability(wanted.name, state, primary, tuple(supporting), causes, bool(having) and having <= _PRIVATE_TYPES)


def in_place(probe: HostProbe) -> Capability:
    """Conversion in place, which only branches have; its parameter has had two names."""
    named = {name: probe.parameter(name) for name in ("kvm.gmem_in_place_conversion", "kvm.vm_memory_attributes")}
    primary = ", ".join(f"{name}={value or 'absent'}" for name, value in named.items())
    new, old = named.values()
    if new == "Y" or old in ("N", "0"):
        return Capability("in-place conversion", State.YES, primary, (), (), True)
    absent = new is None and old is None
    cause = (
        Cause("this kernel has no parameter for it: no release up to 7.3 converts in place", "a kernel of a branch")
        if absent
        else Cause("it is switched off", "boot with kvm.gmem_in_place_conversion=1, or kvm.vm_memory_attributes=0")
    )
    return Capability("in-place conversion", State.NO, primary, (), (cause,), True)


def runs(probe: HostProbe, kvm: KvmAnswers | None, unanswered: tuple[Cause, ...]) -> Capability:
    """Whether an ordinary VM executes an instruction."""
    if kvm is None or not kvm.opened:
        return Capability("plain", State.UNKNOWN, "KVM was not asked", (), unanswered)
    told = kvm.lines.get("vm.default.runs", "")
    if told == "yes":
        return Capability("plain", State.YES, "an ordinary VM executed hlt")
    why = told or f"no VM could be made ({kvm.error('vm.default.create') or 'no answer'})"
    cause = Cause(f"/dev/kvm is there, but a VM does not run: it failed at: {why}", "read the kernel's log")
    return Capability("plain", State.NO, f"an ordinary VM did not execute hlt: {why}", (), (cause,))


def bare(probe: HostProbe, kvm: KvmAnswers | None, unanswered: tuple[Cause, ...]) -> Capability:
    """guest_memfd of an ordinary VM that never runs, mapped and shared from the start."""
    if kvm is None or not kvm.opened:
        return Capability("bare", State.UNKNOWN, "KVM was not asked", (), unanswered)
    flags, made = kvm.number("vm.default.guest_memfd_flags") or 0, kvm.number("vm.default.gmem") == 0
    primary = f"of an ordinary VM: guest_memfd {'made' if made else 'refused'}, flags {flags:#x}"
    if made and flags & (MMAP | INIT_SHARED) == MMAP | INIT_SHARED:
        return Capability("bare", State.YES, primary)
    cause = Cause(
        "an ordinary VM has no guest_memfd that can be mapped and is shared from its start", "a kernel of 6.18 or later"
    )
    return Capability("bare", State.NO, primary, (), (cause,))


def _qemu(probe: HostProbe) -> Capability:
    version = (probe.command("qemu version") or "").partition("\n")[0].removeprefix("QEMU emulator version ")
    if not version or probe.qemu_objects is None:
        cause = Cause("QEMU does not answer", "apt-get install qemu-system-x86, or qemu.binary in the host's file")
        return Capability("qemu", State.NO, version or "no answer to --version", (), (cause,))
    return Capability("qemu", State.YES, version)


def _qemu_object(name: str, fix: str, probe: HostProbe) -> Capability:
    if probe.qemu_objects is None:
        return Capability(f"qemu {name}", State.UNKNOWN, "QEMU was not asked", (), (Cause("QEMU does not answer"),))
    there = name in probe.qemu_objects
    causes = () if there else (Cause(f"this QEMU has no {name} (-object help)", fix),)
    primary = f"-object help {'lists it' if there else 'does not list it'}"
    return Capability(f"qemu {name}", State.YES if there else State.NO, primary, (), causes)


def _cachestat(probe: HostProbe) -> Capability:
    """cachestat(2) counts the pages of a guest_memfd exactly, also of one that nobody maps."""
    value = probe.config.get("CACHESTAT_SYSCALL", "n") if probe.config else None
    if value is None:
        cause = Cause("the kernel's configuration is not to be found", "install the package with /boot/config-RELEASE")
        return Capability("cachestat", State.UNKNOWN, "configuration unknown", (), (cause,))
    causes = () if value == "y" else (Cause("the kernel was built without it", "a kernel of 6.5 or later"),)
    state = State.YES if value == "y" else State.NO
    return Capability("cachestat", state, f"CONFIG_CACHESTAT_SYSCALL={value}", (), causes)


def _vsock(probe: HostProbe) -> Capability:
    if probe.present.get("/dev/vhost-vsock"):
        return Capability("vhost-vsock", State.YES, "/dev/vhost-vsock is there")
    cause = Cause("no /dev/vhost-vsock; guests are then reached over the network", "modprobe vhost_vsock")
    return Capability("vhost-vsock", State.NO, "no /dev/vhost-vsock", (), (cause,))


OTHERS: Final[tuple[Callable[[HostProbe], Capability], ...]] = (
    in_place,
    _cachestat,
    _vsock,
    _qemu,
    lambda probe: _qemu_object("sev-snp-guest", "QEMU 9.1 or later", probe),
    lambda probe: _qemu_object(
        "tdx-guest", "QEMU 10.1 or later: trixie-backports has one, Debian 13 itself not", probe
    ),
    lambda probe: _qemu_object("memory-backend-memfd", "QEMU for Linux", probe),
)
