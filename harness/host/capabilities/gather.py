# SPDX-License-Identifier: GPL-2.0-only
"""Take everything that is judged of a host, in one visit that changes nothing there.

One file at a time, so that one that hangs or is missing spoils nothing else; some fifty reads over one connection.
Only the program ``gmem-kvmcaps`` is put there, run and removed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from harness.host.capabilities.record import HostProbe
from harness.host.reach import Done, Reach, ReachError, put_file
from harness.native.build import BuildError, build_program

_KVM_PARAMETERS: Final = (
    *("kvm.tdp_mmu", "kvm.mmio_caching", "kvm.nx_huge_pages", "kvm.eager_page_split"),
    *("kvm.vm_memory_attributes", "kvm.gmem_in_place_conversion"),
    *("kvm_amd.sev", "kvm_amd.sev_es", "kvm_amd.sev_snp", "kvm_amd.npt", "kvm_amd.ciphertext_hiding_asids"),
    *("kvm_intel.tdx", "kvm_intel.ept", "kvm_intel.eptad", "kvm_intel.enable_apicv"),
)
FILES: Final = (
    *("/proc/cmdline", "/proc/cpuinfo", "/proc/meminfo", "/proc/sys/kernel/tainted", "/sys/power/state"),
    *("/sys/power/disk", "/sys/kernel/security/lockdown"),
    *("/sys/devices/system/node/online", "/sys/devices/system/cpu/online", "/sys/devices/system/cpu/present"),
    *("/sys/fs/cgroup/misc.capacity", "/sys/devices/faux/tdx_host/version"),
    *("/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name", "/sys/class/dmi/id/bios_version"),
    *("/sys/class/dmi/id/bios_date", "/sys/class/dmi/id/board_name"),
    *(f"/sys/module/{name.replace('.', '/parameters/')}" for name in _KVM_PARAMETERS),
)
PRESENT: Final = (
    *("/dev/kvm", "/dev/sev", "/dev/vhost-vsock", "/sys/class/firmware/tdx_module", "/sys/module/kvm"),
    *("/sys/module/kvm_amd", "/sys/module/kvm_intel", "/sys/module/ccp"),
)
_CONFIG: Final = """
release=$(uname -r)
for place in "/boot/config-$release" "/usr/lib/modules/$release/config" "/lib/modules/$release/build/.config"; do
    [ -r "$place" ] && exec cat "$place"
done
exec zcat /proc/config.gz
"""
_LOG: Final = """
dmesg 2>/dev/null | grep -q 'Linux version' && exec dmesg
journalctl --dmesg --boot --output=short-monotonic --no-hostname --no-pager -q 2>/dev/null | grep . || exec dmesg
"""
"""The ring buffer may have lost the boot; the journal has it."""
COMMANDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "release": ("uname", "-r"),
        "version": ("uname", "-v"),
        "user": ("id", "-u"),
        "config": ("sh", "-c", _CONFIG),
        "dmesg": ("sh", "-c", _LOG),
    }
)
_PLACES: Final = ("/tmp", "/var/tmp", "/run", "/root")
"""Folders for a program: the first that takes it and lets it run."""
_NOT_EXECUTABLE: Final = 126


def kvmcaps_program() -> bytes:
    """The program for the host; raises ``BuildError``."""
    with tempfile.TemporaryDirectory(prefix="gmem-kvmcaps-") as folder:
        return build_program("kvmcaps", Path(folder)).read_bytes()


def gather(
    reach: Reach,
    *,
    qemu: str = "qemu-system-x86_64",
    firmware: Mapping[str, str] | None = None,
    files: Sequence[str] = (),
    present: Sequence[str] = (),
    program: Callable[[], bytes] = kvmcaps_program,
) -> HostProbe:
    """Everything of one host; ``files`` are read beside ``FILES``, ``present`` looked for beside ``PRESENT``.

    Raises ``ReachError`` when the host cannot be reached; what is missing on it is part of the answer.
    """
    wanted = dict(COMMANDS)
    wanted["qemu version"] = (qemu, "--version")
    wanted["qemu objects"] = (qemu, "-object", "help")
    answers = {name: _text(reach.run(command)) for name, command in wanted.items()}
    output, failed = _kvmcaps(reach, program)
    return HostProbe(
        host=reach.name,
        files={path: _text(reach.run(["head", "-c", "16777216", path])) for path in (*FILES, *files)},
        commands=answers,
        present={path: reach.run(["test", "-e", path]).code == 0 for path in (*PRESENT, *present)},
        kvmcaps=output,
        kvmcaps_failed=failed,
        firmware=dict(firmware or {}),
    )


def _text(done: Done) -> str | None:
    return None if done.code else done.text


def _kvmcaps(reach: Reach, program: Callable[[], bytes]) -> tuple[str | None, str]:
    """Output, and why there is none or not all."""
    try:
        binary = program()
    except BuildError as error:
        return None, str(error)
    failed = "no folder there takes a program"
    for place in _PLACES:
        made = reach.run(["mktemp", "-d", f"{place}/gmem-kvmcaps.XXXXXXXX"])
        folder = made.text.strip()
        if made.code or not folder.startswith(f"{place}/gmem-kvmcaps."):
            continue
        try:
            put_file(reach, f"{folder}/gmem-kvmcaps", binary, mode=0o755)
            done = reach.run([f"{folder}/gmem-kvmcaps"])
        except ReachError as error:
            failed = str(error)
            continue
        finally:
            reach.run(["rm", "-rf", folder])
        if done.code == _NOT_EXECUTABLE:
            failed = f"programs cannot be run in {place}: {done.complaint}"
            continue
        if done.code:
            return done.text, f"gmem-kvmcaps ended with status {done.code}: {done.complaint}"
        return done.text, ""
    return None, failed
