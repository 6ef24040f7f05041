# SPDX-License-Identifier: GPL-2.0-only
"""Holds a command line against what a QEMU knows, before that QEMU is started.

QEMU itself refuses a wrong machine late, creates devices after the guest's memory, and only warns of a trace event that
does not exist: its events would just be missing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from harness.guest.tee.arguments import Argument, keyed
from harness.guest.tee.refusal import Refusal, skip, usage
from harness.guest.tee.schema import Members, QemuSchema, Value, cpu_type, machine_type

NEEDS: Final = {
    "sev-snp-guest": "QEMU has it since 9.1: install Debian trixie's qemu-system-x86, or bookworm-backports'",
    "tdx-guest": "QEMU has it since 10.1: install qemu-system-x86 of Debian's trixie-backports (11.1)",
    "memory-backend-guest-memfd": "no release of QEMU has it, only branches that convert in place",
    "sev-snp-guest.convert-in-place": "no release of QEMU has it, only branches that convert in place",
    "sev-snp-guest.certs-path": "Debian's QEMU 11.1 does not have it: do without, or build a newer QEMU",
    "kvm_convert_memory": "QEMU has it since 9.1: install a newer qemu-system-x86",
    "kvm_memory_fault": "QEMU has it since 9.1: install a newer qemu-system-x86",
    "kvm_sev_snp_launch_start": "QEMU has it since 9.1: install a newer qemu-system-x86",
    "kvm_sev_snp_launch_update": "QEMU has it since 9.1: install a newer qemu-system-x86",
    "kvm_sev_snp_launch_finish": "QEMU has it since 9.1: install a newer qemu-system-x86",
}
"""What exists, and not in every QEMU: where it is missing, the host lacks it, and nobody mistyped it."""

_LEGACY_MACHINE: Final = frozenset({"accel", "kernel-irqchip", "kvm-shadow-mem", "igd-passthru"})
"""Options of ``-machine`` that are none of the machine (system/vl.c, qemu_apply_legacy_machine_options)."""
_GROUPS: Final = {"-name": "name", "-smp": "smp-opts", "-m": "memory", "-mon": "mon", "-chardev": "chardev"}
_IMPLIED: Final = {"-name": "guest", "-smp": "cpus", "-m": "size", "-mon": "chardev", "-chardev": "backend"}


def check_line(schema: QemuSchema, line: Sequence[Argument]) -> list[Refusal]:
    """Everything in a line that this QEMU does not know, in the order of the line; empty when it knows all of it.

    A typing mistake is the request's fault and names what comes nearest; what other QEMUs have is a skip with its fix.
    """
    found: list[Refusal] = []
    for argument in line:
        if argument.option not in schema.options:
            found.append(_unknown(schema, argument, "option", argument.option, schema.options))
        elif check := _CHECKS.get(argument.option):
            found += check(schema, argument)
    return found


def _object(schema: QemuSchema, argument: Argument) -> list[Refusal]:
    value = keyed(argument, "qom-type")
    members = schema.objects.get(value.head)
    if members is None:
        return [_unknown(schema, argument, "object", value.head, schema.objects)]
    found = _pairs(schema, argument, value.head, value.pairs, members)
    given = {"qom-type", *(key for key, _ in value.pairs)}
    for name in sorted(name for name, member in members.items() if member.required and name not in given):
        found.append(usage(f"{argument.option} makes a {value.head} without {name}", f"{schema.version} must have it"))
    return found


def _machine(schema: QemuSchema, argument: Argument) -> list[Refusal]:
    value = keyed(argument, "type")
    machine = value.head or schema.machine
    members = schema.properties.get(machine_type(schema, machine))
    if members is None:
        return [_unknown(schema, argument, "machine", machine, schema.machines)]
    pairs = [(key.replace("_", "-"), word) for key, word in value.pairs]
    pairs = [(key, word) for key, word in pairs if key not in _LEGACY_MACHINE]
    return _pairs(schema, argument, machine, pairs, members)


def _accel(schema: QemuSchema, argument: Argument) -> list[Refusal]:
    value = keyed(argument, "accel")
    known = [name.removesuffix("-accel") for name in schema.types if name.endswith("-accel")]
    members = schema.properties.get(f"{value.head}-accel")
    if members is None:
        return [_unknown(schema, argument, "accelerator", value.head, known)]
    return _pairs(schema, argument, value.head, value.pairs, members)


def _cpu(schema: QemuSchema, argument: Argument) -> list[Refusal]:
    model, *features = argument.value.split(",")
    if model not in schema.cpus:
        return [_unknown(schema, argument, "CPU", model, schema.cpus)]
    members = schema.properties.get(cpu_type(model)) or {}
    pairs = [(word.lstrip("+-").partition("=")[0], word.partition("=")[2] or "on") for word in features]
    return _pairs(schema, argument, model, pairs, members)


def _device(schema: QemuSchema, argument: Argument) -> list[Refusal]:
    value = keyed(argument, "driver")
    members = schema.devices.get(value.head)
    if members is None:
        return [_unknown(schema, argument, "device", value.head, schema.types)]
    own = {"id": Value("string"), "bus": Value("string")}
    return _pairs(schema, argument, value.head, value.pairs, {**members, **own})


def _netdev(schema: QemuSchema, argument: Argument) -> list[Refusal]:
    value = keyed(argument, "type")
    members = schema.netdevs.get(value.head)
    if members is None:
        return [_unknown(schema, argument, "network backend", value.head, schema.netdevs)]
    return _pairs(schema, argument, value.head, value.pairs, members)


def _group(schema: QemuSchema, argument: Argument) -> list[Refusal]:
    group = _GROUPS[argument.option]
    value = keyed(argument, _IMPLIED[argument.option])
    if group == "chardev" and value.head not in schema.chardevs:
        return [_unknown(schema, argument, "character device", value.head, schema.chardevs)]
    members = {name: Value("") for name in schema.groups.get(group, frozenset())}
    if group == "chardev":
        members["id"] = Value("string")
    return _pairs(schema, argument, group, value.pairs, members) if members else []


def _trace(schema: QemuSchema, argument: Argument) -> list[Refusal]:
    event = keyed(argument, "enable").head
    if not event or "*" in event or schema.events.get(event, False):
        return []
    return [_unknown(schema, argument, "trace event", event, [name for name, there in schema.events.items() if there])]


_CHECKS: Final[dict[str, Callable[[QemuSchema, Argument], list[Refusal]]]] = {
    "-object": _object,
    "-machine": _machine,
    "-M": _machine,
    "-accel": _accel,
    "-cpu": _cpu,
    "-device": _device,
    "-netdev": _netdev,
    "-trace": _trace,
    **dict.fromkeys(_GROUPS, _group),
}


def _pairs(
    schema: QemuSchema, argument: Argument, owner: str, pairs: Iterable[tuple[str, str]], members: Members
) -> list[Refusal]:
    """What is wrong with properties of ``owner``."""
    found = []
    for key, word in pairs:
        name = key.partition(".")[0]
        if name not in members:
            found.append(_unknown(schema, argument, f"property of {owner}", name, members, owner))
        elif wants := _wanted(members[name], word):
            found.append(
                usage(f"{argument.option} gives {owner} {key}={word}", f"{key} takes {wants}, says {schema.version}")
            )
    return found


def _wanted(value: Value, word: str) -> str:
    """What a property takes, where that is not what it was given; '' when all is well."""
    match value.form:
        case "boolean" if word not in ("on", "off", "yes", "no", "true", "false", "y", "n"):
            return "on or off"
        case "int" if not re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|[0-9]+(\.[0-9]+)?[bkKmMgGtTpPeE]?)", word):
            return "a number"
        case "enum" if word not in value.words:
            return "one of " + ", ".join(value.words)
    return ""


def _unknown(
    schema: QemuSchema, argument: Argument, what: str, name: str, known: Iterable[str], owner: str = ""
) -> Refusal:
    """A name that this QEMU does not have: mistyped, or of another QEMU."""
    sentence = f"{schema.version} has no {what} {name!r} ({argument})"
    if fix := NEEDS.get(f"{owner}.{name}" if owner else name, ""):
        return skip(sentence, fix)
    # what only other QEMUs have can be what was meant, too
    prefix = f"{owner}." if owner else ""
    elsewhere = [
        need.removeprefix(prefix) for need in NEEDS if need.startswith(prefix) and ("." in need) == bool(owner)
    ]
    near = difflib.get_close_matches(name, sorted({*known, *(need.removeprefix(prefix) for need in elsewhere)}), n=1)
    return usage(sentence, f"is {near[0]} meant?" if near else "correct it, or leave it out")
