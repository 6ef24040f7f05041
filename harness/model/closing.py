# SPDX-License-Identifier: GPL-2.0-only
"""The end of a guest: its QEMU quits, its guest_memfd and everything else of the process go.

The guest_memfd's part is exact.  The process's own part (anonymous memory, page tables, slabs, stacks) is as large as
QEMU happened to be, so that the counters it shares with the rest of the host stay unpredicted, each with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.model.aligned import PMD_ORDER, size_name
from harness.model.blocks import BLOCK_COUNTERS
from harness.model.context import Backing, Design
from harness.model.ledger import Ledger
from harness.model.physics import Allowances
from harness.model.prediction import Reason
from harness.model.quiet import matches
from harness.model.state import RegionState

UNBOUNDED: Mapping[str, str] = {
    "nr_anon_pages": "the RAM and the heap of the guest's QEMU go with it",
    "nr_page_table_pages": "the page tables of the guest's QEMU go with it",
    "nr_sec_page_table_pages": "the nested page tables of the guest go with it",
    "nr_slab_reclaimable": "inodes, dentries and tree nodes of the guest's QEMU go, some of them later",
    "nr_slab_unreclaimable": "descriptors, areas and KVM structures of the guest's QEMU go, some of them later",
    "nr_shmem": "files of the guest's QEMU in tmpfs may go with it",
    "nr_mlock": "memory that the guest's QEMU locked goes with it",
    "F": "everything the guest's QEMU held comes free, not only its guest_memfd",
    "pgfree": "everything the guest's QEMU held comes free, not only its guest_memfd",
    "pgalloc": "the end of a process allocates pages to list what it frees",
    "unaccounted": "KVM's tables and the areas of vmalloc of the guest go with it, and no item counts them",
    "movable_balance": "the RAM of the guest's QEMU comes free to Movable lists",
    **{counter: "free blocks that merge take each other's type" for counter in BLOCK_COUNTERS},
}

ON_LRU = ("nr_unevictable", "nr_zone_unevictable")
"""Counters that wait for the last reference of a page."""


def close_guest(
    ledger: Ledger,
    guest: str,
    elsewhere: Mapping[str, int],
    regions: dict[str, RegionState],
    allowances: Allowances,
    design: Design,
    backing: Backing,
) -> dict[str, str]:
    """Enters the end of ``guest`` and removes its regions; returns the unpredicted counters with their reasons."""
    unpredicted = _close_private(ledger, guest, elsewhere, regions, allowances, design)
    text = f"the RAM of the guest's QEMU goes with it, which {backing.name} counts here"
    shared = {counter: text for counter in ledger.opened() if matches(counter, backing.moves)}
    ledger.drop(shared)
    return shared | unpredicted


def _close_private(
    ledger: Ledger,
    guest: str,
    elsewhere: Mapping[str, int],
    regions: dict[str, RegionState],
    allowances: Allowances,
    design: Design,
) -> dict[str, str]:
    gone = {name: regions.pop(name) for name in list(regions) if name.partition(".")[0] == guest}
    own = tuple(f"{prefix}{guest}{rest}" for prefix, rest in _OWN)
    ledger.drop((*UNBOUNDED, *own))
    unpredicted = dict(UNBOUNDED) | {counter: f"guest {guest} is no more" for counter in own}
    counters = design.resident_counters
    if guest not in elsewhere:
        ledger.drop((*counters, "nr_file_hugepages"))
        text = f"the first sample lacks gmem/{guest}: how much its guest_memfd held is unknown"
        return unpredicted | {counter: text for counter in (*counters, "nr_file_hugepages")}
    inside = sum(region.private.bit_count() for region in gone.values())
    resident = inside + elsewhere[guest]
    held = sum(held_pages(region) for region in gone.values())
    parked = sum(region.private_parked.frames() for region in gone.values())
    text = f"{resident} present private pages of {guest} ({inside} in its regions) go with its guest_memfd"
    if resident:
        for counter in counters:
            late = held if counter in ON_LRU else 0
            reason = Reason("close", text, None if late else -resident)
            ledger.add(counter, -resident, late - resident, reason)
    if parked:
        text = f"{parked} pages that left the guest_memfd of {guest} come free if their references go with it"
        for counter in ON_LRU:
            ledger.allow(counter, -parked, 0, "references", text)
    _close_folios(ledger, design, gone.values(), elsewhere[guest])
    unpredicted |= _close_pool(ledger, design, resident)
    files = allowances.close_file_pages
    ledger.allow("nr_file_pages", -files, files, "close", f"up to {files} tmpfs pages of its QEMU's files come or go")
    return unpredicted


_OWN = (("gmem/", ""), ("kvm/", "/pages_4k"), ("kvm/", "/pages_2m"), ("kvm/", "/pages_1g"))


def held_pages(region: RegionState) -> int:
    """Pages of the guest_memfd in folios that somebody holds a reference on."""
    held = region.private_held & region.private
    return (held | region.private_folios.touching(held).covered()).bit_count() if held else 0


def _close_folios(ledger: Ledger, design: Design, regions: Iterable[RegionState], elsewhere: int) -> None:
    """Huge folios of the page cache: those of the regions, and up to as many as fit in what lies elsewhere."""
    if design.order < PMD_ORDER or "nr_file_pages" not in design.resident_counters:
        return
    inside = sum(
        starts.bit_count() << order - PMD_ORDER
        for region in regions
        for order, starts in region.private_folios
        if order >= PMD_ORDER
    )
    most = elsewhere >> PMD_ORDER
    text = f"{inside} huge folios of its regions go, and up to {most} in the {elsewhere} pages elsewhere in it"
    ledger.allow("nr_file_hugepages", -inside - most, -inside, "close", text)


def _close_pool(ledger: Ledger, design: Design, resident: int) -> dict[str, str]:
    """Huge pages go back to their pool; how much of the file's reservation was unused is not known."""
    if "nr_hugetlb" not in design.resident_counters:
        return {}
    pool = f"hugetlb/{size_name(design.order)}"
    back = resident >> design.order
    ledger.allow(f"{pool}/free_hugepages", back, back, "close", f"{back} huge pages of its guest_memfd are free again")
    open_end = {f"{pool}/resv_hugepages": "what the guest_memfd had reserved and not used is not reserved any more"}
    ledger.drop(open_end)
    return open_end
