# SPDX-License-Identifier: GPL-2.0-only
"""References that nobody expects: what leaves a guest_memfd while somebody holds it, and what a drop frees.

Removal from the page cache does not wait for references (mm/truncate.c:truncate_inode_folio); the pages stay on the
LRU and come free with the last one (folio.c:__page_cache_release).  A reference on one page of a large folio is one
on the folio.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model.aligned import Blocks, spread
from harness.model.context import Context, Outcome
from harness.model.events import PRIVATE_FREED, Event
from harness.model.folio_events import KEPT_PRIVATE_FREED, PRIVATE_REMOVED, folio_removed
from harness.model.parked import Parked
from harness.model.state import RegionState

LEAVE = "{n} present private page{s} of {where} leave{v} the page cache"


def leave(context: Context, region: RegionState, present: int, rule: str = "punch", text: str = LEAVE) -> Outcome:
    """``present`` pages leave the guest_memfd; no large folio may be in it by half.  What somebody holds is not freed.

    Their contents are for the caller to clear.
    """
    folios = region.private_folios.inside(present) if region.private_folios else region.private_folios
    held = present & region.private_held
    parked, kept = _park(region.private_parked, folios, held) if held else (region.private_parked, 0)
    after = replace(
        region,
        private=region.private & ~present,
        private_folios=region.private_folios.without(folios),
        private_dirty=region.private_dirty & ~present,
        private_held=region.private_held & ~held,
        private_parked=parked,
        private_apart=region.private_apart.without(region.private_apart.touching(present)),
    )
    events = context.event(PRIVATE_FREED, (present & ~kept).bit_count(), rule, text)
    if kept:
        why = "{n} private page{s} of {where} leave{v} the page cache and stay allocated: somebody holds a reference"
        events += context.event(PRIVATE_REMOVED, kept.bit_count(), "references", why)
    return Outcome(after, events + removed_whole(context, folios, rule))


def removed_whole(context: Context, folios: Blocks, rule: str) -> tuple[Event, ...]:
    """Large folios that go as they are, without a split."""
    events: tuple[Event, ...] = ()
    for order, starts in folios:
        text = f"{{n}} folio{{s}} of order {order} in {{where}} go{{es}} whole, without a split"
        events += context.event(folio_removed(order), starts.bit_count(), rule, text)
    return events


def _park(parked: Parked, folios: Blocks, held: int) -> tuple[Parked, int]:
    """The held pages and folios kept by references, and the set of pages that they occupy."""
    kept = 0
    for order, starts in folios.touching(held):
        while starts:
            low = starts & -starts
            starts ^= low
            pages = spread(low, order)
            parked = parked.park_folio(order, low.bit_length() - 1, held & pages)
            kept |= pages
    singles = held & ~kept
    return parked.park_pages(singles), kept | singles


def references(region: RegionState) -> int:
    """Pages of the guest_memfd that somebody refers to, those included that left it meanwhile."""
    return region.private_held.bit_count() + region.private_parked.references()


def unpin(context: Context, region: RegionState, where: int) -> Outcome:
    """The references on pages of the range are dropped; folios that left the file by now come free."""
    parked, singles, folios = region.private_parked.release(where)
    freed = singles + sum(1 << order for order in folios)
    text = "{n} private page{s}, gone from the guest_memfd and kept by references in {where}, come{v} free"
    return Outcome(
        replace(region, private_held=region.private_held & ~where, private_parked=parked),
        context.event(KEPT_PRIVATE_FREED, freed, "references", text),
    )
