# SPDX-License-Identifier: GPL-2.0-only
"""Truncation of a part of a memfd: folios are split at the edges of the hole, then what lies in it leaves the file.

mm/shmem.c:shmem_undo_range, mm/truncate.c:truncate_inode_partial_folio.  A folio of shmem is always dirty there, so
that one which cannot be split keeps all its pages: those of the hole are zeroed and nothing is freed.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model import pages
from harness.model.aligned import PMD_ORDER, Blocks, spread
from harness.model.context import Context, Outcome
from harness.model.events import Event
from harness.model.mapping import zap
from harness.model.shared_events import (
    FILE_FREED,
    FILE_REMOVED,
    FILE_UNMAPPED,
    SHMEM_THP_FREED,
    file_split,
    split_failed,
)
from harness.model.splitting import Cut, cut
from harness.model.state import RegionState
from harness.scenario.steps import Side


def truncate(context: Context, region: RegionState, start: int, end: int) -> Outcome:
    """Pages ``start`` to ``end - 1`` leave the file."""
    held = region.shared_folios.touching(region.shared_held).covered() if region.shared_held else 0
    hole = pages.span(start, end - start)
    folios = region.shared_folios
    cuts = folios.touching(hole).without(folios.inside(hole))
    done = cut(folios, start, end, dirty=cuts.covered(), held=held, uniform=context.facts.uniform_split)
    unmapped = _unmap_split(context, region, cuts.without(cuts.touching(held)))
    gone = done.removed & region.shared
    whole = done.folios.inside(hole)
    left = _leave(context, unmapped.region, gone, whole)
    remaining = done.folios.without(whole)
    after = replace(left.region, shared_folios=remaining, shared_in_folio=remaining.covered())
    return Outcome(after, unmapped.events + _split_events(context, done) + left.events)


def _unmap_split(context: Context, region: RegionState, split: Blocks) -> Outcome:
    """Before a folio is split, all of it is unmapped from QEMU, to be faulted back (huge_memory.c:unmap_folio)."""
    covered = split.covered()
    if not covered:
        return Outcome(region)
    zapped = zap(context, region, covered, Side.SHARED, "the notifier of the split of a folio of the memfd")
    unmapped = covered & region.shared_mapped
    text = "{n} page{s} of folios that the hole {where} cuts {are} unmapped for the split"
    return Outcome(
        replace(zapped.region, shared_mapped=region.shared_mapped & ~covered),
        zapped.events + context.event(FILE_UNMAPPED, unmapped.bit_count(), "split", text),
    )


def _leave(context: Context, region: RegionState, gone: int, whole: Blocks) -> Outcome:
    """Present pages ``gone``, of them the large folios ``whole``, leave the page cache; references keep pages."""
    held_folios = whole.touching(region.shared_held)
    singles = gone & ~whole.covered() & region.shared_held
    kept = singles | held_folios.covered()
    parked = region.shared_parked.park_pages(singles) if singles else region.shared_parked
    for order, starts in held_folios:
        for start, _ in pages.runs(starts):
            references = region.shared_held & spread(1 << start, order)
            parked = parked.park_folio(order, start, references)
    events = (
        *context.event(
            FILE_FREED, (gone & ~kept).bit_count(), "memfd-punch", "{n} present page{s} of {where} leave{v} the memfd"
        ),
        *context.event(
            FILE_REMOVED,
            kept.bit_count(),
            "references",
            "{n} page{s} of {where} leave{v} the memfd, kept by references",
        ),
        *context.event(
            SHMEM_THP_FREED,
            whole.count(PMD_ORDER),
            "memfd-punch",
            "{n} huge folio{s} of {where} leave{v} the memfd whole",
        ),
    )
    after = replace(region, shared=region.shared & ~gone, shared_held=region.shared_held & ~gone, shared_parked=parked)
    return Outcome(after, events)


def _split_events(context: Context, done: Cut) -> tuple[Event, ...]:
    events: tuple[Event, ...] = ()
    shape = "to order 0" if context.facts.uniform_split else "in halves around the edge of the hole"
    for order in done.splits:
        text = f"{{n}} folio of order {order} that the hole {{where}} cuts is split {shape}"
        events += context.event(file_split(order), 1, "split", text)
    for order in done.refused:
        text = f"{{n}} folio of order {order} that the hole {{where}} cuts is held: it stays whole, nothing is freed"
        events += context.event(split_failed(order), 1, "split-failed", text)
    return events
