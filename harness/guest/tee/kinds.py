# SPDX-License-Identifier: GPL-2.0-only
"""Kinds of guests on a host's own KVM: one record each, with all that tells them apart.

Which of it has been seen on hardware is in docs/lab.md, "Launch": no SNP or TDX guest so far, since no host with either
was at hand.  What QEMU 10.0 and 11.1 take was asked of them (``tests/emulated/test_tee_lines.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import NothingRanError, UsageError

Options = tuple[tuple[str, str], ...]
"""Names and values, in the order in which QEMU gets them."""

TRACES = ("kvm_convert_memory", "kvm_memory_fault", "kvm_set_user_memory", "ram_discard_range")
"""Conversions, faults that ask for one, memory slots with their guest_memfd, and what QEMU gives back of a RAM.  QEMU
10.0 and 11.1 have all four."""


@dataclass(frozen=True)
class TeeKind:
    """One kind of guest."""

    name: str
    says: str
    """What every report calls it."""
    object_type: str
    """QEMU's confidential-guest-support object; '' for none."""
    properties: Options
    """Of that object, beside id and cbitpos."""
    machine: Options
    """Of q35, beside memory-backend and confidential-guest-support."""
    accel: Options
    """Of ``-accel kvm``."""
    cpu: str
    vm_type: int
    """KVM_CREATE_VM's argument (arch/x86/include/uapi/asm/kvm.h, KVM_X86_*_VM)."""
    cc_features: str
    """What the guest's kernel says after "Memory Encryption Features active: " (arch/x86/mm/mem_encrypt.c,
    print_mem_encrypt_feature_info); '' where it says no such thing."""
    wants_cbitpos: bool = False
    hashes_property: str = ""
    """Property by which the object measures kernel, initrd and command line; '' where it has none."""
    metadata: str = ""
    """What the firmware must have in its table (``firmware.Firmware.metadata``); '' for nothing."""
    traces: tuple[str, ...] = TRACES
    reset_trace: str = ""
    """Trace event of a QEMU that builds such a guest anew when it is reset; '' where every QEMU can."""
    json_object: bool = False
    """Whether the object is written as JSON: tdx-guest has a property that is an object itself."""
    unavailable: str = ""
    """Why no QEMU of today starts it; '' where one does."""

    @property
    def confidential(self) -> bool:
        """Whether the guest has private memory."""
        return bool(self.object_type)


SNP = TeeKind(
    name="snp",
    says="SEV-SNP guest",
    object_type="sev-snp-guest",
    # reduced-phys-bits: required; memory encryption takes one bit of the guest's physical address.  policy: bit 17 must
    # be one, bit 16 lets SMT be on; no debugging (target/i386/sev.c, sev_snp_guest_instance_init has the same).
    properties=(("reduced-phys-bits", "1"), ("policy", "0x30000")),
    # vmport needs the guest's registers, which are encrypted; QEMU turns smm off itself, here it can be read
    machine=(("vmport", "off"), ("smm", "off")),
    accel=(),
    # CPUID of the guest is held against what the firmware of the platform allows: a model and not the host's
    cpu="EPYC-v4",
    vm_type=4,
    cc_features="AMD SEV SEV-ES SEV-SNP",
    wants_cbitpos=True,
    hashes_property="kernel-hashes",
    metadata="SEV",
    traces=(*TRACES, "kvm_sev_snp_launch_start", "kvm_sev_snp_launch_update", "kvm_sev_snp_launch_finish"),
    reset_trace="sev_handle_reset",
)

TDX = TeeKind(
    name="tdx",
    says="TDX guest",
    object_type="tdx-guest",
    properties=(),
    machine=(("hpet", "off"), ("smm", "off")),
    # the TDX module emulates the local APIC, the I/O APIC is QEMU's
    accel=(("kernel-irqchip", "split"),),
    # target/i386/kvm/tdx.c refuses named models
    cpu="host",
    vm_type=5,
    cc_features="Intel TDX",
    metadata="TDX",
    reset_trace="tdx_handle_reset",
    json_object=True,
)

PLAIN = TeeKind(
    name="plain",
    says="ordinary guest without private memory",
    object_type="",
    properties=(),
    machine=(),
    accel=(),
    cpu="host",
    vm_type=0,
    cc_features="",
)

SW_PROTECTED = TeeKind(
    name="sw-protected",
    says="software-protected guest",
    object_type="",
    properties=(),
    machine=(),
    accel=(),
    cpu="host",
    vm_type=1,
    cc_features="",
    unavailable="no stock QEMU starts a software-protected VM: no release has an object for it",
)

TEE_KINDS = {kind.name: kind for kind in (SNP, TDX, PLAIN, SW_PROTECTED)}


def tee_kind(name: str) -> TeeKind:
    """The record called ``name``.

    Raises ``UsageError`` naming the known ones, ``NothingRanError`` (a skip) for one that no QEMU starts.
    """
    kind = TEE_KINDS.get(name)
    if kind is None:
        raise UsageError(f"unknown kind of guest {name!r}; known: {', '.join(sorted(TEE_KINDS))}")
    if kind.unavailable:
        raise NothingRanError(
            f"{kind.unavailable}: run it on the emulated host, whose interposer adds it (gmem run --guest snp-stand-in)"
        )
    return kind
