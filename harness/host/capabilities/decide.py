# SPDX-License-Identifier: GPL-2.0-only
"""All capabilities of a host, from its texts alone."""

from __future__ import annotations

from dataclasses import replace

from harness.host.capabilities.confidential import confidential
from harness.host.capabilities.features import EXTENSIONS, OTHERS, bare, extension, runs
from harness.host.capabilities.kvm import KvmAnswers
from harness.host.capabilities.record import Capability, Cause, HostProbe, State

CONFIDENTIAL = ("snp", "tdx", "sw-protected")


def _kvm(probe: HostProbe, kvm: KvmAnswers | None) -> Capability:
    """Whether KVM can be asked at all."""
    if kvm is not None and kvm.opened:
        return Capability("kvm", State.YES, f"/dev/kvm answers, API version {kvm.number('kvm.api')}")
    if not probe.present.get("/dev/kvm"):
        loaded = [name for name in ("kvm_amd", "kvm_intel", "kvm") if probe.present.get(f"/sys/module/{name}")]
        virtual = probe.cpu_flags & {"vmx", "svm"}
        if virtual or loaded:
            fix = "modprobe kvm_amd" if "svm" in virtual else "modprobe kvm_intel"
            cause = Cause("there is no /dev/kvm: KVM is not loaded", f"{fix}, and read the kernel's log")
        else:
            cause = Cause("there is no /dev/kvm, and the CPU offers no vmx or svm", "BIOS: enable virtualization")
        return Capability("kvm", State.NO, "no /dev/kvm", (), (cause,))
    if kvm is None:
        why = probe.kvmcaps_failed or "gmem-kvmcaps printed something else than its answer"
        cause = Cause(f"KVM could not be asked: {why}", "mend that; the rest of this report is what files say")
        return Capability("kvm", State.UNKNOWN, "/dev/kvm is there", (), (cause,))
    error = kvm.error("kvm.open")
    fix = "log in as root, or join the group kvm" if error in ("EACCES", "EPERM") else "read the kernel's log"
    return Capability("kvm", State.NO, f"/dev/kvm: {error}", (), (Cause(f"/dev/kvm cannot be opened: {error}", fix),))


def decide(probe: HostProbe) -> tuple[Capability, ...]:
    """Every capability, in the order of the report; nothing is read but ``probe``."""
    kvm = KvmAnswers.parse(probe.kvmcaps)
    first = _kvm(probe, kvm)
    unanswered = first.causes
    asked = kvm if first.state is State.YES else None
    rows = (
        first,
        *(confidential(kind, probe, asked, unanswered) for kind in CONFIDENTIAL),
        runs(probe, asked, unanswered),
        bare(probe, asked, unanswered),
        *(extension(wanted, asked, unanswered) for wanted in EXTENSIONS),
        *(other(probe) for other in OTHERS),
    )
    return _with_attributes_elsewhere(rows)


def _with_attributes_elsewhere(rows: tuple[Capability, ...]) -> tuple[Capability, ...]:
    """A kernel that converts in place has attributes on the guest_memfd: that a VM has none lacks nothing then."""
    if not any(row.name == "in-place conversion" and row.state is State.YES for row in rows):
        return rows
    elsewhere = (Cause("this kernel converts in place: the attributes are those of the guest_memfd"),)
    return tuple(
        replace(row, causes=elsewhere) if row.name == "memory attributes" and row.state is State.NO else row
        for row in rows
    )
