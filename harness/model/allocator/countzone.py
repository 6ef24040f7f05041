# SPDX-License-Identifier: GPL-2.0-only
"""One zone known only by numbers per order and migratetype; costs the same for a laptop and for 2 TiB.

What numbers decide is exact: which order is split, how many whole blocks are claimed, what the sums are.  What
positions decide is an interval: whether freed pages merge, what lies on a per-CPU list, what a pageblock contains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.model.allocator.claims import (
    CLAIM_PAGES,
    claims_interval,
    completed_blocks,
    draw,
    overshoot,
)
from harness.model.allocator.interval import Interval
from harness.model.allocator.migratetype import (
    BLOCK_PAGES,
    MAX_ORDER,
    ORDERS,
    PAGEBLOCK_ORDER,
    PCPTYPES,
    PRINTED,
)
from harness.model.allocator.pcp import PcpLimits

Span = tuple[int, int]
"""Least and most."""


@dataclass(frozen=True)
class Row:
    """Free memory of one migratetype."""

    pages: Span
    """Free pages, those on per-CPU lists included."""
    blocks: Span
    """Pageblocks of the type."""
    whole: Span
    """Free pages inside free blocks of order 9 and 10."""
    largest: Span
    """Free pages inside free blocks of order 10."""
    orders: tuple[int, ...] | None = None
    """Free blocks by order while they are known."""


@dataclass(frozen=True)
class Served:
    """An allocation from a zone known by numbers."""

    zone: CountZone
    claimed: Interval
    """Pageblocks the migratetype gained."""


@dataclass(frozen=True)
class CountZone:
    """Frozen: every operation makes a new one.

    ``hidden`` is the most that per-CPU lists may hold of any one type now, ``hideable`` the most they ever can: what
    the free lists show is less by up to that.  ``floor``: pages that must stay on the free lists, below which the next
    zone or reclaim takes over (low watermark, boost and reserve).
    """

    name: str
    managed: int
    rows: Mapping[int, Row]
    limits: PcpLimits
    cpus: int
    hidden: int
    hideable: int
    floor: int = 0

    @classmethod
    def of(
        cls,
        name: str,
        managed: int,
        free: Mapping[int, Sequence[Span]],
        blocks: Mapping[int, int],
        *,
        pcp: int = 0,
        limits: PcpLimits,
        cpus: int,
        floor: int = 0,
    ) -> CountZone:
        """From free blocks by migratetype and order, each (least, most), and what the per-CPU lists hold together."""
        rows = {}
        for migratetype, counts in free.items():
            low = [least for least, _ in counts]
            high = [most for _, most in counts]
            rows[migratetype] = Row(
                (_pages(low), _pages(high) + (pcp if migratetype < PCPTYPES else 0)),
                (blocks.get(migratetype, 0),) * 2,
                (_pages(low, PAGEBLOCK_ORDER), _pages(high, PAGEBLOCK_ORDER)),
                (_pages(low, MAX_ORDER), _pages(high, MAX_ORDER)),
                tuple(low) if low == high else None,
            )
        # Per CPU and type a list holds what it held, or what frees leave below ``high``, or what a refill left over.
        capacity = cpus * limits.high_max if limits.batch > 1 else 0
        hideable = capacity if pcp <= capacity else pcp + capacity
        return cls(name, managed, rows, limits, cpus, pcp, hideable, floor)

    # Answers.

    def free_pages(self, migratetype: int) -> Interval:
        """Free pages of the type, per-CPU lists included."""
        row = self.rows[migratetype]
        text = f"free {PRINTED[migratetype]} pages of zone {self.name}"
        if row.pages[0] != row.pages[1]:
            text += f"; per-CPU lists hold {self.hidden} pages at most of unknown type, refills and claims vary"
        return Interval(*row.pages, text)

    def listed(self, migratetype: int) -> Interval:
        """Free pages of the type on the free lists: what a row of pagetypeinfo sums to."""
        row = self.rows[migratetype]
        if row.orders is not None:
            return Interval.exactly(_pages(row.orders), f"{PRINTED[migratetype]}: the sum over the orders")
        low = max(row.whole[0], row.pages[0] - self.hidden, 0)
        text = f"{PRINTED[migratetype]}: free pages, less up to {self.hidden} on per-CPU lists"
        return Interval(low, row.pages[1], text)

    def order(self, migratetype: int, order: int) -> Interval:
        """Free blocks of one order: a number of pagetypeinfo."""
        row = self.rows[migratetype]
        if row.orders is not None:
            return Interval.exactly(row.orders[order], "blocks are split in a known order")
        if order == MAX_ORDER:
            return Interval(
                row.largest[0] // CLAIM_PAGES, row.largest[1] // CLAIM_PAGES, "freed pages may complete blocks"
            )
        most = (row.pages[1] - row.largest[0] if order < MAX_ORDER else row.pages[1]) >> order
        return Interval(0, most, "where freed pages lie, and so whether they merge, is unknown")

    def blocks(self, migratetype: int) -> Interval:
        """Pageblocks of the type."""
        return Interval(*self.rows[migratetype].blocks, "claims, and merges of whole free blocks of different types")

    def unusable(self) -> Interval:
        """Free pages in blocks below order 9, on the free lists of all types together.

        ``metrics.unusable_pages`` at order 9; pages on per-CPU lists are not on the free lists.
        """
        known = [row.orders for row in self.rows.values()]
        exact = sum(_pages(orders[:PAGEBLOCK_ORDER]) for orders in known if orders is not None)
        low = high = exact
        for row in self.rows.values():
            if row.orders is None:
                high += max(0, row.pages[1] - row.whole[0])
                low += max(0, row.pages[0] - row.whole[1] - self.hidden)
        return Interval(low, high, "free pages outside whole free pageblocks; freed pages may or may not complete one")

    # Operations.

    def alloc(self, pages: int, migratetype: int, *, order: int = 0, cpus: int = 1) -> Served | None:
        """``pages`` single allocations of ``order`` on so many CPUs; None when pageblocks' contents would decide.

        Order 0 works on any zone; a larger one needs a zone whose orders are still known.
        """
        if self._near_floor(pages << order, cpus * overshoot(self.limits, order)):
            return None
        if not self.hideable and all(self.rows[other].orders is not None for other in range(PCPTYPES)):
            return self._exactly(pages, migratetype, order)
        if order:
            return None
        row = self.rows[migratetype]
        spare = cpus * overshoot(self.limits)
        others = [other for other in range(PCPTYPES) if other != migratetype]
        available = sum(self.rows[other].largest[0] for other in others)
        own = (self.listed(migratetype).low, row.pages[1])
        claimed = claims_interval(demand=(pages, pages), own=own, spare=spare, whole=available)
        if claimed is None:
            return None
        rows = dict(self.rows)
        rows[migratetype] = self._drawn(row, pages, claimed, spare)
        first, second = others
        for other, spared in ((first, second), (second, first)):
            # Order-10 blocks only: none loses more than it has, nor less than the other type cannot give.
            least = max(0, claimed.low * BLOCK_PAGES - self.rows[spared].largest[1])
            most = min(claimed.high * BLOCK_PAGES, self.rows[other].largest[1])
            rows[other] = _lost(self.rows[other], (least, most))
        hidden = min(self.hidden + spare, self.hideable)
        return Served(replace(self, rows=rows, hidden=hidden), claimed)

    def _drawn(self, row: Row, pages: int, claimed: Interval, spare: int) -> Row:
        """The row that served an order-0 demand.

        Low: whole blocks go only when smaller pieces are used up.
        """
        least = max(0, row.pages[0] - pages + claimed.low * BLOCK_PAGES)
        most = row.pages[1] - pages + claimed.high * BLOCK_PAGES
        # A claim that brings pages in brings no more than order 10 beyond what is wanted.
        most = min(most, max(row.pages[1] - pages, CLAIM_PAGES - 1 + self.hidden + spare))
        used = max(0, pages + spare - max(0, row.pages[0] - row.whole[0] - self.hidden))
        kept = max(0, row.whole[0] - -(-used // BLOCK_PAGES) * BLOCK_PAGES) if used else row.whole[0]
        tens = max(0, row.largest[0] - -(-used // CLAIM_PAGES) * CLAIM_PAGES) if used else row.largest[0]
        blocks = (row.blocks[0] + claimed.low, row.blocks[1] + claimed.high)
        return Row(
            (least, most),
            blocks,
            (min(kept, least), min(most, max(row.whole[1], BLOCK_PAGES))),
            (min(tens, least), row.largest[1]),
        )

    def _exactly(self, wanted: int, migratetype: int, order: int) -> Served | None:
        """Without per-CPU lists every number is decided while whole blocks last."""
        free = {other: self.rows[other].orders or () for other in range(PCPTYPES)}
        claimed = draw(free, migratetype, order, wanted)
        if claimed.missing:
            return None
        rows = dict(self.rows)
        for other, counts in ((migratetype, claimed.own), *claimed.others.items()):
            change = claimed.total if other == migratetype else -claimed.blocks[other]
            rows[other] = _known(counts, (self.rows[other].blocks[0] + change, self.rows[other].blocks[1] + change))
        return Served(replace(self, rows=rows), Interval.exactly(claimed.total, "whole blocks, the largest first"))

    def free(self, pages: int, migratetype: int) -> CountZone:
        """Order-0 pages of pageblocks of this type come free, wherever they lie."""
        if not pages:
            return self
        row = self.rows[migratetype]
        most = row.pages[1] + pages
        rows = dict(self.rows)
        rows[migratetype] = replace(row, pages=(row.pages[0] + pages, most), orders=None)
        # A list that overflows gives back pages of every type.
        _flush(rows, {kind: self.hidden + (pages if kind == migratetype else 0) for kind in range(PCPTYPES)})
        return replace(self, rows=rows, hidden=min(self.hidden + pages, self.hideable))

    def drain(self) -> CountZone:
        """Per-CPU lists give everything back: where it merges is unknown, but nothing is hidden any more."""
        if not self.hidden:
            return self
        rows = dict(self.rows)
        _flush(rows, dict.fromkeys(range(PCPTYPES), self.hidden))
        return replace(self, rows=rows, hidden=0)

    def _near_floor(self, pages: int, spare: int) -> bool:
        """Whether the zone may refuse for its watermarks before it has given so many pages."""
        listed = sum(self.listed(migratetype).low for migratetype in range(PCPTYPES))
        return bool(self.floor) and listed - pages - spare <= self.floor


def _pages(counts: Sequence[int], least: int = 0) -> int:
    """Pages in free blocks of order ``least`` and more."""
    return sum(count << order for order, count in enumerate(counts) if order >= least)


def _known(counts: tuple[int, ...], blocks: Span) -> Row:
    """A row whose orders are known."""
    assert len(counts) == ORDERS
    pages, whole, largest = (_pages(counts, least) for least in (0, PAGEBLOCK_ORDER, MAX_ORDER))
    return Row((pages, pages), blocks, (whole, whole), (largest, largest), counts)


def _lost(row: Row, pages: Span) -> Row:
    """Whole free blocks of this row were claimed."""
    blocks = (row.blocks[0] - pages[1] // BLOCK_PAGES, row.blocks[1] - pages[0] // BLOCK_PAGES)
    spans = [(max(0, low - pages[1]), max(0, high - pages[0])) for low, high in (row.pages, row.whole, row.largest)]
    return Row(spans[0], (max(0, blocks[0]), blocks[1]), spans[1], spans[2], row.orders if not pages[1] else None)


def _flush(rows: dict[int, Row], given: Mapping[int, int]) -> None:
    """Pages of each type reach the free lists, and some complete pageblocks.

    A completed pageblock merges with a free order-9 buddy and gives it its type (__free_one_page): no more can change
    hands than there are such blocks, before or by the same frees.  Order-10 blocks merge no further and stay.
    """
    if not any(given.values()):
        return
    completed = {kind: completed_blocks(pages, rows[kind].pages[1]) for kind, pages in given.items()}
    nines = {
        kind: (rows[kind].whole[1] - rows[kind].largest[0]) // BLOCK_PAGES + done for kind, done in completed.items()
    }
    retyped = {kind: min(done, sum(nines.values()) - nines[kind]) for kind, done in completed.items()}
    for kind, done in completed.items():
        row = rows[kind]
        gain, loss = retyped[kind], min(sum(retyped.values()) - retyped[kind], nines[kind])
        most = row.pages[1] + gain * BLOCK_PAGES
        rows[kind] = Row(
            (max(0, row.pages[0] - loss * BLOCK_PAGES), most),
            (max(0, row.blocks[0] - loss), row.blocks[1] + gain),
            (
                max(row.largest[0], row.whole[0] - loss * BLOCK_PAGES),
                min(most, row.whole[1] + (done + gain) * BLOCK_PAGES),
            ),
            (row.largest[0], min(most, row.largest[1] + done * CLAIM_PAGES)),
        )
