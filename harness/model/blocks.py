# SPDX-License-Identifier: GPL-2.0-only
"""Pageblock types and the balance of the Movable lists: what an allocation takes beyond its own migratetype.

Unmovable demand draws on free Unmovable pages first and then claims whole free blocks, order 10 first
(mm/page_alloc.c:__rmqueue_claim, change_pageblock_range); Reclaimable demand (slabs of tree nodes) does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from harness.model import physics
from harness.model.aligned import PMD_ORDER
from harness.model.demand import Demand
from harness.model.events import Event
from harness.model.facts import HostFacts
from harness.model.ledger import Ledger

BLOCK_COUNTERS = ("blocks/Unmovable", "blocks/Movable", "blocks/Reclaimable")
KINDS = ("Unmovable", "Movable", "Reclaimable")
_PLENTY = 1 << 62
"""In place of a number that the first sample does not have."""
CLAIM_PAGES = physics.CLAIM_BLOCKS * physics.BLOCK_PAGES


@dataclass(frozen=True)
class FreeLists:
    """Free pages per migratetype at a step's start, per-CPU lists included, as (least, most); what is left to claim.

    Of the zone that is asked first: free pages of lower zones do not postpone a claim, because ALLOC_NOFRAGMENT forbids
    only claims of less than a pageblock (page_alloc.c:alloc_flags_nofragment, get_page_from_freelist).
    """

    unmovable: tuple[int, int]
    reclaimable: tuple[int, int]
    claimable: int
    """Pages in free order-10 blocks of the other types, from which claims are made whole; the least."""
    small: Mapping[str, int] = field(default_factory=dict)
    """By migratetype, in all zones: free pages in blocks smaller than a pageblock, the most."""
    single: Mapping[str, int] = field(default_factory=dict)
    """By migratetype, in all zones: free blocks that are exactly a pageblock, the most."""

    @classmethod
    def from_sample(cls, start: Mapping[str, int], facts: HostFacts) -> FreeLists | None:
        """None when the first sample lacks a counter that the claim rule needs, or adds up the lists of several nodes.

        A sample without ``first_zone/*`` is taken for one of a host with one zone.
        """
        names: tuple[str, ...] = ("first_zone/Unmovable", "first_zone/Reclaimable", "first_zone/whole")
        if names[-1] not in start:
            names = ("free/Unmovable", "free/Reclaimable", "free_order/10")
        if facts.nodes > 1 or any(name not in start for name in names):
            return None
        hidden = start.get("pcp", facts.pcp_pages)
        unmovable, reclaimable, whole = (start[name] for name in names)
        others = max(0, whole * CLAIM_PAGES - unmovable - reclaimable)
        small = {kind: start.get(f"free_small/{kind}", start.get(f"free/{kind}", _PLENTY)) for kind in KINDS}
        single = {kind: start.get(f"free_single/{kind}", _PLENTY) for kind in KINDS}
        return cls((unmovable, unmovable + hidden), (reclaimable, reclaimable + hidden), others, small, single)


@dataclass(frozen=True)
class Claims:
    """Blocks that one migratetype gains by claims, least and most."""

    low: int
    high: int


def claims(free: tuple[int, int], demand: tuple[int, int], overshoot: int, whole: int = 0) -> Claims:
    """By demand beyond what is free, in free blocks of order 10: the caller sees to it that there are enough of them.

    ``whole``: pages that large folios may take besides; what is free may be in pieces that are of no use to them.
    """
    surely = max(0, demand[0] - free[1])
    perhaps = (max(0, demand[1] + overshoot - free[0]) if demand[1] else 0) + whole
    low, high = (-(-pages // CLAIM_PAGES) * physics.CLAIM_BLOCKS for pages in (surely, perhaps))
    return Claims(low, high)


def _after(
    free: tuple[int, int], demand: tuple[int, int], claimed: Claims, back: tuple[int, int], lost: int
) -> tuple[int, int]:
    """Free pages of a type after a step; ``lost``: blocks that may have merged into another type."""
    low = max(0, free[0] + claimed.low * physics.BLOCK_PAGES - demand[1]) + back[0]
    high = max(0, free[1] + claimed.high * physics.BLOCK_PAGES - demand[0]) + back[1]
    return max(0, low - lost * physics.BLOCK_PAGES), high


def _pieces(lists: FreeLists, moved: Mapping[str, tuple[int, int]], overshoot: int) -> tuple[dict[str, int], FreeLists]:
    """Most pageblocks of each type that give their type to what they merge with, and the lists' pieces afterwards.

    ``moved``: by type, the most pages taken and freed.  A pageblock is completed by a page freed, or by one that a
    per-CPU list held and a free pushed out (``overshoot``): eight pages complete eight blocks that were free but for
    them, and each has 511 free pages in pieces before.  It changes the type of a free buddy that is exactly a pageblock
    (page_alloc.c:__free_one_page); such a one is what is left of a larger block that was split.
    """
    small, single, completed = dict(lists.small), dict(lists.single), dict.fromkeys(KINDS, 0)
    for kind, (taken, freed) in moved.items():
        splits = -(-(taken + overshoot) // CLAIM_PAGES) if taken else 0
        small[kind] += splits * (physics.BLOCK_PAGES - 1) + freed + (overshoot if freed else 0)
        completed[kind] = min(freed + overshoot, small[kind] // physics.BLOCK_PAGES) if freed else 0
        single[kind] += splits + completed[kind]
    merged = {kind: min(completed[kind], sum(single[other] for other in KINDS if other != kind)) for kind in completed}
    return merged, replace(lists, small=small, single=single)


def demand_of(facts: HostFacts, events: list[Event], slab: tuple[int, int], perhaps: int = 0) -> Demand:
    """The demand of a step with ``slab`` pages (most taken, most returned).

    ``perhaps``: unmovable pages that may be taken beyond those of the events.
    """
    unmovable = [_flow(event, "Unmovable") for event in events]
    movable = [_flow(event, "Movable") for event in events]
    taken, back = -sum(min(0, flow) for flow in unmovable), sum(max(0, flow) for flow in unmovable)
    whole = -sum(min(0, _flow(event, "Unmovable")) for event in events if event.kind.order)
    metadata = (physics.NODE_METADATA_PAGES if any(slab) else 0) + perhaps
    return Demand(
        wanted=taken,
        unmovable=(taken, taken + metadata),
        pieces=(taken - whole, taken - whole + metadata),
        in_blocks=_in_blocks(events, facts),
        moved={
            "Unmovable": (taken + metadata, back),
            "Movable": (-sum(min(0, flow) for flow in movable), sum(max(0, flow) for flow in movable)),
            "Reclaimable": slab,
        },
        overshoot=facts.ncpu * facts.pcp_cap,
    )


def post_blocks(ledger: Ledger, lists: FreeLists, demand: Demand) -> tuple[FreeLists | None, str]:
    """Enters pageblock types for a step.

    A whole free block that merges takes the type of the pages freed last, so each type may gain what was freed of it
    and lose what was freed of the others.
    Returns the lists after it, or None with the reason when whole blocks may run out and stealing begins.
    """
    slab_demand = (0, demand.slab[0])
    overshoot, free = demand.overshoot, lists.unmovable
    surely = claims(free, demand.unmovable, overshoot)
    unmovable = Claims(surely.low, claims(free, demand.pieces, overshoot, demand.in_blocks).high)
    reclaimable = claims(lists.reclaimable, slab_demand, overshoot)
    most = (unmovable.high + reclaimable.high) * physics.BLOCK_PAGES
    if most > lists.claimable:
        return None, (
            f"up to {most} pages may be claimed and only {lists.claimable} lie in free blocks of order 10:"
            " smaller ones are then split or stolen, depending on their contents"
        )
    merged, after_pieces = _pieces(lists, demand.moved, overshoot)
    merged_u, merged_m, merged_r = (merged[kind] for kind in KINDS)
    text = (
        f"unmovable pages wanted: {demand.wanted}, free: {free[0]} to {free[1]};"
        f" slab pages wanted: up to {demand.slab[0]};"
        f" blocks claimed: unmovable {unmovable.low} to {unmovable.high}, reclaimable up to {reclaimable.high}"
    )
    if merged_u or merged_m or merged_r:
        text += (
            f"; freed pages may complete blocks that give their type to what they merge with: {merged_u} unmovable,"
            f" {merged_m} movable, {merged_r} reclaimable"
        )
    for kind, low, high in (
        ("Unmovable", unmovable.low - merged_m - merged_r - reclaimable.high, unmovable.high + merged_u),
        ("Reclaimable", -unmovable.high - merged_u - merged_m, reclaimable.high + merged_r),
        ("Movable", -unmovable.high - reclaimable.high - merged_u - merged_r, merged_m),
    ):
        ledger.allow(f"blocks/{kind}", low, high, "claim", text)
    back = (demand.freed, demand.freed)
    after = FreeLists(
        _after(free, demand.unmovable, unmovable, back, merged_m + merged_r + reclaimable.high),
        _after(lists.reclaimable, slab_demand, reclaimable, (0, demand.slab[1]), merged_u + merged_m + unmovable.high),
        lists.claimable - most,
        after_pieces.small,
        after_pieces.single,
    )
    return after, ""


def post_movable_balance(ledger: Ledger, facts: HostFacts, events: list[Event], *, quiet: bool) -> None:
    """Movable pages that left the free lists other than as whole claimed blocks: those of the shared side.

    ``quiet``: nothing allocates in the step, so per-CPU lists can only give back.
    """
    hidden = facts.pcp_pages
    text = (
        f"per-CPU lists hide up to {hidden} pages ({facts.ncpu} CPUs, {len(facts.zones)} zones, {facts.pcp_cap} each)"
    )
    ledger.allow("movable_balance", 0 if quiet else -hidden, hidden, "per-cpu-lists", text)
    for event in events:
        if moved := _flow(event, "Movable"):
            ledger.add("movable_balance", moved, moved, event.reason(moved))


def _in_blocks(events: list[Event], facts: HostFacts) -> int:
    """Most pages that large folios take from whole blocks, those that a per-CPU list draws along included."""
    large = [event for event in events if event.kind.order and _flow(event, "Unmovable") < 0]
    along = physics.PCP_LARGE_ALONG * facts.ncpu if any(event.kind.order == PMD_ORDER for event in large) else 0
    return sum(event.pages for event in large) + along * physics.BLOCK_PAGES


def _flow(event: Event, migratetype: str) -> int:
    """Pages that an event gives to the free lists of a migratetype (+) or takes from them (-)."""
    return event.pages * event.kind.moves.get("F", 0) if event.kind.demand == migratetype else 0
