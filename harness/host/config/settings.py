# SPDX-License-Identifier: GPL-2.0-only
"""The settings of a host that a run changes: the memory management's first, then the CPU's.

All are optional: what is left out is recorded by a run and never set.  A value is what the kernel prints once it is
set: ``madvise`` for a list with a choice in brackets, ``Y`` for a boolean module parameter, a number without unit.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

Value = Annotated[str, Meta(min_length=1, extra_json_schema={"also": ["integer", "boolean"]})]
"""A value as the kernel prints it; numbers need no quotes."""
Count = Annotated[int, Meta(ge=0)]
CpuList = Annotated[
    str, Meta(pattern=r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$", extra_json_schema={"also": ["integer"]})
]
"""Numbers of CPUs or nodes as the kernel lists them: ``0-3,8``."""
HUGE_SIZES: Final = {"2M": "2048kB", "1G": "1048576kB"}


class Section(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A mapping of the file; a key that it does not know is an error."""


class ThpSize(Section, frozen=True):
    """``/sys/kernel/mm/transparent_hugepage/hugepages-SIZE/``: one order of folios."""

    enabled: Literal["always", "inherit", "madvise", "never"] | None = None
    shmem_enabled: Literal["always", "inherit", "within_size", "advise", "never"] | None = None


class Khugepaged(Section, frozen=True):
    """``/sys/kernel/mm/transparent_hugepage/khugepaged/``."""

    defrag: Count | None = None
    pages_to_scan: Count | None = None
    scan_sleep_millisecs: Count | None = None
    alloc_sleep_millisecs: Count | None = None
    max_ptes_none: Count | None = None
    max_ptes_swap: Count | None = None
    max_ptes_shared: Count | None = None


class Thp(Section, frozen=True):
    """``/sys/kernel/mm/transparent_hugepage/``."""

    enabled: Literal["always", "madvise", "never"] | None = None
    defrag: Literal["always", "defer", "defer+madvise", "madvise", "never"] | None = None
    shmem_enabled: Literal["always", "within_size", "advise", "never", "deny", "force"] | None = None
    use_zero_page: Count | None = None
    shrink_underused: Count | None = None
    sizes: dict[Annotated[str, Meta(pattern=r"^[1-9][0-9]*kB$")], ThpSize] = field(default_factory=dict)
    """By the size as sysfs names it, e.g. ``2048kB``."""
    khugepaged: Khugepaged = Khugepaged()


class HugePages(Section, frozen=True):
    """One size of HugeTLB pages: either ``nr`` for the host, or ``per_node`` by the number of the node."""

    nr: Count | None = None
    overcommit: Count | None = None
    per_node: dict[Annotated[str, Meta(pattern=r"^[0-9]+$")], Count] = field(default_factory=dict)


class Vm(Section, frozen=True):
    """``/proc/sys/vm/``; ``hugetlb_optimize_vmemmap`` decides on pages of the pool that are allocated later."""

    compaction_proactiveness: Count | None = None
    compact_unevictable_allowed: Count | None = None
    extfrag_threshold: Count | None = None
    defrag_mode: Count | None = None
    min_free_kbytes: Count | None = None
    watermark_boost_factor: Count | None = None
    watermark_scale_factor: Count | None = None
    swappiness: Count | None = None
    overcommit_memory: Count | None = None
    overcommit_ratio: Count | None = None
    zone_reclaim_mode: Count | None = None
    percpu_pagelist_high_fraction: Count | None = None
    vfs_cache_pressure: Count | None = None
    stat_interval: Count | None = None
    hugetlb_optimize_vmemmap: Count | None = None


class Numa(Section, frozen=True):
    """Balancing is a setting; the rest says where QEMU and its vCPUs are put."""

    balancing: Count | None = None
    cpus_for_qemu: CpuList | None = None
    cpus_for_vcpu: CpuList | None = None
    memnodes: CpuList | None = None


class Ksm(Section, frozen=True):
    """``/sys/kernel/mm/ksm/``; 2 stops it and takes all merged pages apart."""

    run: Annotated[int, Meta(ge=0, le=2)] | None = None


class PageReporting(Section, frozen=True):
    """``/sys/module/page_reporting/parameters/``."""

    order: Count | None = None


class Cpu(Section, frozen=True):
    """``/sys/devices/system/cpu/``; a governor is set for each of ``policies``, which says which there are."""

    governor: Value | None = None
    policies: CpuList | None = None
    no_turbo: Annotated[int, Meta(ge=0, le=1)] | None = None
    boost: Annotated[int, Meta(ge=0, le=1)] | None = None
    smt: Literal["on", "off"] | None = None
    nmi_watchdog: Annotated[int, Meta(ge=0, le=1)] | None = None


class Action(Section, frozen=True):
    """Something written before each case: exactly one of these."""

    drop_caches: Annotated[int, Meta(ge=1, le=3)] | None = None
    compact_memory: Literal[1] | None = None
    stat_refresh: Literal[1] | None = None

    def written(self) -> tuple[tuple[str, str], ...]:
        """Path and text of what is named."""
        named: dict[str, Any] = {key: getattr(self, key) for key in self.__struct_fields__}
        return tuple((f"/proc/sys/vm/{key}", str(value)) for key, value in named.items() if value is not None)
