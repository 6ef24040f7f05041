# SPDX-License-Identifier: GPL-2.0-only
"""How many large folios the host surely has, and how many it may have: from a sample, behind memory pressure.

An allocation of order 9 is served from a free block of that order or a larger one as long as the zone stays above its
marks: no luck is in that.  Where there is none, compaction and reclaim may make some, from what can be moved or freed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.counters import buddyinfo, pagetypeinfo, zoneinfo
from harness.model import physics
from harness.model.aligned import PMD_ORDER
from harness.model.allocator.framezone import ZONE_INDEX
from harness.model.allocator.metrics import contiguous
from harness.model.allocator.seed import marks_of
from harness.model.events import Event
from harness.model.facts import HostFacts

_SERVE = ("Unmovable", "Movable", "Reclaimable")
"""Types whose whole free blocks serve an Unmovable demand: its own, and those it may claim (page_alloc.c:fallbacks)."""
_UNCOUNTED = 100_000
"""Blocks that a list has at least of which pagetypeinfo prints no number."""
_COMPACT_GAP = 2 << PMD_ORDER
"""Free pages above the high mark with which compaction of order 9 is taken to work (internal.h:compact_gap)."""
_PLENTY = 1024
"""Blocks that may be made beyond which their number is of no interest: no region has as many windows."""
_BATCH = 63
"""The same of a list of blocks of order 1 to 3 (page_alloc.c:nr_pcp_alloc scales the batch down by the order)."""
_REFILL = 189
"""Pages that a per-CPU list may draw beyond those asked for, with its cap (docs/allocator.md)."""


@dataclass(frozen=True)
class Room:
    """Folios of order 9 that may still be had."""

    fast: int
    """Those that nobody has to compact or reclaim for."""
    least: int
    most: int | None
    """None: nobody can say."""
    pages: int
    """Free pages above the marks of all zones: single pages beyond them make the host reclaim."""
    text: str
    """How the two come about."""

    def gets(self, wanted: tuple[int, int]) -> tuple[int, int]:
        """Least and most folios that a step gets which asks for ``wanted``, least and most."""
        most = wanted[1] if self.most is None else min(self.most, wanted[1])
        return min(self.least, wanted[0], most), most

    def decided(self, wanted: tuple[int, int]) -> bool | None:
        """Whether each folio that a step asks for is had, or none; None: some may."""
        low, high = self.gets((wanted[1], wanted[1]))
        return True if low == wanted[1] else False if not high else None

    def after(self, wanted: tuple[int, int], *, frees: bool, allocates: bool) -> Room:
        """Behind a step that asked for ``wanted``.

        ``frees``: it gave pages back, which may complete blocks.  ``allocates``: it took single pages, for which whole
        blocks may have been claimed; one of order 10 and its like for tree nodes.
        """
        low, high = self.gets(wanted)
        claimed = 2 * physics.CLAIM_BLOCKS if allocates else 0
        short = low < wanted[1]  # whoever fell back took single pages, as many as a block has
        most = None if frees or self.most is None else self.most - low
        fast, least = (0 if short else max(0, number - high - claimed) for number in (self.fast, self.least))
        return replace(self, fast=fast, least=least, most=most)

    def used(self, pages: int, wanted: tuple[int, int], events: Iterable[Event]) -> tuple[Room, str]:
        """Behind a step on ``pages`` pages that asked for ``wanted``; and why the host compacts and reclaims, or ''.

        It does for a folio that no free block serves, and for a page below the marks, and goes on behind the step.
        """
        moved = [event.pages * event.kind.moves.get("F", 0) for event in events if not event.kind.order]
        taken = pages + wanted[1] * physics.BLOCK_PAGES
        why = ""
        if wanted[1] > self.fast:
            why = "a large folio that no free block serves makes the host compact and reclaim"
        elif taken > self.pages:
            why = f"{self.pages} pages are free above the marks: the host may reclaim"
        left = self.after(wanted, frees=any(each > 0 for each in moved), allocates=any(each < 0 for each in moved))
        return replace(left, pages=max(0, self.pages - taken)), why


def from_sample(raw: Mapping[str, str], values: Mapping[str, int], facts: HostFacts, placed: bool) -> Room | None:
    """None where the sample lacks one of the files.  ``placed``: every guest stays on one CPU."""
    if any(name not in raw for name in ("zoneinfo", "pagetypeinfo", "buddyinfo")):
        return None
    zones = zoneinfo.parse(raw["zoneinfo"])
    types = pagetypeinfo.parse(raw["pagetypeinfo"])
    free = buddyinfo.free_per_order(buddyinfo.parse(raw["buddyinfo"]))
    names = [zone.zone for zone in zones]
    fast = sure = above = 0
    drained = False
    for zone in zones:
        marks = marks_of(zone, names)
        kept = zone.values.get("boost", 0) + marks.reserve(ZONE_INDEX["Normal"])
        above += max(0, zone.free - marks.low - kept)
        blocks, stranded = _in_zone(zone, marks.low + kept, types, lists=1 if placed else facts.ncpu)
        sure, fast = sure + blocks, fast + blocks - stranded
        spare = zone.free - blocks * physics.BLOCK_PAGES - marks.high - kept
        drained |= spare > _COMPACT_GAP + physics.BLOCK_PAGES
    claimed = _claims(types, facts)
    whole = contiguous(free, PMD_ORDER).suitable
    hidden = sum(pageset.count >> PMD_ORDER for zone in zones for pageset in zone.pagesets)
    made = _made(_by_type(types), _loose_pages(types, values, facts))
    fast = max(0, fast - claimed)
    least = max(0, sure - claimed) if drained else fast
    text = (
        f"{whole} blocks of 2 MiB are free: {least} of them serve a folio each, and"
        f" {'nobody knows how many' if made is None else f'at most {made}'} more can be made"
    )
    return Room(fast, least, None if made is None else whole + hidden + made, above, text)


def _in_zone(zone: zoneinfo.Zone, floor: int, types: pagetypeinfo.PageTypeInfo, lists: int) -> tuple[int, int]:
    """Blocks of one zone that allocations of order 9 get, and how many of them on the slow path only.

    A per-CPU list draws two at once, and a zone whose last block lies on such a list is passed over although it has one
    (page_alloc.c:nr_pcp_alloc, __zone_watermark_ok): of an even number one may stay behind, and one on the list of each
    further CPU.  Each allocation has to find more free pages than the mark and 511 (__zone_watermark_unusable_free).

    What stays behind is had where direct reclaim finds that compaction could run: it does nothing then and calls that
    progress (vmscan.c:compaction_ready), the lists of all CPUs are drained, and the zones are asked again
    (page_alloc.c:__alloc_pages_direct_reclaim).
    """
    rows = [row.free for row in types.free if row.zone == zone.zone and row.migratetype in _SERVE]
    blocks = sum((count or 0) << order - PMD_ORDER for row in rows for order, count in enumerate(row) if order >= 9)
    size = physics.BLOCK_PAGES
    reserved = zone.values.get("nr_free_highatomic", 0) + zone.values.get("nr_free_cma", 0)
    had = max(0, min(blocks, (zone.free - reserved - floor) // size - physics.PCP_LARGE_ALONG))
    stranded = (lists - 1) + (1 - blocks % 2 if lists == 1 else 1)
    return had, min(had, stranded) if had == blocks else 0


def _claims(types: pagetypeinfo.PageTypeInfo, facts: HostFacts) -> int:
    """Whole blocks that the single pages of a step may claim: KVM's tables, and tree nodes, if their lists run out."""
    first = types.first_zone()
    single = facts.vcpus * (physics.NESTED_CACHE + physics.NESTED_HEADERS) + physics.NODE_METADATA_PAGES
    nodes = sum(facts.regions.values()) * facts.slab_pages
    wanted = {"Unmovable": single + _REFILL, "Reclaimable": nodes + _BATCH}
    short = [name for name, pages in wanted.items() if _pieces(types, name) < pages and name in first]
    return physics.CLAIM_BLOCKS * len(short)


def _pieces(types: pagetypeinfo.PageTypeInfo, migratetype: str) -> int:
    """Free pages of a type in pieces below a pageblock, in the zone that is asked first; a count not printed is 0."""
    populated = [row for row in types.blocks if any(row.blocks.values())]
    rows = [row.free for row in types.free if row.zone == populated[-1].zone and row.migratetype == migratetype]
    return sum(
        (_UNCOUNTED if count is None else count) << order
        for row in rows
        for order, count in enumerate(row)
        if order < PMD_ORDER
    )


def _by_type(types: pagetypeinfo.PageTypeInfo) -> dict[str, list[int | None]]:
    """Free blocks of each order by migratetype, over all zones; None where one was not counted to the end."""
    found: dict[str, list[int | None]] = {}
    for row in types.free:
        seen = found.setdefault(row.migratetype, [0] * len(row.free))
        for order, count in enumerate(row.free):
            before = seen[order]
            seen[order] = None if before is None or count is None else before + count
    return found


def _loose_pages(types: pagetypeinfo.PageTypeInfo, values: Mapping[str, int], facts: HostFacts) -> int | None:
    """Pages in use that may come free where they are, or move elsewhere; None: nobody knows.

    Compaction for a costly order moves pages into free pages of movable blocks only (compaction.c:
    suitable_migration_target; ignore_block_suitable needs MIN_COMPACT_PRIORITY, which page_alloc.c:should_compact_retry
    reaches for cheap orders only), and not into a block that would serve the order itself, so that no more of them move
    than such pages are free in pieces.  Reclaim takes what lies on the lists of file pages.  Slabs that can shrink are
    taken to be gone: the step that left so few blocks dropped them.
    """
    movable = types.pieces().get("small/Movable")
    if movable is None or any(name not in values for name in ("nr_inactive_file", "nr_active_file", "pcp")):
        return None
    freed = physics.NODE_METADATA_PAGES + facts.slab_pages * physics.SPARE_SLABS_FREED
    return movable + values["nr_inactive_file"] + values["nr_active_file"] + values["pcp"] + freed


def _made(pieces: Mapping[str, Sequence[int | None]], loose: int | None) -> int | None:
    """Most blocks that ``loose`` pages complete when they come free.

    ``pieces``: by migratetype the free blocks of each order; below the order of a pageblock a list has the pieces of
    blocks of its type alone.  A block of 512 pages of which m are in use has at most m free pieces of each order: the
    other half of each piece holds one of the m.  So it has at least 512 - m * 2**s free pages in pieces of order s and
    more; and k blocks that n pages complete have 512 * k - n * 2**s of them, for every s.
    """
    if loose is None:
        return None
    made = dict.fromkeys(pieces, 0)
    while sum(made.values()) < _PLENTY:
        costs = {
            kind: _pages_for(pieces[kind], number + 1) - _pages_for(pieces[kind], number)
            for kind, number in made.items()
        }
        cheapest = min(costs, key=lambda kind: costs[kind])  # what each further one costs rises: the cheapest first
        loose -= costs[cheapest]
        if loose < 0:
            return sum(made.values())
        made[cheapest] += 1
    return None


def _pages_for(free: Sequence[int | None], blocks: int) -> int:
    """Fewest pages that complete so many blocks of one type."""
    need, pages = 0, 0
    for order in reversed(range(PMD_ORDER)):
        count = free[order]
        if count is None:  # more than anybody counted: it asks for nothing
            break
        pages += count << order
        need = max(need, -(-(blocks * physics.BLOCK_PAGES - pages) >> order))
    return need
