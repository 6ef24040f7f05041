# SPDX-License-Identifier: GPL-2.0-only
"""move_pages() of the shared side: folios move as they are, unless a reference that nobody expects holds them.

mm/migrate.c (do_pages_move, migrate_pages_sync, migrate_pages_batch, __migrate_folio).  A folio that is partly mapped
is split first and its pages move one by one.  What QEMU's page table maps is found; of a folio, all of it moves.
"""

from __future__ import annotations

from dataclasses import replace

from harness.errors import UsageError
from harness.model import pages
from harness.model.aligned import NO_BLOCKS, PMD_ORDER, Blocks
from harness.model.context import Context, Outcome
from harness.model.events import PAGE_IN_PASSING, Event, EventKind
from harness.model.mapping import zap
from harness.model.overhead import partly_mapped
from harness.model.state import RegionState
from harness.scenario.steps import Side

PAGE_MIGRATED = EventKind(
    # migrate.c:migrate_folio_move, migrate_pages: the copy is allocated, the page that was copied is freed
    "page migrated",
    {"pgmigrate_success": +1, "pgalloc": +1, "pgfree": +1},
)
PAGE_FREED_MIGRATING = EventKind(
    # migrate.c:migrate_pages_batch, "freed from under us": counted as a success, by whoever unmapped it as freed
    "page of a split folio found free",
    {"pgmigrate_success": +1},
)
THP_MIGRATED = EventKind("huge folio migrated", {"thp_migration_success": +1})
THP_SPLIT_MIGRATING = EventKind(
    # migrate.c:migrate_pages_sync: what is split counts as failed, too
    "huge folio split instead of migrated",
    {"thp_migration_split": +1, "thp_migration_fail": +1},
)
PAGE_NOT_MIGRATED = EventKind("page not migrated", {"pgmigrate_fail": +1})
THP_NOT_MIGRATED = EventKind("huge folio not migrated", {"thp_migration_fail": +1})

ATTEMPTS = 2
"""Copies that are allocated for a folio in vain: one in the asynchronous round, one in the synchronous one; the passes
of a round try the same copy again (migrate.c:migrate_pages_sync)."""


def migrate(context: Context, region: RegionState, wanted: int, node: int) -> Outcome:
    """One call of move_pages() for pages of one chunk."""
    there = region.shared_far if node else ~region.shared_far
    mapped = region.shared & (region.shared_mapped if context.backing.file_backed else -1)
    asked = wanted & mapped & ~there
    if not asked:
        return Outcome(region)
    partly = _splittable(context, region, asked)
    split = _split_first(context, region, partly)
    region, asked = split.region, (asked | partly.covered()) & split.region.shared
    folios = region.shared_folios.touching(asked)
    held = folios.touching(region.shared_held)
    if held and (asked & ~held.covered() or sum(starts.bit_count() for _, starts in held) > 1):
        raise UsageError(
            f"migrate {context.where}: the kernel ends a call at a large folio that somebody holds, and what it did of"
            " the others before is not known; name the held folio alone"
        )
    singles = asked & ~folios.covered()
    stay = singles & region.shared_held | held.covered()
    free = folios.without(held)
    moved = singles & ~region.shared_held | free.covered()
    zapped = zap(context, region, moved | stay, Side.SHARED, "the notifier of a migration")
    far = region.shared_far | moved if node else region.shared_far & ~moved
    events = split.events + zapped.events + _moved(context, moved, free, node) + _stayed(context, stay, held)
    return Outcome(replace(zapped.region, shared_far=far), events)


def _splittable(context: Context, region: RegionState, asked: int) -> Blocks:
    """Partly mapped folios of anonymous memory that nobody holds."""
    if context.backing.file_backed:
        return NO_BLOCKS
    partly = partly_mapped(region).touching(asked)
    return partly.without(partly.touching(region.shared_held | region.shared_lost))


def _split_first(context: Context, region: RegionState, partly: Blocks) -> Outcome:
    """They are split; what nothing maps, or holds zeroes, is freed by it, and all the rest of them moves."""
    covered = partly.covered()
    if not covered or context.backing.split is None:
        return Outcome(region)
    split = context.backing.split(context, region, covered & region.shared)
    gone = covered & ~split.region.shared
    count = partly.count(PMD_ORDER)
    return Outcome(
        split.region,
        split.events
        + context.event(
            THP_SPLIT_MIGRATING, count, "migrate", "{n} partly mapped huge folio{s} of {where} {are} split to migrate"
        )
        + context.event(
            PAGE_FREED_MIGRATING, gone.bit_count(), "migrate", "{n} page{s} of {where} {are} free once they are split"
        ),
    )


def _moved(context: Context, moved: int, free: Blocks, node: int) -> tuple[Event, ...]:
    text = f"{{n}} shared page{{s}} of {{where}} move{{v}} to node {node}"
    huge = f"{{n}} huge folio{{s}} of {{where}} move{{v}} to node {node} whole"
    return (
        *context.event(PAGE_MIGRATED, moved.bit_count(), "migrate", text),
        *context.event(THP_MIGRATED, free.count(PMD_ORDER), "migrate", huge),
    )


def _stayed(context: Context, stay: int, held: Blocks) -> tuple[Event, ...]:
    text = "{n} shared page{s} of {where} stay{v} where they are: somebody holds a reference"
    vain = "copies of held folios of {where} are allocated in vain, {n} pages"
    return (
        *context.event(PAGE_NOT_MIGRATED, stay.bit_count(), "references", text),
        *context.event(
            THP_NOT_MIGRATED, held.count(PMD_ORDER), "references", "{n} huge folio{s} of {where} {are} held"
        ),
        *context.event(PAGE_IN_PASSING, ATTEMPTS * stay.bit_count(), "references", vain),
    )


def pages_on(region: RegionState, start: int, count: int) -> list[int]:
    """The node of each of ``count`` pages of the shared side, present or not."""
    far = region.shared_far & pages.span(start, count)
    return [far >> page & 1 for page in range(start, start + count)]
