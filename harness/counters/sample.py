# SPDX-License-Identifier: GPL-2.0-only
"""All counters of a host at one instant, and the difference of two instants.

Names are the vocabulary of model, judge and reports: see ``registry``. A counter the kernel does not report, or whose
value cannot be known, is missing; it is never 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from harness.counters import buddyinfo, meminfo, pagetypeinfo, vmstat, zoneinfo
from harness.counters.lines import CounterFormatError, single_number
from harness.counters.sections import SampleFormatError, decode_sections

_TIME: Final = re.compile(r"start=([0-9]+) end=([0-9]+) steady=([01])\n")
_RESIDENT: Final = re.compile(r"resident=([0-9]+) size=([0-9]+)\n")
_MTHP: Final = re.compile(r"thp/hugepages-([0-9]+kB)/stats/([a-z0-9_]+)")
_HUGETLB: Final = re.compile(r"hugetlb/([0-9]+kB)/([a-z_]+)")
_KVM: Final = re.compile(r"kvm/([0-9]+)-([0-9]+)/([a-z0-9_]+)")
_GMEM: Final = re.compile(r"gmem/([0-9]+)")

# Where a page is that is not free: leaving F without entering one of these is a leak (or memory the kernel does not
# account, such as a driver's alloc_pages()). All in pages. vmalloc memory holds the kernel stacks too; nr_kernel_stack
# itself counts threads, whose stacks the kernel caches and reuses without an allocation.
ACCOUNTED: Final = (
    "nr_file_pages",
    "nr_anon_pages",
    "nr_slab_reclaimable",
    "nr_slab_unreclaimable",
    "nr_page_table_pages",
    "nr_sec_page_table_pages",
)


@dataclass(frozen=True)
class Sample:
    """``values`` by counter name; ``raw`` the kernel's texts by section name; ``time_ns`` the host's monotonic clock
    when reading began, ``duration_ns`` how long it took. ``steady``: vmstat said the same before and after zoneinfo and
    buddyinfo were read, so that the three belong to one instant; a machine that never rests gives False."""

    values: Mapping[str, int]
    raw: Mapping[str, str]
    time_ns: int
    duration_ns: int = 0
    steady: bool = True


def build_sample(blob: bytes, guests: Mapping[int, str] | None = None) -> Sample:
    """The sample in a blob that the probe's ``fetch`` returned.

    ``guests`` names the QEMU processes of the host by process id, ``{4711: "g0"}``; the counters of a process that is
    not in it stay in ``raw`` only. Raises SampleFormatError for a damaged blob and CounterFormatError for a text that
    the kernel does not print.
    """
    raw = decode_sections(blob)
    times = _TIME.fullmatch(raw.get("time", ""))
    if times is None:
        raise SampleFormatError("it does not say when it was taken")
    begin, end = int(times[1]), int(times[2])
    values = MappingProxyType(values_of(raw, guests or {}))
    return Sample(values, MappingProxyType(dict(raw)), begin, end - begin, times[3] == "1")


def values_of(raw: Mapping[str, str], guests: Mapping[int, str]) -> dict[str, int]:
    """All counters, printed and derived, sorted by name."""
    values: dict[str, int] = {}
    for name, text in raw.items():
        values.update(_FILES[name](text) if name in _FILES else _single(name, text, guests))
    values.update(_derived(values, raw))
    return dict(sorted(values.items()))


def difference(before: Sample | Mapping[str, int], after: Sample | Mapping[str, int]) -> Mapping[str, int]:
    """``after - before`` for the counters that both have, sorted by name."""
    first = before.values if isinstance(before, Sample) else before
    second = after.values if isinstance(after, Sample) else after
    return {name: second[name] - first[name] for name in sorted(first.keys() & second.keys())}


def _single(name: str, text: str, guests: Mapping[int, str]) -> Mapping[str, int]:
    """Sections of one number; a section of no known kind adds no counter."""
    if match := _MTHP.fullmatch(name):
        return {f"mthp/{match[1]}/{match[2]}": single_number(text, name)}
    if match := _HUGETLB.fullmatch(name):
        return {name: single_number(text, name)}
    if match := _KVM.fullmatch(name):
        guest = guests.get(int(match[1]))
        return {f"kvm/{guest}/{match[3]}": single_number(text, name)} if guest else {}
    if match := _GMEM.fullmatch(name):
        guest = guests.get(int(match[1]))
        resident = _RESIDENT.fullmatch(text)
        if resident is None:
            raise CounterFormatError(name, 1, text, "expected 'resident=PAGES size=BYTES'")
        return {f"gmem/{guest}": int(resident[1])} if guest else {}
    return {}


def _zones(text: str) -> Mapping[str, int]:
    """F and pcp. Both come from zoneinfo, where a zone's free count and page lists are printed next to each other:
    nr_free_pages of vmstat is older by a whole read, and pages move from one to the other in between."""
    zones = zoneinfo.parse(text)
    pcp = sum(zone.pcp for zone in zones)
    return {"F": sum(zone.free for zone in zones) + pcp, "pcp": pcp}


def _buddies(text: str) -> Mapping[str, int]:
    free = buddyinfo.free_per_order(buddyinfo.parse(text))
    return {f"free_order/{order}": blocks for order, blocks in enumerate(free)}


def _page_types(text: str) -> Mapping[str, int]:
    info = pagetypeinfo.parse(text)
    free, blocks = info.free_pages(), info.block_counts()
    values = {f"free/{name}": pages for name, pages in free.items()}
    values.update({f"blocks/{name}": count for name, count in blocks.items()})
    values.update({f"free_{name}": number for name, number in info.pieces().items()})
    values.update({f"first_zone/{name}": number for name, number in info.first_zone().items()})
    if "Movable" in free and "Movable" in blocks:
        values["movable_balance"] = free["Movable"] - info.pages_per_block * blocks["Movable"]
    return values


def _memory(text: str) -> Mapping[str, int]:
    return {f"meminfo/{name}": value for name, value in meminfo.parse(text).items()}


_FILES: Final = MappingProxyType(
    {
        "vmstat": vmstat.parse,
        "zoneinfo": _zones,
        "buddyinfo": _buddies,
        "pagetypeinfo": _page_types,
        "meminfo": _memory,
    }
)


def _derived(values: Mapping[str, int], raw: Mapping[str, str]) -> dict[str, int]:
    """Counters made of several; each only when all its parts are known."""
    derived: dict[str, int] = {}
    pgalloc = [value for name, value in values.items() if name.startswith("pgalloc_")]
    if pgalloc:
        derived["pgalloc"] = sum(pgalloc)
    vmalloc = _vmalloc_pages(values)
    if vmalloc is not None:
        derived["vmalloc"] = vmalloc
        if all(part in values for part in ("F", *ACCOUNTED)):
            derived["unaccounted"] = -sum(values[part] for part in ("F", *ACCOUNTED)) - vmalloc
    return derived


def _vmalloc_pages(values: Mapping[str, int]) -> int | None:
    """Pages of vmalloc memory: a vmstat item in newer kernels, in kB in meminfo before (6.12)."""
    if "nr_vmalloc" in values:
        return values["nr_vmalloc"]
    used = values.get("meminfo/VmallocUsed")
    return None if used is None else used // 4
