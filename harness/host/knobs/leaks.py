# SPDX-License-Identifier: GPL-2.0-only
"""What a test left on a host: two snapshots, and sentences about what should have come back and did not.

Taken while no guest of ours runs: before a test starts one, and after its last one ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from harness.counters.meminfo import parse
from harness.host.knobs.kernel_log import LogPart
from harness.host.knobs.place import DEFAULT_PLACE, Place
from harness.host.knobs.processes import Ours, ours
from harness.host.knobs.setting import KnobError, read_knobs
from harness.host.reach import Reach, read_file

_POOL_FILES: Final = (
    "/sys/kernel/mm/hugepages/hugepages-*/*_hugepages",
    "/sys/devices/system/node/node*/hugepages/hugepages-*/*_hugepages",
)
_TAINTED: Final = "/proc/sys/kernel/tainted"
_PAGE_KB: Final = 4
# arch/x86/virt/svm/sev.c snp_leak_pages(), arch/x86/kvm/vmx/tdx.c: the page, or the key, is lost until the next boot.
_LOST_FOR_GOOD: Final = re.compile(r"Leaking PFN range|HKID \d+ is leaked")
_POOL = re.compile(r"(?:.*/node/(node\d+)/|.*/)hugepages/hugepages-(\d+)kB/(\w+)_hugepages\Z")
TAINTS: Final = {
    0: "a proprietary module was loaded", 1: "a module was forced to load", 2: "the kernel is out of its specification",
    3: "a module was forced to unload", 4: "a machine check was reported", 5: "a bad page was referenced",
    6: "user space asked for it", 7: "the kernel died (OOPS or BUG)", 8: "an ACPI table was overridden",
    9: "a warning was printed (WARN)", 10: "a staging driver was loaded", 11: "a firmware bug was worked around",
    12: "an out-of-tree module was loaded", 13: "an unsigned module was loaded", 14: "a soft lockup was seen",
    15: "the kernel was live-patched", 16: "the distribution set it", 17: "the layout of structures was randomised",
    18: "a test of the kernel ran", 19: "a mutating fwctl call was made",
}  # fmt: skip
"""Bits of /proc/sys/kernel/tainted (Documentation/admin-guide/tainted-kernels.rst)."""


@dataclass(frozen=True)
class HostSnapshot:
    """``pools``: pages by (node or '', kB, which), which being nr, free, resv, surplus.  ``meminfo`` in kB."""

    pools: Mapping[tuple[str, int, str], int]
    meminfo: Mapping[str, int]
    tainted: int
    processes: tuple[Ours, ...]

    @property
    def unevictable(self) -> int | None:
        """Pages of 4 KiB that cannot be reclaimed and are no mlock()ed ones: a guest_memfd's are such."""
        if "Unevictable" not in self.meminfo or "Mlocked" not in self.meminfo:
            return None
        return (self.meminfo["Unevictable"] - self.meminfo["Mlocked"]) // _PAGE_KB


def snapshot(reach: Reach, place: Place = DEFAULT_PLACE) -> HostSnapshot:
    """Read a host in three commands; raises ``KnobError`` when /proc is not what it should be."""
    files = read_knobs(reach, [*_POOL_FILES, _TAINTED])
    pools = {}
    for path, knob in files.items():
        match = _POOL.match(path)
        if match and knob.text is not None and knob.text.strip().isdigit():
            pools[match[1] or "", int(match[2]), match[3]] = int(knob.text)
    meminfo = read_file(reach, "/proc/meminfo")
    tainted = files.get(_TAINTED)
    if meminfo is None or tainted is None or tainted.text is None:
        raise KnobError(f"{reach.name}: /proc/meminfo or {_TAINTED} cannot be read")
    return HostSnapshot(pools, parse(meminfo.decode()), int(tainted.text), tuple(ours(reach, place)))


def leaks(before: HostSnapshot, after: HostSnapshot, log: LogPart | None = None) -> list[str]:
    """What did not come back, a sentence each; nothing when all is well.

    ``log`` is what the kernel said in between.
    """
    found = list(_processes(after))
    found += _pools(before, after)
    found += _unevictable(before, after)
    found += _taints(before.tainted, after.tainted)
    found += _said(log) if log is not None else []
    return found


def _processes(after: HostSnapshot) -> Iterator[str]:
    for process in after.processes:
        if process.alive:
            yield f"process {process.pid} ({process.what}) of ours still runs"


def _pools(before: HostSnapshot, after: HostSnapshot) -> Iterator[str]:
    per_node = {size for node, size, _ in after.pools if node}
    for node, size, which in sorted(before.pools.keys() | after.pools.keys()):
        was, now = (shot.pools.get((node, size, which), 0) for shot in (before, after))
        if was == now or (not node and size in per_node and which != "resv"):
            continue  # a sum is told by its nodes
        where = f" on {node}" if node else ""
        if which == "free" and now < was:
            yield f"{was - now} huge pages of {size} kB{where} are not free again: {was} before, {now} after"
        elif which == "nr" and now < was:
            yield f"the pool of huge pages of {size} kB{where} shrank from {was} to {now}"
        elif which in ("resv", "surplus") and now > was:
            yield f"{now - was} {_WORDS[which]} huge pages of {size} kB{where} stayed: {was} before, {now} after"
        elif which == "nr":
            yield f"the pool of huge pages of {size} kB{where} grew from {was} to {now}"


_WORDS = {"resv": "reserved", "surplus": "surplus"}


def _unevictable(before: HostSnapshot, after: HostSnapshot) -> Iterator[str]:
    was, now = before.unevictable, after.unevictable
    if was is not None and now is not None and now > was:
        yield (
            f"{now - was} pages more are unevictable without being mlocked: {was} before, {now} after; pages of a "
            f"guest_memfd are such (so are those of ramfs, secretmem and locked shared memory)"
        )


def _taints(was: int, now: int) -> Iterator[str]:
    for bit in range(64):
        if now & ~was & 1 << bit:
            yield f"the kernel is tainted: {TAINTS.get(bit, 'for a reason not known here')} (bit {bit})"


def _said(log: LogPart) -> Iterator[str]:
    for line in log.lines:
        match = _LOST_FOR_GOOD.search(line)
        if match:
            yield f"the kernel gave memory or a key up until the next boot: {line[line.find(']') + 1 :].strip()[:200]}"
    if log.crash is not None:
        yield f"the kernel printed {log.crash.kind}: {log.crash.title}"
    if log.notice:
        yield log.notice
