# SPDX-License-Identifier: GPL-2.0-only
"""What a host's file asks of the host, held against what the host says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from harness.host.capabilities.kvm import KvmAnswers
from harness.host.capabilities.record import Capability, HostProbe, State
from harness.host.config.host import HostConfig
from harness.host.config.knobs import before_each, module_params, wanted

_MASKS: Final = ("guest_memfd_flags", "memory_attributes", "exit_hypercall")
"""Extensions whose answer is a set of bits."""
ATTRIBUTES: Final = "memory attributes or in-place conversion"
"""A kernel that converts in place keeps the attributes with the guest_memfd, and the VM has none."""
TEE_NEEDS: Final = {
    "snp": ("snp", ATTRIBUTES, "conversion exits", "qemu sev-snp-guest"),
    "tdx": ("tdx", ATTRIBUTES, "conversion exits", "qemu tdx-guest"),
    "sw-protected": ("sw-protected", ATTRIBUTES, "conversion exits", "qemu"),
    "plain": ("plain", "qemu"),
    "bare": ("bare",),
}
"""Capabilities without which there are no guests of a kind."""


@dataclass(frozen=True)
class Missing:
    """One requirement that the host does not meet."""

    what: str
    """Where it stands, e.g. ``requires.kernel_min``, or the kind of guest."""
    reason: str
    fix: str = ""


def missing_for(tee: str, capabilities: Sequence[Capability]) -> list[Missing]:
    """What guests of one kind lack; what nobody knows counts as missing."""
    found = []
    by_name = {capability.name: capability for capability in capabilities}
    for name in TEE_NEEDS[tee]:
        alternatives = [by_name[part] for part in name.split(" or ")]
        if any(capability.state is State.YES for capability in alternatives):
            continue
        capability = alternatives[0]
        causes = capability.causes
        reason = "; ".join(cause.reason for cause in causes) or capability.primary
        fix = "; ".join(cause.fix for cause in causes if cause.fix)
        found.append(Missing(f"tee {tee}", f"{capability.name} is {capability.state.value}: {reason}", fix))
    return found


def missing(config: HostConfig, probe: HostProbe) -> list[Missing]:
    """Everything of the host's file that does not hold, not only the first; the kinds of guests are not among it."""
    return [*_kvm(config, probe), *_kernel(config, probe), *_machine(config, probe), *_settings(config, probe)]


def _kvm(config: HostConfig, probe: HostProbe) -> Iterator[Missing]:
    requires = config.requires
    kvm = KvmAnswers.parse(probe.kvmcaps)
    for kind in requires.vm_types:
        if kvm is None or not kvm.created(kind):
            yield Missing("requires.vm_types", f"no VM of type {kind} can be made", f"see {kind} above")
    scope = f"vm.{requires.vm_types[0] if requires.vm_types else 'default'}"
    for name, least in requires.kvm_caps.items():
        value = kvm.number(f"{scope}.{name}") if kvm else None
        enough = value is not None and (value & least == least if name in _MASKS else value >= least)
        if not enough:
            told = "unknown" if value is None else f"{value:#x}"
            yield Missing("requires.kvm_caps", f"{name} of {scope} is {told}, wanted {least:#x}", "a newer kernel")


def _kernel(config: HostConfig, probe: HostProbe) -> Iterator[Missing]:
    requires = config.requires
    release = (probe.command("release") or "").strip()
    if requires.kernel_min and _version(release) < _version(requires.kernel_min):
        yield Missing("requires.kernel_min", f"the kernel is {release or 'unknown'}, wanted {requires.kernel_min}", "")
    for option in requires.config:
        name, _, exact = option.removeprefix("CONFIG_").partition("=")
        value = probe.config.get(name, "n") if probe.config else "unknown"
        if value != exact if exact else value not in ("y", "m"):
            yield Missing("requires.config", f"CONFIG_{name} is {value}, wanted {exact or 'y or m'}", "another kernel")
    for name, value in module_params(config).items():
        told = probe.parameter(name)
        if told != value:
            fix = f"boot with {name}={value}, or options {name.replace('.', ' ')}={value} in /etc/modprobe.d"
            yield Missing("module_params", f"{name} is {told or 'absent'}, wanted {value}", fix)
    for word in config.kernel_cmdline.must:
        if word not in probe.cmdline:
            yield Missing("kernel_cmdline.must", f"the kernel was booted without {word}", f"boot with {word}")
    for word in config.kernel_cmdline.must_not:
        if word in probe.cmdline:
            yield Missing("kernel_cmdline.must_not", f"the kernel was booted with {word}", f"boot without {word}")


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"([0-9]+)\.([0-9]+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _machine(config: HostConfig, probe: HostProbe) -> Iterator[Missing]:
    requires = config.requires
    for flag in requires.cpu_flags:
        if flag not in probe.cpu_flags:
            yield Missing(
                "requires.cpu_flags", f"/proc/cpuinfo has no {flag}", "see the kind of guest above, and the BIOS"
            )
    for name in requires.qemu_objects:
        if name not in (probe.qemu_objects or ()):
            told = "QEMU was not asked" if probe.qemu_objects is None else f"{config.qemu.binary} has no {name}"
            yield Missing("requires.qemu_objects", told, "another QEMU: qemu.binary in the host's file")
    available = re.search(r"^MemAvailable:\s+([0-9]+) kB", probe.file("/proc/meminfo") or "", re.M)
    if requires.min_free_bytes and (not available or int(available[1]) << 10 < requires.min_free_bytes):
        told = f"{int(available[1]) >> 20} GiB" if available else "an unknown amount"
        yield Missing("requires.min_free_memory", f"{told} is available, wanted {requires.min_free_memory}", "")
    nodes = node_count(probe)
    if nodes < requires.numa_nodes:
        yield Missing("requires.numa_nodes", f"the host has {nodes}, wanted {requires.numa_nodes}", "BIOS: NPS or SNC")
    for kind, path in config.qemu.firmware.items():
        if probe.present.get(path) is False:
            yield Missing(f"qemu.firmware.{kind}", f"{path} is not there", "apt-get install ovmf, or another path")


def node_count(probe: HostProbe) -> int:
    """NUMA nodes that are online; 0 when nobody knows."""
    text = probe.file("/sys/devices/system/node/online") or ""
    pairs = re.findall(r"([0-9]+)(?:-([0-9]+))?", text)
    return sum(int(last or first) - int(first) + 1 for first, last in pairs)


def _settings(config: HostConfig, probe: HostProbe) -> Iterator[Missing]:
    """Files to set that this kernel does not have; their values are a run's business."""
    for path in wanted(config):
        if probe.file(path) is None:
            yield Missing("settings", f"{path} is not there or cannot be read", "another kernel, or leave it out")
    for path, _ in before_each(config):
        if probe.present.get(path) is False:
            yield Missing("before_each", f"{path} is not there", "another kernel, or leave it out")


def differing(config: HostConfig, probe: HostProbe) -> list[tuple[str, str, str]]:
    """Path, present and wanted value of what a run would set."""
    rows = []
    for path, value in wanted(config).items():
        text = probe.file(path)
        if text is not None:
            chosen = re.search(r"\[(\S+)\]", text)
            if (chosen[1] if chosen else text) != value:
                rows.append((path, chosen[1] if chosen else text, value))
    return rows
