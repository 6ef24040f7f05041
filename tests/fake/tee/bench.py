# SPDX-License-Identifier: GPL-2.0-only
"""``gmem run`` against made-up hosts with SNP or TDX: everything is real but the machine, its QEMU and its probe.

The texts of the host are those of ``tests/fake/hosts``; the relay is the real one and runs here; the other programs are
those of ``programs.py``.  By environment: ``GMEM_TEST_HOST`` names the host's texts, ``GMEM_TEST_FIRMWARE`` is ``none``
for an OVMF without metadata, ``GMEM_TEST_ROOT`` the folder that stands for the host's /run/gmem-harness.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.guest.tee.kinds import TEE_KINDS
from harness.host.emulated import launching
from harness.host.knobs.leaks import HostSnapshot
from harness.host.knobs.setting import KnobError
from harness.host.reach import COMMAND_SECONDS, Done, LocalReach
from harness.host.remote import files
from harness.host.remote import tee as starting
from harness.host.remote import testbed as remote
from harness.host.remote.files import Payload
from harness.run import handover, lab
from tests.fake import firmware_images
from tests.fake.host_bench import FakeReach, recorded
from tests.fake.tee import programs

OVMF = "/usr/share/ovmf/OVMF.fd"
CBITPOS = 51
_OPTIONS = """
    nodefaults no-user-config display name machine accel cpu smp m object bios kernel initrd append chardev serial mon
    device D trace no-reboot
"""
_BUILTINS = (("int", "int"), ("size", "int"), ("bool", "boolean"), ("str", "string"))


def _union(name: str, kinds: Mapping[str, Mapping[str, str]], tag: str) -> list[dict[str, Any]]:
    """A type of ``query-qmp-schema`` whose members depend on one of them."""
    cases = [{"case": kind, "type": f"{name}/{kind}"} for kind in kinds]
    members = [{"name": tag, "type": f"{name}/words"}, {"name": "id", "type": "str"}]
    return [
        {"name": name, "meta-type": "object", "tag": tag, "members": members, "variants": cases},
        {"name": f"{name}/words", "meta-type": "enum", "values": list(kinds)},
        *(
            {
                "name": f"{name}/{kind}",
                "meta-type": "object",
                "members": [{"name": key, "type": form, "default": None} for key, form in own.items()],
            }
            for kind, own in kinds.items()
        ),
    ]


_OBJECTS = {
    "memory-backend-ram": {"size": "size", "share": "bool", "prealloc": "bool"},
    "sev-snp-guest": {"cbitpos": "int", "reduced-phys-bits": "int", "policy": "int"},
    "tdx-guest": {},
}
_SCHEMA = [
    {"name": "object-add", "meta-type": "command", "arg-type": "objects"},
    {"name": "netdev_add", "meta-type": "command", "arg-type": "netdevs"},
    {"name": "chardev-add", "meta-type": "command", "arg-type": "chardev"},
    *_union("objects", _OBJECTS, "qom-type"),
    *_union("netdevs", {"user": {}}, "type"),
    {"name": "chardev", "meta-type": "object", "members": [{"name": "backend", "type": "backends"}]},
    *_union("backends", {"file": {}, "pipe": {}}, "type"),
    *({"name": name, "meta-type": "builtin", "json-type": form} for name, form in _BUILTINS),
]
_ANSWERS: dict[str, Any] = {
    "query-version": {"qemu": {"major": 12, "minor": 0, "micro": 1}},
    "query-qmp-schema": _SCHEMA,
    "qom-list-types": [{"name": "kvm-accel"}, {"name": "virtio-serial-pci"}, {"name": "virtserialport"}],
    "query-machines": [{"name": "pc-q35-12.0", "alias": "q35"}],
    "query-cpu-definitions": [{"name": "host"}, {"name": "EPYC-v4"}],
    "query-command-line-options": [{"option": "chardev", "parameters": [{"name": "backend"}, {"name": "path"}]}],
}
_PROPERTIES = {
    "pc-q35-12.0-machine": ("confidential-guest-support", "memory-backend", "vmport", "smm", "hpet"),
    "kvm-accel": ("kernel-irqchip",),
    "host-x86_64-cpu": ("pmu",),
    "EPYC-v4-x86_64-cpu": ("pmu",),
    "virtio-serial-pci": ("max_ports",),
    "virtserialport": ("chardev", "name"),
}
_EVENTS = {event for kind in TEE_KINDS.values() for event in kind.traces}


def _qmp(command: Mapping[str, Any]) -> dict[str, Any]:
    given = command.get("arguments", {})
    if "typename" in given:
        return {"return": [{"name": name, "type": "any"} for name in _PROPERTIES[given["typename"]]]}
    if "name" in given:
        return {"return": []} if given["name"] in _EVENTS else {"error": {"desc": "unknown event"}}
    return {"return": _ANSWERS[command["execute"]]}


class FakeHost(FakeReach):
    """A host that exists as text, on which programs can be started: they run here, below ``root``."""

    def __init__(self, name: str, root: str, qemu: str) -> None:
        super().__init__(recorded(name), qemu=qemu)
        self.qemu = qemu
        self.root = root
        self.here = LocalReach()

    def run(self, arguments: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Done:
        words = list(arguments)
        if words[:2] == ["head", "-c"] and words[3] == OVMF:
            whole = os.environ.get("GMEM_TEST_FIRMWARE") != "none"
            return Done(0, firmware_images.WHOLE if whole else firmware_images.image(firmware_images.HASHES), b"")
        if words[0] == "dd":  # /dev/cpu/0/cpuid
            first = 0x8000001F if words[-1] == f"skip={0x80000000}" else 0
            return Done(0, first.to_bytes(4, "little") + CBITPOS.to_bytes(4, "little") + bytes(8), b"")
        if self.qemu in words and words[-1] == "-help":
            return Done(0, "".join(f"-{name} value\n" for name in _OPTIONS.split()).encode(), b"")
        if self.qemu in words and words[-1] == "stdio":
            commands = [json.loads(line) for line in stdin.splitlines()]
            answers = [{**_qmp(one), "id": one["id"]} for one in commands if "id" in one]
            return Done(0, "\n".join(map(json.dumps, answers)).encode(), b"")
        if words[0] == "nproc" or any(self.root in word or "/sys/devices/system/node/node" in word for word in words):
            if stdin.startswith(b"#!"):
                words[-1] = "755"  # a program, as the real ones are by being ELF
            return self.here.run(words, stdin=stdin, timeout=timeout)
        return super().run(words, stdin=stdin, timeout=timeout)

    def start(
        self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        return self.here.start(arguments, environment=environment)


@contextmanager
def not_lent(reach: FakeHost, *words: object, **named: object) -> Iterator[Any]:
    """In place of ``lending.lent``, which has tests of its own: nothing of a made-up host is set."""
    nothing = {"set": lambda path, value: None, "beat": lambda: None, "made": lambda path: None}
    yield SimpleNamespace(reach=reach, first=defaultdict(lambda: "never"), **nothing)
    if os.environ.get("GMEM_TEST_FAULT") == "not-given-back":
        raise KnobError("/proc/sys/vm/swappiness is 33 and was 60")


def _script(role: str) -> bytes:
    return f'#!/bin/sh\nexec {sys.executable} -S {programs.__file__} {role} "$@"\n'.encode()


def plant(relay: Path, guest_seconds: float = 3.0) -> None:
    """Put made-up hosts in the place of all; ``relay`` is a folder with the program."""
    root = Path(os.environ["GMEM_TEST_ROOT"])
    qemu = root.parent / "qemu-system-x86_64"
    qemu.write_bytes(_script("qemu"))
    qemu.chmod(qemu.stat().st_mode | stat.S_IXUSR)
    texts = {"gmem-probe": _script("probe"), "gmem-control": _script("control")}
    built = {"gmem-relay": (relay / "gmem-relay").read_bytes(), "guest-kernel": b"kernel", "guest-image": b"image"}
    kernel = SimpleNamespace(image=Path("kernel"))
    made: Any = {
        (files, "ROOT"): str(root),
        (remote, "ROOT"): str(root),
        (launching, "GUEST_SECONDS"): guest_seconds,
        (starting, "_ASK_SECONDS"): guest_seconds,
        (remote, "lent"): not_lent,
        (remote, "before_each"): lambda *words: None,
        (remote, "snapshot"): lambda reach: HostSnapshot({}, {}, 0, ()),
        (remote, "end_of_log"): lambda reach: None,
        (remote, "read_log"): lambda *words: None,
        (remote, "leaks"): lambda *words: [],
        (lab, "KernelStore"): lambda *words, **named: SimpleNamespace(resolve=lambda name: kernel),
        (lab, "guest_image"): lambda *words: Path("image"),
        (lab, "_module"): lambda *words: Path("module"),
        (lab, "payload"): lambda *words: Payload({**built, **texts}),
        (handover, "reach_host"): lambda config: FakeHost(os.environ["GMEM_TEST_HOST"], str(root), config.qemu.binary),
    }
    remote.RemoteTestbed.judges = ("gmem/*",)  # the probe of these hosts knows no other counter
    for (module, name), value in made.items():
        assert hasattr(module, name), name
        setattr(module, name, value)
