# SPDX-License-Identifier: GPL-2.0-only
"""Which machine it was: recorded with every report, never judged."""

from __future__ import annotations

from harness.host.capabilities.record import HostProbe
from harness.host.capabilities.require import node_count

_DMI = "/sys/class/dmi/id/"


def identity(probe: HostProbe) -> dict[str, str]:
    """Names to texts, in the order of the report; what the host does not say is ``unknown``."""
    cpu = probe.cpu
    numbers = [cpu.get(key, "?") for key in ("cpu family", "model", "stepping")]
    board = " ".join(filter(None, (probe.file(f"{_DMI}{name}") for name in ("sys_vendor", "product_name"))))
    bios = " ".join(filter(None, (probe.file(f"{_DMI}{name}") for name in ("bios_version", "bios_date"))))
    found = {
        "kernel": " ".join(((probe.command("release") or "") + " " + (probe.command("version") or "")).split()),
        "cmdline": probe.file("/proc/cmdline") or "",
        "cpu": f"{cpu['model name']} (family, model, stepping {', '.join(numbers)})" if "model name" in cpu else "",
        "microcode": cpu.get("microcode", ""),
        "cpus online": f"{probe.file('/sys/devices/system/cpu/online') or '?'}"
        f" of {probe.file('/sys/devices/system/cpu/present') or '?'}",
        "numa nodes": str(node_count(probe) or ""),
        "machine": board,
        "bios": bios,
        "tdx module": probe.file("/sys/devices/faux/tdx_host/version") or "none",
        "sev firmware": probe.says("SEV-SNP API:") or probe.says("SEV API:") or "none",
        "qemu": (probe.command("qemu version") or "").partition("\n")[0],
        "tainted": probe.file("/proc/sys/kernel/tainted") or "",
        "kernel log": _log(probe),
    }
    return {name: value or "unknown" for name, value in found.items()}


def _log(probe: HostProbe) -> str:
    if not probe.log:
        return "not readable: log in as root"
    reaches = "from its start" if probe.says("Linux version") else "its start is lost"
    return f"{len(probe.log)} lines, {reaches}"
