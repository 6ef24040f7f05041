# SPDX-License-Identifier: GPL-2.0-only
"""What the model has to be told about the host under test; everything else it reads in the first sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import UsageError


@dataclass(frozen=True)
class HostFacts:
    """One host under test and the guests on it.

    Raises UsageError for numbers that no host has.
    """

    ncpu: int
    """Online CPUs."""
    regions: Mapping[str, int] = field(default_factory=lambda: {"g0.r0": 8})
    """Chunks of 512 pages in each region of each guest, e.g. ``{"g0.r0": 8}``."""
    pcp_cap: int = 252
    """Pages that one CPU's list of one zone may keep: 4*batch once percpu_pagelist_high_fraction is at its cap."""
    zones: tuple[str, ...] = ("DMA32", "Normal")
    """Populated zones."""
    page_size: int = 4096
    slab_pages: int = 4
    """Pages of one slab of radix_tree_node: /sys/kernel/slab/radix_tree_node/order, as pages."""
    slab_objects: int = 28
    """Objects in that slab (576 bytes each)."""
    pt_reclaim: bool = True
    """CONFIG_PT_RECLAIM: madvise(DONTNEED) of a whole empty page table frees the table (6.14 and later, x86)."""
    tables_present: bool = True
    """Whether the canonical empty state has QEMU's page tables for the regions; see ``RegionState.tables``."""
    thp_available: bool | None = True
    """Whether a fault on the shared side that wants a huge folio gets one; False: free memory is in pieces; None: any
    may fail, so that bounds are over both outcomes."""
    use_zero_page: bool = True
    """transparent_hugepage/use_zero_page: a read of an empty window maps the huge zero folio, which exists already."""
    huge_zero_replaced: bool = True
    """Whether a write under the huge zero folio gets a huge folio (mm/huge_memory.c:do_huge_zero_wp_pmd, 7.3), or one
    page after its mapping is split (6.12)."""
    whole_folio_around: bool = True
    """Whether a read fault on a file maps the large folios of its 64 KiB whole (mm/filemap.c:filemap_map_folio_range,
    7.3), or only what lies inside (6.12)."""
    uniform_split: bool = False
    """How a split of a large folio of a file goes: True to order-0 folios (6.12), False in halves around the edge of
    the hole (mm/truncate.c: the call of folio_split, 6.15 and later)."""
    large_folios: bool | None = True
    """Whether the host has a block for every large folio of a guest_memfd; False: each allocation falls back to one
    page; None: any may, so that bounds are over both outcomes."""
    vcpus: int = 1
    """vCPUs of each guest: each has a cache of pages for KVM's tables."""
    rom_pages: int = 0
    """Pages of each guest's further guest_memfds, which ``gmem/*`` does not count: its ROM, where a conversion is in
    place and the ROM's memory therefore a guest_memfd with everything in it."""
    nodes: int = 1
    """NUMA nodes; guests and CPUs are on the first."""
    prefaults: bool = False
    """Whether QEMU has KVM populate what it converted, either way (KVM_PRE_FAULT_MEMORY: target/i386/kvm/kvm.c:
    kvm_handle_hc_map_gpa_range, QEMU 10.1 and later), as if the guest had read it."""
    only_kvm_tables: bool = False
    """Nothing but KVM has tables that nr_sec_page_table_pages counts: the kernel knows no IOMMU."""
    mirrored_tdp: bool = False
    """TDX: private and shared leaves live in two trees, so that a zap reaches one kind only."""

    def __post_init__(self) -> None:
        numbers = {
            "ncpu": self.ncpu,
            "pcp_cap": self.pcp_cap,
            "page_size": self.page_size,
            "vcpus": self.vcpus,
            "slab_pages": self.slab_pages,
            "slab_objects": self.slab_objects,
            **{f"chunks of {name}": chunks for name, chunks in self.regions.items()},
        }
        for what, number in numbers.items():
            if number < 1:
                raise UsageError(f"host fact {what} is {number}: at least 1 is needed")
        if not self.zones or not self.regions:
            raise UsageError("host facts name no populated zone or no region: the model needs one of each")

    @property
    def pcp_pages(self) -> int:
        """Pages that all per-CPU lists together may hide from the buddy free lists."""
        return self.ncpu * self.pcp_cap * len(self.zones)

    @property
    def guests(self) -> tuple[str, ...]:
        """Names of the guests, in order."""
        return tuple(sorted({name.partition(".")[0] for name in self.regions}, key=lambda name: int(name[1:])))
