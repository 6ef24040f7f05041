# SPDX-License-Identifier: GPL-2.0-only
"""Steps that act on the host's memory as a whole: which counters nobody can bound, which must not move all the same.

guest_memfd pages are unevictable, unmovable and never clean page cache that could be dropped
(mm/compaction.c:isolate_migratepages_block, mm/migrate.c: mapping_inaccessible; mm/truncate.c:invalidate_mapping_pages
skips them as dirty or unevictable), so that nr_unevictable, gmem/* and what KVM maps of them stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from harness.model.aligned import PMD_ORDER, size_name
from harness.model.blocks import BLOCK_COUNTERS
from harness.model.context import Backing, keep
from harness.model.ledger import Ledger
from harness.model.overhead import partly_mapped
from harness.model.state import RegionState
from harness.scenario.steps import BaseStep, Compact, DropCaches, Migrate, Pressure

_COMPACTING = ("compact_*", "pgmigrate_*", "thp_migration_*")
_TRAFFIC = ("pgalloc", "pgfree")
_LISTS = ("movable_balance", *BLOCK_COUNTERS)
_POOL = ("hugetlb/*",)
"""What the whole blocks move that pressure takes."""
_CACHE = ("nr_file_pages", "nr_slab_reclaimable", "nr_slab_unreclaimable", "F", "unaccounted")


PARTLY_MAPPED = (
    "F", "pgalloc", "pgfree", "unaccounted", "nr_anon_pages",
    f"mthp/{size_name(PMD_ORDER)}/nr_anon", f"mthp/{size_name(PMD_ORDER)}/nr_anon_partially_mapped",
)  # fmt: skip
"""What a discard or a write moves differently once a partly mapped folio was split."""


@dataclass(frozen=True)
class HostWide:
    """What one kind of step leaves open."""

    moved: tuple[str, ...]
    """Patterns of counters that it moves by an amount no rule can bound."""
    why: str
    migrates: bool
    """Whether pages of the shared side may move: KVM then zaps their leaves."""
    takes_memory: bool = False
    """Whether large folios may not be had from here on."""


HOST_WIDE: Mapping[type[BaseStep], HostWide] = {
    Compact: HostWide(
        (*_COMPACTING, *_TRAFFIC, *_LISTS, "unevictable_pgs_*"),  # it moves locked pages of processes too
        "compaction moves whatever movable pages the host has, and free blocks that merge take each other's type",
        migrates=True,
    ),
    Migrate: HostWide(
        _LISTS,
        "pages are taken from one node's lists and given back to another's, whose free blocks nobody counted apart",
        migrates=False,  # its own rule says exactly which
    ),
    DropCaches: HostWide(
        (*_CACHE, *_TRAFFIC, *_LISTS, "nr_mapped", "workingset_*"),
        "how much clean page cache the host has is not known",
        migrates=False,
    ),
    Pressure: HostWide(
        (
            *_CACHE, *_TRAFFIC, *_LISTS, *_COMPACTING, "nr_anon_pages", "nr_page_table_pages", "nr_shmem", "nr_mlock",
            "nr_anon_transparent_hugepages", "nr_shmem_hugepages", "nr_shmem_pmdmapped", "thp_*", "mthp/*",
            "unevictable_pgs_*",  # it moves locked pages of processes too
        ),
        "a process of the host takes or gives back memory, and the host reclaims and compacts as it likes",
        migrates=True,
        takes_memory=True,
    ),
}  # fmt: skip


def open_ends(step: BaseStep, ledger: Ledger) -> dict[str, str]:
    """Takes what the step leaves open out of the ledger; the counters with the reason."""
    rule = HOST_WIDE[type(step)]
    besides = _POOL if isinstance(step, Pressure) else ()
    return _drop(ledger, (*rule.moved, *besides), rule.why)


def stirred(why: str, ledger: Ledger) -> dict[str, str]:
    """Takes out what a host moves that compacts and reclaims; the counters with the reason."""
    return _drop(ledger, HOST_WIDE[Pressure].moved, why)


def _drop(ledger: Ledger, patterns: Iterable[str], why: str) -> dict[str, str]:
    found = {counter: why for counter in ledger.opened() if any(fnmatchcase(counter, pattern) for pattern in patterns)}
    ledger.drop(found)
    return found


def loose(step: BaseStep, backing: Backing) -> tuple[tuple[str, ...], str]:
    """Counters of leaves, with ``{guest}``, that nobody knows from here on, and why.

    Shared pages of a guest, in its regions or elsewhere, may move: KVM zaps their leaves, and they come back one by one
    whenever the guest touches them.
    """
    if not HOST_WIDE[type(step)].migrates:
        return (), ""
    counters = ["kvm/{guest}/pages_4k"]
    if backing.folio_orders != (0,):
        counters += ["kvm/{guest}/pages_2m", "kvm/{guest}/pages_1g"]
    why = f"the host may have moved shared pages of the guest ({step.text()}): their leaves go, and come when touched"
    return tuple(counters), why


def split_perhaps(step: BaseStep, backing: Backing, regions: Iterable[RegionState]) -> dict[str, str]:
    """Counters that nobody knows from here on because pressure may have split partly mapped folios, and why.

    A discard finds them whole, with all their pages, or in pieces whose unmapped pages are free already.
    """
    if not isinstance(step, Pressure) or backing.shrink is keep:
        return {}
    folios = sum(starts.bit_count() for region in regions for _, starts in partly_mapped(region))
    why = f"{folios} huge folios of {backing.says} are partly mapped: {step.text()} may have split any of them"
    return {counter: why for counter in PARTLY_MAPPED} if folios else {}
