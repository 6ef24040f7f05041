# SPDX-License-Identifier: GPL-2.0-only
"""How a guest is started in the emulated host: one record per form, and the command line made from it.

All forms run a KVM_X86_SW_PROTECTED_VM.  ``snp-stand-in`` is stock QEMU on its own sev-snp-guest path with the
interposer in place of the firmware; ``tdx-stand-in`` is a newer stock QEMU on its own tdx-guest path with an interposer
in place of the TDX module; ``sw-protected-direct`` is the same QEMU without a confidential object, where the
interposer adds the guest_memfd and carries conversions out itself.

On a kernel that converts in place all get a second interposer, which makes the guest_memfd the RAM: ``launch_on``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.errors import UsageError
from harness.guest.backing import ANON_4K, BackingRecord


@dataclass(frozen=True)
class Places:
    """Where things are on the host that a guest is started on."""

    files: str = "/gmem"
    """Folder with firmware, guest kernel, guest image and interposers."""
    ports: str = "/dev/virtio-ports/gmem."
    """Prefix of a guest's channels: ``PREFIX g0.agent`` and so on."""
    logs: str = "/run/"
    """Prefix of the files with what each QEMU and its interposers print on standard error."""
    program: str = ""
    """The QEMU, in place of the launch record's."""
    forwards: bool = True
    """Whether a port of the host's loopback leads to the guest's SSH."""


EMULATED = Places()
"""The emulated host's own image."""


@dataclass(frozen=True)
class LaunchRecord:
    """One way to start a guest."""

    name: str
    kind_text: str
    """What every report calls such a guest."""
    program: str
    preload: tuple[str, ...]
    """The interposers, files in ``Places.files``: the first stands before QEMU, the last before KVM."""
    firmware: str
    cpu: str
    machine: str
    confidential: bool
    """Whether QEMU gets a confidential-guest-support object."""
    traces_conversions: bool
    """Whether QEMU itself carries conversions out, so that its trace event lists them."""
    support: str = ""
    """That object, with ``{cbitpos}`` where the host's goes; '' where it is made elsewhere, or there is none."""
    accel: str = "kvm"
    newer_qemu: bool = False
    """Whether ``program`` is not the distribution's: the host's image carries it for this form."""
    prealloc: bool = True
    """Whether QEMU populates its RAM."""
    in_place: bool = False
    """Whether the RAM is the guest_memfd itself, in which a conversion frees nothing."""

    @property
    def bare(self) -> bool:
        """Whether there is no QEMU, but a process that maps the guest_memfd: ``harness/host/local``."""
        return not self.program

    @property
    def tee(self) -> bool:
        """Whether stock QEMU starts it on a host's own KVM: ``name`` is a kind of ``harness/guest/tee``."""
        return self.name in TEE_LAUNCHES

    @property
    def starts_private(self) -> bool:
        """Whether its kernel has all memory private when it comes up."""
        return self.tee and self.confidential

    @property
    def memory_mib(self) -> int:
        """Size of its RAM.

        A q35 splits a RAM of more than 2 GiB around the PCI hole (hw/i386/pc_q35.c, pc_q35_init); below that, the
        offset in the guest_memfd and the guest physical address are the same, on which the walk of steps relies.
        """
        return TEE_MEMORY_MIB if self.tee else STAND_IN_MEMORY_MIB


SNP_STAND_IN = LaunchRecord(
    name="snp-stand-in",
    kind_text="sw-protected (SNP stand-in)",
    program="/usr/bin/qemu-system-x86_64",
    preload=("snp-standin.so",),
    firmware="firmware.bin",
    cpu="EPYC-v4",
    # pit and pic: without them the guest hangs in early timer calibration under nested TCG
    machine="microvm,confidential-guest-support=cgs0,memory-backend=ram0,acpi=on,pit=on,pic=on,rtc=on",
    confidential=True,
    traces_conversions=True,
    support="sev-snp-guest,id=cgs0,cbitpos={cbitpos},reduced-phys-bits=1,policy=0x30000",
)

NEWER_QEMU = "/gmem/qemu"
"""Folder of the emulated host's image with the QEMU that has a tdx-guest object."""

TDX_STAND_IN = LaunchRecord(
    name="tdx-stand-in",
    kind_text="sw-protected (TDX stand-in)",
    program=f"{NEWER_QEMU}/qemu-system-x86_64",
    preload=("tdx-standin.so",),
    firmware="firmware.bin",
    # target/i386/kvm/tdx.c refuses named models
    cpu="host",
    # a TD has no PIC, and its I/O APIC is QEMU's (tdx_kvm_init)
    machine="microvm,confidential-guest-support=cgs0,memory-backend=ram0,acpi=on,pit=on,pic=off,rtc=on",
    confidential=True,
    traces_conversions=True,
    support="tdx-guest,id=cgs0",
    accel="kvm,kernel-irqchip=split",
    newer_qemu=True,
)

SW_PROTECTED_DIRECT = LaunchRecord(
    name="sw-protected-direct",
    kind_text="sw-protected (interposer converts)",
    program="/usr/bin/qemu-system-x86_64",
    preload=("swprot.so",),
    firmware="qboot.rom",
    cpu="host",
    # smm=off: KVM_SET_USER_MEMORY_REGION2 refuses the SMM address space for such a VM
    machine="microvm,memory-backend=ram0,smm=off,acpi=on,pit=on,pic=on,rtc=on",
    confidential=False,
    traces_conversions=False,
)

BARE = LaunchRecord(
    name="bare",
    kind_text="bare",
    program="",
    preload=(),
    firmware="",
    cpu="",
    machine="",
    confidential=False,
    traces_conversions=False,
)

STAND_IN_MEMORY_MIB = 128
TEE_MEMORY_MIB = 1024
"""OVMF and 64 MiB of swiotlb (arch/x86/mm/mem_encrypt.c, mem_encrypt_setup_arch) have room beside the regions."""


def _tee_launch(name: str, kind_text: str, *, confidential: bool) -> LaunchRecord:
    """A guest whose command line ``harness/guest/tee`` makes: firmware, CPU and machine stand in its kinds."""
    return LaunchRecord(
        name=name,
        kind_text=kind_text,
        program="qemu-system-x86_64",
        preload=(),
        firmware="",
        cpu="",
        machine="",
        confidential=confidential,
        traces_conversions=confidential,
    )


TEE_LAUNCHES = {
    record.name: record
    for record in (
        _tee_launch("snp", "SEV-SNP guest", confidential=True),
        _tee_launch("tdx", "TDX guest", confidential=True),
        _tee_launch("plain", "ordinary guest without private memory", confidential=False),
    )
}
"""Guests of hosts with a KVM of their own; the emulated host has none of them."""

LAUNCH_RECORDS = {record.name: record for record in (SNP_STAND_IN, TDX_STAND_IN, SW_PROTECTED_DIRECT)}
"""Guests that a QEMU runs; ``BARE`` is none."""


def launch_record(name: str) -> LaunchRecord:
    """The record called ``name``; raises ``UsageError`` naming the known ones."""
    try:
        return LAUNCH_RECORDS[name]
    except KeyError:
        raise UsageError(f"unknown launch {name!r}; known: {', '.join(sorted(LAUNCH_RECORDS))}") from None


def guest_named(name: str) -> LaunchRecord:
    """Any record, by the word of ``--guest``; raises ``UsageError`` naming the known ones."""
    everywhere = {**LAUNCH_RECORDS, **TEE_LAUNCHES, BARE.name: BARE}
    if name not in everywhere:
        raise UsageError(f"unknown launch {name!r}; known: {', '.join(everywhere)}")
    return everywhere[name]


IN_PLACE_PARAMETER = "kvm.gmem_in_place_conversion"
"""In the facts of a testbed: whether guest_memfd converts in place.  The interposer asks KVM itself."""


def launch_on(record: LaunchRecord, kernel_facts: Mapping[str, str]) -> LaunchRecord:
    """How ``record`` is started on a kernel with these facts (``TestbedState.kernel_facts``).

    A QEMU of today finds no private memory on a kernel that converts in place; ``inplace.so`` translates for it, and
    populates the RAM in the guest_memfd, where it is.
    """
    if record.bare or record.tee or kernel_facts.get(IN_PLACE_PARAMETER) not in ("Y", "1"):
        return record
    return replace(
        record,
        name=f"{record.name}-inplace",
        kind_text=f"{record.kind_text.removesuffix(')')}, guest_memfd as RAM)",
        preload=(*record.preload, "inplace.so"),
        prealloc=False,
        in_place=True,
    )


@dataclass(frozen=True)
class GuestSpec:
    """Shape of one guest; part of the key of a saved testbed."""

    number: int
    launch: LaunchRecord = SNP_STAND_IN
    memory_mib: int = 128
    vcpus: int = 1
    backing: BackingRecord = ANON_4K
    """What its shared side is made of."""

    @property
    def name(self) -> str:
        """``g0``, ``g1``, ..."""
        return f"g{self.number}"

    @property
    def memory_bytes(self) -> int:
        """Size of the guest's RAM, and of its guest_memfd."""
        return self.memory_mib << 20

    places: Places = EMULATED
    """Where its host has what it needs."""

    @property
    def error_log(self) -> str:
        """The file on the host that has what its QEMU and the interposers print on standard error."""
        return f"{self.places.logs}{self.name}-qemu.err"

    @property
    def ssh_port(self) -> int:
        """Port of the emulated host's loopback that leads to the guest's SSH."""
        return 2200 + self.number


def guest_command(spec: GuestSpec, *, cbitpos: int) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of the guest's QEMU, as it is run on the host under test.

    ``cbitpos`` is CPUID 0x8000001f EBX[5:0] of that host; QEMU compares the two.
    """
    record, places = spec.launch, spec.places
    preload = ":".join(f"{places.files}/{name}" for name in record.preload)
    port = f"{places.ports}{spec.name}"
    forward = f",hostfwd=tcp:127.0.0.1:{spec.ssh_port}-:22" if places.forwards else ""
    arguments = [
        places.program or record.program,
        *("-L", "/usr/share/qemu"),
        "-nodefaults",
        "-no-user-config",
        *("-display", "none"),
        "-no-reboot",
        *("-name", f"gmem-{spec.name}"),
        *("-machine", record.machine),
        *("-accel", record.accel),
        *("-cpu", record.cpu),
        *("-smp", str(spec.vcpus)),
        *("-m", f"{spec.memory_mib}M"),
        # Populated at once: the guest's own work then faults no page in while it is observed.
        *("-object", spec.backing.arguments(spec.memory_mib, prealloc=record.prealloc)),
        *("-bios", f"{places.files}/{record.firmware}"),
        *("-kernel", f"{places.files}/guest-kernel"),
        *("-initrd", f"{places.files}/guest-image"),
        *("-append", f"console=ttyS0 panic=-1 loglevel=6 gmem.tag={spec.number}"),
        *("-serial", f"file:{port}.console"),
        # Each queue's eventfd is one more file that QEMU's main loop polls, and whoever polls more than nine makes the
        # host allocate pages to wait on them (fs/select.c:__pollwait): with 70 queues two, at each turn of the loop.
        *("-global", "virtio-mmio.ioeventfd=off"),
        *("-device", "virtio-serial-device,max_ports=2"),
        *("-chardev", f"pipe,id=agent,path={port}.agent"),
        *("-device", "virtserialport,chardev=agent,name=gmem.agent"),
        *("-chardev", f"pipe,id=monitor,path={port}.qmp"),
        *("-mon", "chardev=monitor,mode=control"),
        *("-netdev", f"user,id=net0,restrict=on,ipv6=off{forward}"),
        *("-device", "virtio-net-device,netdev=net0"),
        # The log is a port too: a file would grow the page cache that is being measured.
        *("-D", f"{port}.log"),
    ]
    if record.support:
        arguments += ["-object", record.support.format(cbitpos=cbitpos)]
    return arguments, {"GMEM_RAM_BYTES": str(spec.memory_bytes), "LD_PRELOAD": preload}
