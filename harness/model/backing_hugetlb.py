# SPDX-License-Identifier: GPL-2.0-only
"""Guest RAM in hugetlb pages: taken from the pool at the first touch and never given back while the guest runs.

QEMU does not discard a shared side whose pages are larger than the host's (accel/kvm: kvm_convert_memory), so that
what goes to private costs its memory twice, and what comes back shows what it held before.
Sources: mm/hugetlb.c (hugetlb_no_page, alloc_hugetlb_folio), fs/hugetlbfs/inode.c:hugetlbfs_punch_hole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness.errors import UsageError
from harness.model import pages
from harness.model.aligned import PMD_ORDER, PUD_ORDER, Blocks, full_groups, size_name, spread
from harness.model.context import Backing, Context, Outcome
from harness.model.facts import HostFacts
from harness.model.mapping import map_shared, zap
from harness.model.shared_events import pool_returned, pool_taken
from harness.model.state import Patterns, RegionState
from harness.scenario.steps import CHUNK_PAGES, Side

PREPARED_GENERATION = 0
"""Generation of the pattern that a testbed's preparation writes; a scenario's begin at 1."""


def touch(context: Context, region: RegionState, touched: int) -> Outcome:
    """A read or a write takes each huge page that is not there yet out of the file's reservation and maps it whole."""
    (order,) = context.backing.folio_orders
    if region.chunks * CHUNK_PAGES % (1 << order):
        raise UsageError(
            f"backing {context.backing.name} needs regions of whole pages of {size_name(order)}: {context.where} lies"
            f" in a region of {region.chunks * CHUNK_PAGES * 4} kB"
        )
    new = pages.groups(touched & ~region.shared, order)
    covered = spread(new, order)
    text = f"{{n}} page{{s}} of the {size_name(order)} pool {{are}} taken for {{where}}"
    events = context.event(pool_taken(order), new.bit_count(), "hugetlb-fault", text)
    region = replace(
        region,
        shared=region.shared | covered,
        shared_in_folio=region.shared_in_folio | covered,
        shared_folios=region.shared_folios.add(order, new) if new else region.shared_folios,
        shared_huge=region.shared_huge.add(order, new) if new else region.shared_huge,
    )
    leaves = map_shared(context, region, touched, region.shared_huge)
    return Outcome(leaves.region, events + leaves.events)


def discard(context: Context, region: RegionState, gone: int) -> Outcome:
    """QEMU does nothing: no call, no notifier, and the contents stay."""
    del context, gone
    return Outcome(region)


def punch(context: Context, region: RegionState, gone: int) -> Outcome:
    """fallocate(PUNCH_HOLE) by hand, which QEMU never does: whole pages go back to the pool, parts are zeroed."""
    (order,) = context.backing.folio_orders
    whole = full_groups(gone, order) & region.shared_folios.starts(order)
    covered = spread(whole, order)
    zapped = zap(context, region, covered, Side.SHARED, "the notifier of the hole punch of the hugetlb file")
    held = whole & pages.groups(region.shared_held, order)
    parked = region.shared_parked
    for start, _ in pages.runs(held):
        parked = parked.park_folio(order, start, region.shared_held & spread(1 << start, order))
    text = f"{{n}} page{{s}} of {{where}} returned to the {size_name(order)} pool"
    events = context.event(pool_returned(order), (whole & ~held).bit_count(), "hugetlb-punch", text)
    after = replace(
        zapped.region,
        shared=region.shared & ~covered,
        shared_in_folio=region.shared_in_folio & ~covered,
        shared_folios=region.shared_folios.remove(order, whole),
        shared_huge=region.shared_huge.remove(order, whole),
        shared_held=region.shared_held & ~covered,
        shared_parked=parked,
        shared_patterns=region.shared_patterns.clear(gone),
    )
    return Outcome(after, zapped.events + events)


def unpin(context: Context, region: RegionState, where: int) -> Outcome:
    """References are dropped: pages that left the file go back to the pool with their last one."""
    (order,) = context.backing.folio_orders
    parked, _, folios = region.shared_parked.release(where)
    text = f"{{n}} page{{s}} that references kept in {{where}} returned to the {size_name(order)} pool"
    return Outcome(
        replace(region, shared_held=region.shared_held & ~where, shared_parked=parked),
        context.event(pool_returned(order), len(folios), "references", text),
    )


def present(order: int) -> Callable[[HostFacts, RegionState], RegionState]:
    """The pages of the preparation are all there, mapped, and hold what was written last: nobody discards them."""

    def prepared(facts: HostFacts, region: RegionState) -> RegionState:
        del facts
        everything = pages.span(0, region.chunks * CHUNK_PAGES)
        whole = Blocks().add(order, pages.groups(everything, order))
        return replace(
            region,
            tables=0,
            shared=everything,
            shared_in_folio=everything,
            shared_folios=whole,
            shared_huge=whole,
            shared_patterns=Patterns().write(everything, PREPARED_GENERATION),
        )

    return prepared


def hugetlb(order: int, name: str) -> Backing:
    """The backing with pool pages of ``2**order`` 4 KiB pages."""
    pool = f"hugetlb/{size_name(order)}"
    return Backing(
        name,
        (order,),
        write=touch,
        read=touch,
        discard=discard,
        unpin=unpin,
        prepared=present(order),
        file_backed=True,
        says="hugetlb memory",
        moves=(
            "nr_hugetlb", f"{pool}/free_hugepages", f"{pool}/resv_hugepages",
            "kvm/*/pages_2m", "kvm/*/pages_1g", "nr_sec_page_table_pages",
        ),
    )  # fmt: skip


HUGETLB_2M = hugetlb(PMD_ORDER, "hugetlb")
"""memory-backend-memfd,hugetlb=on,hugetlbsize=2M or memory-backend-file on hugetlbfs, share=on."""
HUGETLB_1G = hugetlb(PUD_ORDER, "hugetlb-1g")
"""The same with pages of 1 GiB."""
