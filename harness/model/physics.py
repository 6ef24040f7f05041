# SPDX-License-Identifier: GPL-2.0-only
"""The numbers in the rules, each with the physics behind it.

Two kinds.  *Constants of the kernel* are read in its source.  *Allowances* are pages that the harness's own presence
costs the host while a step runs; they start at zero and may grow only by a measurement that names the source.  An
allowance that has to grow for a second kernel but not for the first is a finding about the second.
"""

from __future__ import annotations

from dataclasses import dataclass

XA_GROUP_ORDER = 6
"""One xarray node spans 64 indices (XA_CHUNK_SHIFT = 6, include/linux/xarray.h; not CONFIG_BASE_SMALL).
A page in an empty group of 64 costs a node; the node goes when its last entry goes (lib/xarray.c:xas_delete_node)."""

XA_UPPER_NODES = 3
"""Nodes above the second level that one tree can gain or lose in a step besides those counted by chunk.
Second-level nodes span 4096 indices, at most one per chunk that was empty; above them a tree of any size up to 2**30
pages has at most three (64**5 = 2**30), and they come or go only with the first or last entry below them."""

SHEAF_OBJECTS = 28
"""Objects that one refill of a per-CPU sheaf takes from slabs (mm/slub.c:calculate_sheaf_capacity: 26 for objects of
256 to 1023 bytes, rounded up to a 256-byte kmalloc object: 28).  Kernels without sheaves take no more than that."""

SPARE_SLABS_FREED = 1
"""Slabs that may go back beyond those the freed nodes fill.  Nodes freed in a burst were mostly allocated in one, so
they empty whole slabs; a burst that begins inside a slab can empty one more.  Nodes parked by earlier steps count."""

NODE_METADATA_PAGES = 2
"""Pages of nr_slab_unreclaimable that allocating or freeing tree nodes may move.  A sheaf is a 256-byte kmalloc object
and so is the vector of object extensions that memory cgroups need per slab; 16 or more share a slab of at most two
pages, and a step needs only a few."""

GATHER_FIRST = 7
GATHER_NEXT = 509
GATHER_MOST = 19
"""madvise(DONTNEED) collects the pages to free: 7 on the stack, then in pages of 509 entries that it allocates and
frees again at the end, 19 at most (mm/mmu_gather.c:__tlb_remove_folio_pages_size and tlb_next_batch: a batch is left
when it has room for one more entry; MMU_GATHER_BUNDLE = 8, MAX_GATHER_BATCH = 510).  Invisible in F, visible in
pgalloc and pgfree: discarding 512 shared pages at once costs one such page."""

TABLE_BATCH_PAGES = 1
"""A page table that madvise(DONTNEED) frees travels in a page of its own to the RCU callback
(mm/mmu_gather.c:tlb_remove_table).  Invisible in F, visible in pgalloc and pgfree."""

CLAIM_BLOCKS = 2
"""Pageblocks that change type in one claim of an order-10 free block (2**(10-9); mm/page_alloc.c:
change_pageblock_range)."""

BLOCK_PAGES = 512
"""Pages of a pageblock (pageblock_order 9)."""

PCP_LARGE_ALONG = 1
"""Order-9 blocks that a per-CPU list draws beyond the one asked for (mm/page_alloc.c:nr_pcp_alloc: at least two)."""

NESTED_CACHE = 36
"""Pages that a vCPU's cache of page tables takes at once: filled to 40 when a fault finds fewer than 5
(KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE, PT64_ROOT_MAX_LEVEL; virt/kvm/kvm_main.c:__kvm_mmu_topup_memory_cache).  No item
counts them until they are linked."""

NESTED_HEADERS = 4
"""Slab pages that the headers of those tables may take with a refill: 36 objects of about 184 bytes and what a sheaf
takes along (52 more), 22 to a page."""

NESTED_HEADERS_PER_PAGE = 16
"""Headers of freed tables that at least share a page of slab, so that n of them empty n/16 pages and one more."""

MAPLE_PAGES = 8
"""Slab pages that storing one range in a maple tree may take or give back.  A store prepares up to 1 + 3 nodes for
each of at most four levels (lib/maple_tree.c:mas_prealloc_calc), 13 objects of 256 bytes, and a sheaf takes 28 at a
time: 41 objects are three pages of 16; two CPUs may each begin a slab of two pages, and what it frees comes later."""

MAPLE_CALLS_PER_PAGE = 32
"""Stores after which the tree itself is at most a page larger: each leaves up to two more ranges, a node holds at least
five, 16 nodes fill a page."""


def gather_pages(discarded: int) -> int:
    """Pages that one madvise(DONTNEED) of ``discarded`` present order-0 pages allocates and frees for its own list."""
    if discarded < GATHER_FIRST:
        return 0
    return min(GATHER_MOST, 1 + (discarded - GATHER_FIRST) // GATHER_NEXT)


@dataclass(frozen=True)
class Allowances:
    """What the harness's own traffic may move while a step with requests runs; pages, both directions."""

    raw_pages: int = 0
    """``unaccounted``: pages taken straight from the allocator and counted by no item: kernel page vectors, pipe
    buffers, KVM's shadow-page caches.  None is due in a region whose page tables exist: KVM tops its caches up only
    after it used an entry for a new page table (virt/kvm/kvm_main.c:__kvm_mmu_topup_memory_cache), the probe reads
    into memory of its own, and virtio-serial buffers of the agents are allocated once.  A kernel that leaks a page
    per conversion moves this by the number of conversions."""
    slab_pages: int = 0
    """nr_slab_reclaimable and nr_slab_unreclaimable: slabs that requests and replies may need on top."""
    event_pages: int = 0
    """pgalloc and pgfree: pages allocated and freed again within the step, e.g. buffers of a pipe or a socket."""
    close_file_pages: int = 0
    """nr_file_pages and nr_shmem at close: tmpfs pages of the QEMU's own files (log, pid file) that come or go."""


ALLOWANCES = Allowances()
