# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel says when it gives up SEV-SNP or TDX, in words, with what mends it.

The texts are those of Linux 6.12 and 7.3: arch/x86/virt/svm/sev.c, drivers/iommu/amd/init.c (iommu_snp_enable),
drivers/crypto/ccp/sev-dev.c, arch/x86/virt/vmx/tdx/tdx.c, arch/x86/kvm/vmx/tdx.c.  A text is searched for without the
prefix that the kernel puts before it: that differs between versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from harness.host.capabilities.record import Cause, HostProbe


@dataclass(frozen=True)
class Failure:
    """A line of the kernel's log, as a regular expression, and its meaning."""

    line: str
    reason: str
    fix: str
    consequence: bool = False
    """Whether it only follows from another: then it is told when no other line is there."""


_SNP_BIOS: Final = "BIOS: enable SMEE, SEV-SNP support and SNP memory (RMP table) coverage"
SNP: Final = (
    Failure(
        r"SNP: IOMMU configured in passthrough mode",
        "the IOMMU is in passthrough mode, which SNP does not allow",
        "boot without iommu=pt and iommu.passthrough=1 (and with CONFIG_IOMMU_DEFAULT_PASSTHROUGH off)",
    ),
    Failure(
        r"SNP: IOMMU is configured with V2 page table mode",
        "the IOMMU uses its V2 page tables, SNP needs V1",
        "boot without amd_iommu=pgtbl_v2",
    ),
    Failure(
        r"SNP: IOMMU disabled or configured in passthrough mode",  # before the two were told apart
        "the IOMMU is off or in passthrough mode, SNP needs it",
        "boot without iommu=pt, iommu.passthrough=1, iommu=off and amd_iommu=off; BIOS: enable the IOMMU",
    ),
    Failure(
        r"SNP: IOMMU disabled,",
        "the IOMMU is off, SNP needs it",
        "boot without iommu=off and amd_iommu=off; BIOS: enable the IOMMU",
    ),
    Failure(
        r"SNP: IOMMU SNP feature not enabled",
        "the IOMMU does not offer its SNP feature",
        f"{_SNP_BIOS}; update the BIOS",
    ),
    Failure(
        r"Memory for the RMP table has not been reserved by BIOS",
        "the BIOS reserved no memory for the RMP table",
        _SNP_BIOS,
    ),
    Failure(
        r"RMP table does not cover full system RAM|Segmented RMP does not cover|RMP configuration not valid",
        "the RMP table that the BIOS reserved does not cover the memory",
        "BIOS: SNP memory (RMP table) coverage: enabled, not custom",
    ),
    Failure(
        r"SNP init failed: not all CPUs online",
        "CPUs were offline when SNP was started",
        "boot with all CPUs online: without maxcpus=, nr_cpus= and nosmt",
    ),
    Failure(
        r"SNP: RMP initialization failed",
        "the RMP table could not be started",
        f"read the lines before it in the kernel's log; {_SNP_BIOS}",
        consequence=True,
    ),
    Failure(
        r"SEV-SNP: SNP_INIT(_EX)? failed|SEV(-SNP)?: failed to INIT |SEV: INIT(_EX)? failed",
        "the firmware of the security processor refused to start",
        "update the firmware: amd/amd_sev_*.sbin of linux-firmware in /lib/firmware, then boot again; update the BIOS",
    ),
)
TDX: Final = (
    Failure(
        r"initialization failed: Hibernation support is enabled",
        "hibernation is possible, which TDX does not allow",
        "boot with nohibernate",
    ),
    Failure(
        r"virt/tdx: module not loaded",
        "the BIOS did not load the TDX module",
        "BIOS: enable the SEAM loader and TDX; update the BIOS, or put a TDX module where its loader looks for it",
    ),
    Failure(
        r"frame pointer \(RBP\) clobber bug",
        "this version of the TDX module spoils RBP",
        "update the TDX module, with the BIOS",
    ),
    Failure(
        r"too few private KeyIDs available",
        "the BIOS gives TDX fewer than two key identifiers",
        "BIOS: raise the number of TME-MT keys for TDX",
    ),
    Failure(
        r"TDX not supported by the host platform",
        "the kernel sees no TDX: the CPU has none, or the BIOS did not enable it",
        "BIOS: enable TME, TME-MT, SGX, the SEAM loader and TDX",
    ),
    Failure(
        r"(XSAVE|MOVDIR64B|Self-snoop|OSXSAVE) is required for TDX",
        "the kernel does not see a feature of the CPU that TDX needs",
        "boot without clearcpuid= and noxsave",
    ),
    Failure(r"EPT is required for TDX", "kvm_intel.ept is off", "load kvm_intel without ept=0"),
    Failure(
        r"TDP MMU and MMIO caching and EPT A/D bit (is|are) required",
        "one of kvm.tdp_mmu, kvm.mmio_caching and kvm_intel.eptad is off",
        "load kvm and kvm_intel without tdp_mmu=0, mmio_caching=0 and eptad=0",
    ),
    Failure(r"APICv is required for TDX", "kvm_intel.enable_apicv is off", "load kvm_intel without enable_apicv=0"),
    Failure(
        r"Disable TDX: MAX_VCPU_PER_TD",
        "the TDX module allows a guest fewer vCPUs than this host has CPUs",
        "update the TDX module, or boot with nosmt or fewer CPUs",
    ),
    Failure(
        r"(TDX-Module|module) initialization failed \(-?[0-9]+\)",
        "the TDX module could not be started",
        "read the lines of virt/tdx before it in the kernel's log; power the machine off and on: a reboot may not do",
        consequence=True,
    ),
)


def from_log(probe: HostProbe, failures: tuple[Failure, ...]) -> tuple[Cause, ...]:
    """What the kernel's log tells, each with its line."""
    found = [(failure, line) for failure in failures if (line := probe.says(failure.line))]
    roots = [pair for pair in found if not pair[0].consequence]
    return tuple(Cause(f"{f.reason} (the kernel: {line})", f.fix) for f, line in roots or found)
