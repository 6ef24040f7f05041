# SPDX-License-Identifier: GPL-2.0-only
"""The command line of QEMU for one guest on a host's own KVM."""

from __future__ import annotations

import json
from dataclasses import dataclass

from harness.errors import UsageError
from harness.guest.backing import ANON_4K, BackingRecord
from harness.guest.tee.kinds import Options, TeeKind

CPUID_LEAF = 0x8000001F
_SOCKET_BYTES = 107
"""Longest name of a Unix socket (sys/un.h, sun_path without its NUL)."""


@dataclass(frozen=True)
class TeeSpec:
    """One guest: what is asked for, and what the host under test answered about itself."""

    name: str
    kind: TeeKind
    folder: str
    """Folder of this guest on the host: sockets, logs.  Short: sockets live in it."""
    program: str
    """QEMU's path on the host."""
    firmware: str
    """Path of the image on the host, from ``candidates.choose_firmware``; '' for QEMU's own, SeaBIOS."""
    kernel: str
    initrd: str
    append: str = "console=ttyS0 panic=-1"
    memory_mib: int = 2048
    vcpus: int = 1
    backing: BackingRecord = ANON_4K
    prealloc: bool = False
    """Whether QEMU populates the shared side; with guest_memfd beside it a guest then takes up to twice its size."""
    cbitpos: int | None = None
    """Of the host: see ``cbitpos_of``."""
    kernel_hashes: bool = False
    """Whether kernel, initrd and command line are measured."""
    survives_reset: bool = False
    """Whether this QEMU builds such a guest anew on reset: ``schema.survives_reset``."""
    properties: Options = ()
    """More properties of the confidential object, or other values of those of the kind."""
    ports: str = ""
    """Prefix of FIFOs that somebody holds open already, in place of sockets and files in ``folder``: ``PREFIX.qmp.in``
    and ``.out``, ``PREFIX.agent.in`` and ``.out``, ``PREFIX.console``, ``PREFIX.log``.  Nothing of them grows the page
    cache of the host."""
    extra: tuple[str, ...] = ()
    """More arguments, as they are."""

    @property
    def monitor(self) -> str:
        """Unix socket of QMP on the host."""
        return f"{self.folder}/qmp.sock"

    @property
    def agent(self) -> str:
        """Unix socket on the host that is the guest's virtio-serial port ``gmem.agent``."""
        return f"{self.folder}/agent.sock"

    @property
    def console(self) -> str:
        """File on the host with what the guest's first serial port prints."""
        return f"{self.ports}.console" if self.ports else f"{self.folder}/console.log"

    @property
    def log(self) -> str:
        """File on the host with QEMU's trace events."""
        return f"{self.ports}.log" if self.ports else f"{self.folder}/qemu.log"


def cbitpos_of(cpuid: bytes) -> int:
    """The bit of a guest's page table entries that means "private", on SNP: CPUID 0x8000001f EBX[5:0].

    ``cpuid``: the 16 bytes that ``/dev/cpu/0/cpuid`` has at offset ``CPUID_LEAF`` (EAX, EBX, ECX, EDX).
    """
    if len(cpuid) != 16:
        raise UsageError(f"a CPUID leaf has 16 bytes, not {len(cpuid)}")
    return int.from_bytes(cpuid[4:8], "little") & 0x3F


def tee_command(spec: TeeSpec) -> list[str]:
    """QEMU and its arguments, as they are run on the host.

    Raises ``UsageError`` for a guest that cannot be described: see ``_contradiction``.
    """
    if wrong := _contradiction(spec):
        raise UsageError(f"guest {spec.name}: {wrong}")
    kind = spec.kind
    support: Options = (("confidential-guest-support", "cgs0"),) if kind.confidential else ()
    arguments = [
        spec.program,
        "-nodefaults",
        "-no-user-config",
        *("-display", "none"),
        *("-name", _joined(f"guest=gmem-{spec.name}", (("debug-threads", "on"),))),
        *("-machine", _joined("q35", (*support, ("memory-backend", "ram0"), *kind.machine))),
        *("-accel", _joined("kvm", kind.accel)),
        *("-cpu", kind.cpu),
        *("-smp", str(spec.vcpus)),
        *("-m", f"{spec.memory_mib}M"),
        *("-object", spec.backing.arguments(spec.memory_mib, prealloc=spec.prealloc)),
        # never -drive if=pflash: that is a read-only memory slot, which KVM refuses to guests with private memory
        *(("-bios", spec.firmware) if spec.firmware else ()),
        *("-kernel", spec.kernel),
        *("-initrd", spec.initrd),
        *("-append", spec.append),
        *("-chardev", _joined("file", (("id", "console"), ("path", spec.console)))),
        *("-serial", "chardev:console"),
        *("-chardev", _channel(spec, "monitor", "qmp", spec.monitor)),
        *("-mon", "chardev=monitor,mode=control"),
        *("-device", "virtio-serial-pci,id=serial0,max_ports=2"),
        *("-chardev", _channel(spec, "agent", "agent", spec.agent)),
        *("-device", "virtserialport,bus=serial0.0,chardev=agent,name=gmem.agent"),
        *("-D", spec.log),
    ]
    for event in kind.traces:
        arguments += ["-trace", f"enable={event}"]
    if kind.confidential:
        arguments += ["-object", _confidential_object(spec)]
    if kind.reset_trace and not spec.survives_reset:
        # this QEMU would end with an error of its own, where the guest only asked for a reboot
        arguments.append("-no-reboot")
    return [*arguments, *spec.extra]


def _contradiction(spec: TeeSpec) -> str:
    """What in a guest's description cannot be; '' for nothing."""
    kind = spec.kind
    if kind.unavailable:
        return kind.unavailable
    if kind.metadata and not spec.firmware:
        return f"kind {kind.name} needs a firmware with {kind.metadata} metadata, and none is named"
    if kind.wants_cbitpos and not spec.cbitpos:
        return "SEV-SNP needs the host's cbitpos, CPUID 0x8000001f EBX[5:0], and it is not known or 0"
    if spec.kernel_hashes and not kind.hashes_property:
        return f"kind {kind.name} cannot measure its kernel (kernel-hashes is of sev-snp-guest)"
    if spec.properties and not kind.confidential:
        return f"kind {kind.name} has no confidential object, so none with property {spec.properties[0][0]}"
    if spec.memory_mib < 1 or spec.vcpus < 1:
        return f"{spec.memory_mib} MiB and {spec.vcpus} vCPUs are no machine"
    if spec.backing.pool and spec.memory_mib % 2:
        return f"{spec.memory_mib} MiB are not whole huge pages of 2 MiB, as backing {spec.backing.name} needs"
    sockets = () if spec.ports else (spec.monitor, spec.agent)
    if long := next((p for p in sockets if len(p.encode()) > _SOCKET_BYTES), ""):
        return f"the socket {long} has a name of more than {_SOCKET_BYTES} bytes: choose a shorter folder"
    return ""


def _confidential_object(spec: TeeSpec) -> str:
    kind = spec.kind
    given = dict(kind.properties)
    if kind.wants_cbitpos:
        given["cbitpos"] = str(spec.cbitpos)
    if spec.kernel_hashes:
        given[kind.hashes_property] = "on"
    given.update(spec.properties)
    if not kind.json_object:
        return _joined(kind.object_type, (("id", "cgs0"), *given.items()))
    typed = {key: _typed(value) for key, value in given.items()}
    return json.dumps({"qom-type": kind.object_type, "id": "cgs0", **typed}, separators=(",", ":"))


def _typed(value: str) -> object:
    """What a word of a description is in JSON: on, off, a number, an object, else text."""
    if value in ("on", "off"):
        return value == "on"
    if value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise UsageError(f"not JSON, though it begins so: {value!r} ({error})") from None
    try:
        return int(value, 0)
    except ValueError:
        return value


def _channel(spec: TeeSpec, name: str, port: str, path: str) -> str:
    if spec.ports:
        return _joined("pipe", (("id", name), ("path", f"{spec.ports}.{port}")))
    return _joined("socket", (("id", name), ("path", path), ("server", "on"), ("wait", "off")))


def _joined(head: str, options: Options) -> str:
    """QEMU's form of a value with options; a comma within one is doubled."""
    return ",".join([head, *(f"{key}={value.replace(',', ',,')}" for key, value in options)])
