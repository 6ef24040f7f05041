# SPDX-License-Identifier: GPL-2.0-only
"""What the shared side of a guest's memory is made of: one record per backing, for QEMU and for the host's settings.

The names are those of the reference model (``harness.model.designs.BACKINGS``), which has the rules.  ``anon-4k`` is
the default: what a guest does then shows in 4 KiB steps, and nothing of the host has to be set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import UsageError

THP = "/sys/kernel/mm/transparent_hugepage"
POOL_2M = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
HUGE_MIB = 2
ALIGNMENT = HUGE_MIB << 20

NO_SCAN = (f"{THP}/khugepaged/scan_sleep_millisecs", "4294967295")
"""khugepaged would put windows together again behind a scenario's back.  It scans nothing before its first sleep, since
there is nothing to scan yet, and this sleep takes 49 days; its ``defrag`` does not stop it."""

Setting = tuple[str, str]
"""A file of the host and the word that is written to it."""


@dataclass(frozen=True)
class BackingRecord:
    """One kind of shared memory."""

    name: str
    says: str
    """What it is, for people."""
    object_type: str
    """Type of QEMU's memory backend."""
    options: str
    """Its options beside id, size and prealloc."""
    settings: tuple[Setting, ...]
    """Written and read back before any guest starts, in this order."""
    huge_field: str
    """Field of /proc/PID/smaps that counts what QEMU's page table maps huge of such memory."""
    huge: bool
    """Whether all of a populated RAM has to be mapped huge, or nothing of it."""
    pool: bool = False
    """Whether the RAM comes out of the pool of huge pages, which is filled with as many as the guests need."""
    cycles: tuple[bool, ...] = (True,)
    """How the guest touches its regions on the shared side, once for each word, before the state is saved: by writing
    (True) or by reading."""
    question: str = ""
    """Fact about the kernel that is tried while a testbed is prepared (``harness/host/emulated/asking.py``)."""
    file: bool = False
    """Whether the RAM is a file that pages can be spliced out of; hugetlbfs copies instead."""

    def arguments(self, memory_mib: int, *, prealloc: bool) -> str:
        """Value of QEMU's ``-object`` for a RAM of that size.

        >>> ANON_4K.arguments(128, prealloc=True)
        'memory-backend-ram,id=ram0,size=128M,share=off,prealloc=on'
        """
        populated = "on" if prealloc else "off"
        return f"{self.object_type},id=ram0,size={memory_mib}M,{self.options},prealloc={populated}"

    def host_settings(self, memory_mib: int) -> tuple[Setting, ...]:
        """What is written on a host whose guests have ``memory_mib`` MiB together."""
        pool = ((POOL_2M, str(memory_mib // HUGE_MIB)),) if self.pool else ()
        return (*self.settings, *pool)

    def wrong(self, smaps: str, ram: int, memory_mib: int) -> str:
        """What is wrong with the memory of a QEMU whose RAM is populated and mapped at ``ram``, by its smaps.

        '' for nothing.  Read are the mappings that the RAM has a part in; the kernel may have merged others with them.
        """
        if ram % ALIGNMENT:
            return f"QEMU maps it at {ram:#x}, which is not aligned to 2 MiB"
        inside = _mappings(smaps, ram, ram + (memory_mib << 20))
        huge = sum(mapping.get(self.huge_field, 0) for mapping in inside)
        small = sum(max(0, mapping.get("Rss", 0) - mapping.get(self.huge_field, 0)) for mapping in inside)
        if not any(self.huge_field in mapping for mapping in inside):
            return f"its smaps have no field {self.huge_field} at {ram:#x}"
        if not self.huge:
            return f"{huge} kB of it are mapped huge ({self.huge_field})" if huge else ""
        if huge < memory_mib << 10 or small:
            return (
                f"{huge} kB of it are mapped huge ({self.huge_field}) and {small} kB are not, of {memory_mib << 10} kB"
            )
        return ""


def _mappings(smaps: str, start: int, end: int) -> list[dict[str, int]]:
    """The fields, in kB, of each mapping that has pages between two addresses."""
    found: list[dict[str, int]] = []
    inside = False
    for line in smaps.splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(head[1], 16) < end and int(head[2], 16) > start
            if inside:
                found.append({})
        elif inside and (item := re.fullmatch(r"(\w+): +([0-9]+) kB", line)):
            found[-1][item[1]] = int(item[2])
    return found


def _thp(enabled: str, shmem: str) -> tuple[Setting, ...]:
    return ((f"{THP}/shmem_enabled", shmem), (f"{THP}/enabled", enabled))


ANON_4K = BackingRecord(
    name="anon-4k",
    says="anonymous memory in 4 KiB pages",
    object_type="memory-backend-ram",
    options="share=off",
    settings=_thp("never", "never"),
    huge_field="AnonHugePages",
    huge=False,
)

ANON_THP = BackingRecord(
    name="anon-thp",
    says="anonymous memory with transparent huge pages",
    object_type="memory-backend-ram",
    # QEMU aligns such RAM to 2 MiB and asks for huge pages (MADV_HUGEPAGE) by itself
    options="share=off",
    # madvise and not always: nothing but QEMU asks for huge pages, so that no other process of the host gets one
    settings=(NO_SCAN, *_thp("madvise", "never")),
    huge_field="AnonHugePages",
    huge=True,
    # Whoever reads an empty window first makes the kernel allocate the huge zero folio, which then stays with QEMU.
    cycles=(True, False),
    question="thp.huge_zero_replaced",
)

MEMFD_4K = BackingRecord(
    name="memfd-4k",
    says="a memfd in 4 KiB pages",
    # Not memory-backend-memfd: that one aligns its mapping to 4 KiB only, so that chunks would share page tables with
    # what lies beside them, and huge folios could not be mapped huge.  This one is a memfd too, since QEMU 10.0.
    object_type="memory-backend-ram",
    options="share=on",
    settings=_thp("never", "never"),
    huge_field="ShmemPmdMapped",
    huge=False,
    file=True,
)

SHMEM_THP = BackingRecord(
    name="shmem-thp",
    says="a memfd with huge pages",
    object_type="memory-backend-ram",
    options="share=on",
    # shmem_enabled is for memfds and what is shared anonymously; the host's tmpfs mounts stay as they are.  Anonymous
    # memory has no part in it: with madvise the 2 MiB that QEMU keeps for ACPI tables would be a huge page, too.
    settings=(NO_SCAN, *_thp("never", "always")),
    huge_field="ShmemPmdMapped",
    huge=True,
    question="shmem.whole_folio_around",
    file=True,
)

HUGETLB = BackingRecord(
    name="hugetlb",
    says="a memfd of 2 MiB pages from the hugetlb pool",
    object_type="memory-backend-memfd",
    options="share=on,hugetlb=on,hugetlbsize=2M",
    settings=_thp("never", "never"),
    huge_field="Private_Hugetlb",
    huge=True,
    pool=True,
)

BACKING_RECORDS = {record.name: record for record in (ANON_4K, ANON_THP, MEMFD_4K, SHMEM_THP, HUGETLB)}


def backing_record(name: str) -> BackingRecord:
    """The record called ``name``; raises ``UsageError`` naming the known ones."""
    try:
        return BACKING_RECORDS[name]
    except KeyError:
        known = ", ".join(sorted(BACKING_RECORDS))
        raise UsageError(f"unknown shared backing {name!r} of a testbed; known: {known}") from None
