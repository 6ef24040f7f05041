# SPDX-License-Identifier: GPL-2.0-only
"""A host with a small QEMU made up here, as far as it is asked what it knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.host.reach import Done

HELP = """\
usage: qemu [options]
-h or -help     display this help and exit
-machine [type=]name[,prop=value[,...]]
-M              as -machine
-object TYPENAME[,PROP1=VALUE1,...]
-device driver[,prop=value[,...]]
-trace [[enable=]<pattern>][,events=<file>][,file=<file>]
-cpu cpu        select CPU
-smp n
-chardev file,id=id,path=path
-netdev user,id=str
-accel [accel=]accelerator
--preconfig     pause QEMU
"""
SCHEMA = [
    {"name": "object-add", "meta-type": "command", "arg-type": "1"},
    {"name": "netdev_add", "meta-type": "command", "arg-type": "5"},
    {"name": "chardev-add", "meta-type": "command", "arg-type": "7"},
    {
        "name": "1",
        "meta-type": "object",
        "tag": "qom-type",
        "members": [{"name": "qom-type", "type": "2"}, {"name": "id", "type": "str"}],
        "variants": [{"case": "sev-snp-guest", "type": "3"}],
    },
    {"name": "2", "meta-type": "enum", "values": ["sev-snp-guest", "iothread"]},
    {
        "name": "3",
        "meta-type": "object",
        "members": [
            {"name": "reduced-phys-bits", "type": "int"},
            {"name": "policy", "type": "int", "default": None},
            {"name": "kernel-hashes", "type": "bool", "default": None},
            {"name": "mode", "type": "4", "default": None},
            {"name": "parts", "type": "[int]", "default": None},
        ],
    },
    {"name": "4", "meta-type": "enum", "members": [{"name": "fast"}, {"name": "slow"}]},
    {"name": "5", "meta-type": "object", "tag": "type", "members": [{"name": "type", "type": "6"}], "variants": []},
    {"name": "6", "meta-type": "enum", "values": ["user"]},
    {"name": "7", "meta-type": "object", "members": [{"name": "backend", "type": "8"}]},
    {"name": "8", "meta-type": "object", "tag": "type", "members": [{"name": "type", "type": "9"}], "variants": []},
    {"name": "9", "meta-type": "enum", "values": ["file"]},
    {"name": "[int]", "meta-type": "array", "element-type": "int"},
    *({"name": name, "meta-type": "builtin", "json-type": form} for name, form in
      (("int", "int"), ("bool", "boolean"), ("str", "string"))),
]  # fmt: skip
ANSWERS: dict[str, Any] = {
    "query-version": {"qemu": {"major": 12, "minor": 0, "micro": 1}},
    "query-qmp-schema": SCHEMA,
    "qom-list-types": [{"name": "kvm-accel"}, {"name": "virtio-net-pci"}],
    "query-machines": [{"name": "pc-q35-12.0", "alias": "q35"}, {"name": "none"}],
    "query-cpu-definitions": [{"name": "host"}, {"name": "EPYC-v4"}],
    "query-command-line-options": [
        {"option": "smp-opts", "parameters": [{"name": "cpus"}, {"name": "cores"}]},
        {"option": "chardev", "parameters": [{"name": "backend"}, {"name": "path"}]},
    ],
}
PROPERTIES = {
    "pc-q35-12.0-machine": {"smm": "OnOffAuto", "hpet": "bool", "max-fw-size": "size"},
    "kvm-accel": {"kernel-irqchip": "on|off|split", "dirty-ring-size": "uint32"},
    "virtio-net-pci": {"netdev": "str", "romfile": "str"},
    "host-x86_64-cpu": {"pmu": "bool"},
}
EVENTS = ("kvm_convert_memory", "sev_handle_reset")


@dataclass
class MadeUp:
    """A host with that QEMU."""

    name: str = "lab"
    code: int = 0
    drop: str = ""
    """Question that stays without an answer."""
    asked: list[list[str]] = field(default_factory=list)

    def run(self, arguments: Sequence[str], *, stdin: bytes = b"", timeout: float = 0) -> Done:
        self.asked.append(list(arguments))
        if arguments[-1] == "-help":
            return Done(0, HELP.encode(), b"")
        lines = ['{"QMP": {}}', "not json", "[]"]
        for command in map(json.loads, stdin.decode().splitlines()):
            if "id" in command and command["execute"] != self.drop:
                lines.append(json.dumps({**self._answer(command), "id": command["id"]}))
        return Done(self.code, "\n".join(lines).encode(), b"sh: qemu: not found" if self.code else b"")

    @staticmethod
    def _answer(command: dict[str, Any]) -> dict[str, Any]:
        given = command.get("arguments", {})
        if "typename" in given:
            found = PROPERTIES.get(given["typename"])
            listed = [{"name": name, "type": form} for name, form in (found or {}).items()]
            return {"return": listed} if found else {"error": {"desc": "not found"}}
        if "name" in given:
            return {"return": []} if given["name"] in EVENTS else {"error": {"desc": "unknown event"}}
        return {"return": ANSWERS[command["execute"]]}
