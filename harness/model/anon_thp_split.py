# SPDX-License-Identifier: GPL-2.0-only
"""Splits of anonymous huge folios: by memory pressure, of what is partly mapped, and by somebody who asks for it.

mm/huge_memory.c (deferred_split_scan, split_huge_pages_pid, __folio_split), mm/migrate.c:try_to_map_unused_to_zeropage;
measured.  A split goes to order 0: pages that nothing maps are freed, and so are mapped ones that hold zeroes only.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model.aligned import PMD_ORDER, Blocks
from harness.model.context import Context, Outcome
from harness.model.events import SHARED_FREED, Event
from harness.model.mapping import zap
from harness.model.shared_events import (
    ANON_PMD_UNMAPPED,
    ANON_THP_SPLIT,
    ANON_THP_UNQUEUED,
    KEPT_FREED,
    PMD_SPLIT,
    split_failed,
)
from harness.model.state import RegionState
from harness.scenario.steps import Side


def shrink(context: Context, region: RegionState, where: int) -> Outcome:
    """Memory pressure, or dropping slabs, splits the partly mapped folios that nobody holds (deferred_split_scan)."""
    folios = region.shared_folios.touching(where)
    queued = folios.without(folios.inside(region.shared_in_folio))
    held = _held(region, queued)
    refused = "{n} huge folio{s} in {where} cannot be split: somebody holds a reference"
    events = context.event(split_failed(PMD_ORDER), held.count(PMD_ORDER), "references", refused)
    return _to_order_0(context, region, queued.without(held), "thp-deferred-split", events)


def split(context: Context, region: RegionState, where: int) -> Outcome:
    """A request to split what QEMU maps in the range; folios that somebody holds are passed over without a count."""
    folios = region.shared_folios.touching(where & region.shared_in_folio)
    return _to_order_0(context, region, folios.without(_held(region, folios)), "split-asked", ())


def _held(region: RegionState, folios: Blocks) -> Blocks:
    return folios.touching(region.shared_held & region.shared_in_folio | region.shared_lost)


def _to_order_0(context: Context, region: RegionState, split: Blocks, rule: str, events: tuple[Event, ...]) -> Outcome:
    covered = split.covered()
    if not covered:
        return Outcome(region, events)
    huge = region.shared_huge.inside(covered)
    partly = split.without(split.inside(region.shared_in_folio))
    zapped = zap(context, region, covered, Side.SHARED, "the notifier of the split")
    mapped = covered & region.shared_in_folio
    zeroes = sum(held for generation, held in region.shared_patterns.within(mapped) if generation is None)
    events += (
        *zapped.events,
        *context.event(
            PMD_SPLIT, huge.count(PMD_ORDER), rule, "{n} huge mapping{s} over {where} {are} split before the folio is"
        ),
        *context.event(
            ANON_PMD_UNMAPPED, huge.count(PMD_ORDER), rule, "{n} huge folio{s} over {where} {are} mapped huge no more"
        ),
        *context.event(
            ANON_THP_SPLIT, split.count(PMD_ORDER), rule, "{n} huge folio{s} in {where} {are} split to order 0"
        ),
        *context.event(
            ANON_THP_UNQUEUED,
            partly.count(PMD_ORDER),
            rule,
            "{n} huge folio{s} in {where} leave{v} the queue of splits",
        ),
        *context.event(
            KEPT_FREED,
            (covered & ~mapped).bit_count(),
            rule,
            "{n} page{s} of split folios in {where}, which nothing mapped, {are} freed",
        ),
        *context.event(
            SHARED_FREED,
            zeroes.bit_count(),
            rule,
            "{n} page{s} of split folios in {where} that hold{v} zeroes {are} replaced by the zero page",
        ),
    )
    return Outcome(
        replace(
            zapped.region,
            shared=region.shared & ~zeroes,
            shared_in_folio=region.shared_in_folio & ~covered,
            shared_folios=region.shared_folios.without(split),
            shared_huge=region.shared_huge.without(huge),
        ),
        events,
    )
