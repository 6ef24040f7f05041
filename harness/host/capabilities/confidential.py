# SPDX-License-Identifier: GPL-2.0-only
"""SEV-SNP, TDX and software-protected VMs: can KVM make one, and if not, since when in the boot not.

The question itself is one bit and one ioctl.  Everything else looks for the first thing that went wrong, in the order
in which hardware, BIOS, kernel and module depend on each other: what follows from it is not told.  The parameters
``kvm_amd.sev_snp`` and ``kvm_intel.tdx`` read N both when they were given so and when the start failed for any other
reason, so they are the last cause looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from harness.host.capabilities.failures import SNP, TDX, from_log
from harness.host.capabilities.kvm import VM_TYPES, KvmAnswers
from harness.host.capabilities.record import Capability, Cause, HostProbe, State

Find = Callable[[HostProbe, KvmAnswers], Iterator[Cause]]
_NOBODY_KNOWS: Final = Cause(
    "no cause that is known here shows on this host", "read the kernel's log from its start: dmesg, or journalctl -kb"
)
_SHORT_LOG: Final = Cause(
    "the kernel's log does not reach back to its start, so the cause may have been there",
    "boot again and ask at once, as root",
)


_DEBIAN: Final = {
    "KVM_AMD_SEV": "Debian's linux-image-amd64 has it, its cloud kernels do not",
    "INTEL_TDX_HOST": "none of Debian's kernels up to 7.3 has it",
    "KVM_SW_PROTECTED_VM": "it needs EXPERT, and none of Debian's kernels has it",
}


def _config(probe: HostProbe, *options: str) -> Iterator[Cause]:
    """Options that the kernel was built without; nothing when its configuration is not known."""
    off = [name for name in options if probe.config and probe.config.get(name, "n") not in ("y", "m")]
    if off:
        names = ", ".join(f"CONFIG_{name}" for name in off)
        hints = "".join(f" ({hint})" for name, hint in _DEBIAN.items() if name in off)
        yield Cause(f"the kernel was built without {names}", f"a kernel with {names}{hints}")


def _module(probe: HostProbe, name: str, flag: str) -> Iterator[Cause]:
    if probe.cpu_flags and flag not in probe.cpu_flags:
        yield Cause(f"the CPU offers no virtualization: {flag} is not in /proc/cpuinfo", f"BIOS: enable {flag.upper()}")
    elif not probe.present.get(f"/sys/module/{name}"):
        yield Cause(f"{name} is not loaded", f"modprobe {name}")


def _words(probe: HostProbe, meaning: dict[str, str], fix: str) -> Iterator[Cause]:
    for word in probe.cmdline:
        if word in meaning:
            yield Cause(f"the kernel was booted with {word}: {meaning[word]}", fix.format(word))


def _given_off(probe: HostProbe, names: tuple[str, ...]) -> Iterator[Cause]:
    for name in names:
        if probe.parameter(name) in ("N", "0"):
            yield Cause(f"module parameter {name} is off", f"boot with {name}=1, and look for it in /etc/modprobe.d")


def _vendor(kvm: KvmAnswers, probe: HostProbe, wanted: str, what: str) -> Iterator[Cause]:
    vendor = kvm.lines.get("cpuid.vendor") or probe.cpu.get("vendor_id", "")
    if vendor and vendor != wanted:
        yield Cause(f"the CPU is of {vendor}, {what} is for {wanted}", "take another host")


def _snp_boot(probe: HostProbe, kvm: KvmAnswers) -> Iterator[Cause]:
    off = {
        "sev=nosnp": "that turns SNP off",
        "amd_iommu=off": "SNP needs the IOMMU",
        "iommu=off": "SNP needs the IOMMU",
    }
    off |= {f"kvm_amd.{name}=0": "SNP needs it" for name in ("sev", "sev_es", "sev_snp")}
    told = from_log(probe, SNP)
    yield from _words(probe, off, "boot without {}")
    yield from told
    if not told and not probe.says("Linux version"):
        passthrough = {word: "SNP on most CPUs does not allow it" for word in ("iommu=pt", "iommu.passthrough=1")}
        yield from _words(probe, passthrough | {"amd_iommu=pgtbl_v2": "SNP needs V1 tables"}, "boot without {}")


def _snp_cpu(probe: HostProbe, kvm: KvmAnswers) -> Iterator[Cause]:
    bios = (
        "BIOS: enable SMEE, SEV-SNP support and SNP memory (RMP table) coverage, and set the SEV-ES ASID limit above 1"
    )
    registers = kvm.registers
    if registers is None or not registers[0] & 1 << 4:
        told = "the CPU has no CPUID 8000001F" if registers is None else "CPUID 8000001F EAX bit 4 (SEV-SNP) is 0"
        yield Cause(told, f"take an EPYC of the third generation or later; {bios}")
        return
    if registers[3] <= 1:
        yield Cause("the BIOS left no ASIDs for SEV-ES and SNP (CPUID 8000001F EDX)", "BIOS: SEV-ES ASID limit above 1")
    if probe.cpu_flags and "sev_snp" not in probe.cpu_flags:
        yield Cause("the CPU has SNP, but the kernel gave it up before its first line about it", bios)


def _snp_module(probe: HostProbe, kvm: KvmAnswers) -> Iterator[Cause]:
    if not probe.present.get("/dev/sev"):
        yield Cause(
            "there is no /dev/sev: the driver of the security processor is not there", "modprobe ccp; BIOS: PSP"
        )
    yield from _given_off(
        probe, ("kvm_amd.npt", "kvm.mmio_caching", "kvm_amd.sev", "kvm_amd.sev_es", "kvm_amd.sev_snp")
    )


def _age(probe: HostProbe, kvm: KvmAnswers) -> Iterator[Cause]:
    if kvm.number("sys.vm_types") == 0:  # an extension that the kernel does not know is 0, too
        yield Cause("this KVM knows no types of VMs: the kernel is older than 6.8", "take a newer kernel")


_SNP_STAGES: Final[tuple[Find, ...]] = (
    _age,
    lambda probe, kvm: _vendor(kvm, probe, "AuthenticAMD", "SEV-SNP"),
    lambda probe, kvm: _config(probe, "KVM_AMD_SEV", "CRYPTO_DEV_SP_PSP", "AMD_MEM_ENCRYPT", "AMD_IOMMU"),
    _snp_boot,
    _snp_cpu,
    lambda probe, kvm: _module(probe, "kvm_amd", "svm"),
    _snp_module,
)


def _tdx_boot(probe: HostProbe, kvm: KvmAnswers) -> Iterator[Cause]:
    told = from_log(probe, TDX)
    yield from told
    yield from _words(probe, {"kvm_intel.tdx=0": "that turns TDX off"}, "boot with kvm_intel.tdx=1 in place of {}")
    from_start = bool(probe.says("Linux version"))
    if told:
        return
    if from_start and not probe.says("BIOS enabled: private KeyID range"):
        yield Cause(
            "the BIOS did not enable TDX: the kernel's log names no range of private KeyIDs",
            "BIOS: enable TME, TME-MT (with keys for TDX), SGX, the SEAM loader and TDX",
        )
    elif not from_start and "disk" in (probe.file("/sys/power/state") or "").split():
        yield Cause("hibernation is possible, which TDX does not allow", "boot with nohibernate")


def _tdx_module(probe: HostProbe, kvm: KvmAnswers) -> Iterator[Cause]:
    others = ("kvm_intel.ept", "kvm_intel.eptad", "kvm_intel.enable_apicv", "kvm.tdp_mmu", "kvm.mmio_caching")
    yield from _given_off(probe, others)
    if probe.parameter("kvm_intel.tdx") in ("N", "0"):
        yield Cause("module parameter kvm_intel.tdx is N, which is the default", "boot with kvm_intel.tdx=1")
    elif probe.parameter("kvm_intel.tdx") is None:
        yield Cause("kvm_intel has no parameter tdx: the kernel is older than 6.16", "take a newer kernel")


_TDX_STAGES: Final[tuple[Find, ...]] = (
    _age,
    lambda probe, kvm: _vendor(kvm, probe, "GenuineIntel", "TDX"),
    lambda probe, kvm: _config(probe, "INTEL_TDX_HOST", "KVM_INTEL_TDX"),
    _tdx_boot,
    lambda probe, kvm: _module(probe, "kvm_intel", "vmx"),
    _tdx_module,
)
_SOFTWARE_STAGES: Final[tuple[Find, ...]] = (
    _age,
    lambda probe, kvm: _config(probe, "KVM_SW_PROTECTED_VM"),
    lambda probe, kvm: _given_off(probe, ("kvm.tdp_mmu", "kvm_intel.ept", "kvm_amd.npt")),
)


def _evidence_snp(probe: HostProbe, kvm: KvmAnswers | None) -> Iterator[str]:
    yield f"kvm_amd.sev_snp={probe.parameter('kvm_amd.sev_snp') or 'absent'}"
    yield f"cpuinfo: {' '.join(sorted(probe.cpu_flags & {'sev', 'sev_es', 'sev_snp'})) or 'no sev flag'}"
    yield f"/dev/sev: {'there' if probe.present.get('/dev/sev') else 'absent'}"
    registers = kvm.registers if kvm else None
    if registers:
        _, b, c, d = registers
        yield f"CPUID 8000001F: C-bit {b & 63}, address bits lost {b >> 6 & 63}, {c} ASIDs, least SEV ASID {d}"
    for pattern in ("RMP table physical range", "IOMMU SNP support", "SEV-SNP API:", r"SEV-SNP \w+ \(ASIDs"):
        yield from filter(None, [probe.says(pattern)])
    yield from _capacity(probe, "sev", "sev_es")


def _evidence_tdx(probe: HostProbe, kvm: KvmAnswers | None) -> Iterator[str]:
    yield f"kvm_intel.tdx={probe.parameter('kvm_intel.tdx') or 'absent'}"
    yield f"cpuinfo: {'tdx_host_platform' if 'tdx_host_platform' in probe.cpu_flags else 'no tdx_host_platform'}"
    version = probe.file("/sys/devices/faux/tdx_host/version")
    yield from (f"TDX module {version}" for _ in range(bool(version)))
    for pattern in (
        "BIOS enabled: private KeyID range",
        "(TDX-Module|virt/tdx: module) initialized",
        "KB allocated for PAMT",
    ):
        yield from filter(None, [probe.says(pattern)])
    yield from _capacity(probe, "tdx")


def _evidence_software(probe: HostProbe, kvm: KvmAnswers | None) -> Iterator[str]:
    yield f"CONFIG_KVM_SW_PROTECTED_VM={probe.config.get('KVM_SW_PROTECTED_VM', 'n') if probe.config else 'unknown'}"
    yield f"kvm.tdp_mmu={probe.parameter('kvm.tdp_mmu') or 'absent'}"


def _capacity(probe: HostProbe, *names: str) -> Iterator[str]:
    for line in (probe.file("/sys/fs/cgroup/misc.capacity") or "").splitlines():
        if line.split()[:1] and line.split()[0] in names:
            yield f"misc.capacity: {line}"


_KINDS: Final = {
    "snp": (_SNP_STAGES, _evidence_snp, True),
    "tdx": (_TDX_STAGES, _evidence_tdx, True),
    "sw-protected": (_SOFTWARE_STAGES, _evidence_software, False),
}


def confidential(kind: str, probe: HostProbe, kvm: KvmAnswers | None, unanswered: tuple[Cause, ...]) -> Capability:
    """Whether KVM makes VMs of one private kind; ``unanswered`` says why, where KVM was not asked."""
    stages, evidence, unverified = _KINDS[kind]
    supporting = tuple(evidence(probe, kvm))
    named = kvm.named(kind) if kvm else None
    if kvm is None or named is None:
        causes = unanswered or (Cause("KVM did not answer KVM_CAP_VM_TYPES", "read the kernel's log"),)
        return Capability(kind, State.UNKNOWN, "KVM was not asked", supporting, causes, unverified)
    made = kvm.created(kind)
    primary = f"KVM_CAP_VM_TYPES bit {VM_TYPES[kind]} is {int(named)}, a VM of type {VM_TYPES[kind]} "
    primary += "was made" if made else f"was refused ({kvm.error(f'vm.{kind}.create') or 'not tried'})"
    if named and made:
        return Capability(kind, State.YES, primary, supporting, (), unverified)
    if named or made:
        strange = Cause("KVM names the type and does not make a VM of it, or the reverse", "read the kernel's log")
        return Capability(kind, State.NO, primary, supporting, (strange,), unverified)
    for stage in stages:
        causes = tuple(stage(probe, kvm))
        if causes:
            break
    else:
        causes = (_NOBODY_KNOWS,) if probe.says("Linux version") else (_NOBODY_KNOWS, _SHORT_LOG)
    return Capability(kind, State.NO, primary, supporting, causes, unverified)
