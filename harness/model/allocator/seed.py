# SPDX-License-Identifier: GPL-2.0-only
"""Zones known by numbers, from the kernel texts of a sample (pagetypeinfo, buddyinfo, zoneinfo)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from harness.counters import buddyinfo, pagetypeinfo, zoneinfo
from harness.errors import UsageError
from harness.model.allocator.countzone import CountZone, Span
from harness.model.allocator.framezone import ZONE_INDEX
from harness.model.allocator.migratetype import BLOCK_PAGES, BY_NAME, ORDERS, PRINTED
from harness.model.allocator.pcp import PcpLimits
from harness.model.allocator.watermarks import Marks

UNCOUNTED: Final = 100_000
"""pagetypeinfo stops counting a list here and prints ``>100000`` (mm/vmstat.c: pagetypeinfo_showfree_print)."""
_FILES: Final = ("pagetypeinfo", "buddyinfo", "zoneinfo")


def count_zones(raw: Mapping[str, str], node: int = 0) -> tuple[CountZone, ...]:
    """The populated zones of one node, the one asked first in front.

    ``raw``: ``Sample.raw``.  A count that pagetypeinfo does not give (``>100000``) is derived from buddyinfo where only
    one type of that order is unknown, and is an interval otherwise; it is never 0.
    Raises UsageError when a text is missing or two of them contradict each other, CounterFormatError when one is torn.
    """
    missing = [name for name in _FILES if name not in raw]
    if missing:
        raise UsageError(
            f"the sample has no {' and no '.join(missing)}: the page allocator cannot be seeded; take it with the probe"
        )
    types = pagetypeinfo.parse(raw["pagetypeinfo"])
    if types.pages_per_block != BLOCK_PAGES:
        raise UsageError(f"pageblocks of {types.pages_per_block} pages in pagetypeinfo: the model knows {BLOCK_PAGES}")
    totals = {(zone.node, zone.zone): zone.free for zone in buddyinfo.parse(raw["buddyinfo"])}
    zones = zoneinfo.parse(raw["zoneinfo"])
    names = [zone.zone for zone in zones if zone.node == node]
    found = [
        _zone(zone, types, totals, names) for zone in zones if zone.node == node and zone.values.get("managed", 0) > 0
    ]
    if not found:
        raise UsageError(f"the sample has no populated zone on node {node}: name another node")
    return tuple(sorted(found, key=lambda zone: -ZONE_INDEX[zone.name]))


def _zone(
    zone: zoneinfo.Zone,
    types: pagetypeinfo.PageTypeInfo,
    totals: Mapping[tuple[int, str], tuple[int, ...]],
    names: Sequence[str],
) -> CountZone:
    key = (zone.node, zone.zone)
    if zone.zone not in ZONE_INDEX:
        raise UsageError(f"zone {zone.zone} in zoneinfo: the model knows {', '.join(ZONE_INDEX)}")
    rows = {row.migratetype: row.free for row in types.free if (row.node, row.zone) == key}
    blocks = next((row.blocks for row in types.blocks if (row.node, row.zone) == key), None)
    if not rows or blocks is None or key not in totals:
        raise UsageError(f"zone {zone.zone} of node {zone.node} is in zoneinfo, but not in pagetypeinfo or buddyinfo")
    limits = pcp_limits(zone)
    marks = marks_of(zone, names)
    normal = ZONE_INDEX["Normal"]
    return CountZone.of(
        zone.zone,
        zone.values["managed"],
        _counts(zone.zone, rows, totals[key]),
        {BY_NAME[name]: count for name, count in blocks.items() if name in BY_NAME},
        pcp=zone.pcp,
        limits=limits,
        cpus=len(zone.pagesets),
        floor=marks.low + zone.values.get("boost", 0) + marks.reserve(normal),
    )


def _counts(zone: str, rows: Mapping[str, Sequence[int | None]], totals: Sequence[int]) -> dict[int, tuple[Span, ...]]:
    """Free blocks by migratetype and order, each (least, most)."""
    unknown_names = rows.keys() - BY_NAME.keys()
    if unknown_names or len(totals) != ORDERS:
        raise UsageError(
            f"zone {zone}: {len(totals)} orders and migratetypes {', '.join(rows)};"
            f" the model knows {ORDERS} orders and {', '.join(PRINTED)}"
        )
    found: dict[int, list[Span]] = {BY_NAME[name]: [] for name in rows}
    for order, total in enumerate(totals):
        counts = {name: row[order] for name, row in rows.items()}
        known = sum(count for count in counts.values() if count is not None)
        unknown = sum(count is None for count in counts.values())
        rest = total - known
        if rest < unknown * UNCOUNTED or (rest and not unknown):
            raise UsageError(
                f"zone {zone}, order {order}: buddyinfo counts {total} free blocks, pagetypeinfo {known}"
                f"{f' and {unknown} times more than {UNCOUNTED}' if unknown else ''};"
                " they were not read at one instant, take the sample again on a quiet host"
            )
        most = rest - (unknown - 1) * UNCOUNTED
        span = (most, most) if unknown == 1 else (UNCOUNTED, most)
        for name, count in counts.items():
            found[BY_NAME[name]].append(span if count is None else (count, count))
    return {migratetype: tuple(spans) for migratetype, spans in found.items()}


def pcp_limits(zone: zoneinfo.Zone) -> PcpLimits:
    """The largest limits of the zone's per-CPU lists. Raises UsageError for kernels that do not print them."""
    limits = [pageset.limits for pageset in zone.pagesets]
    if not limits or any("batch" not in each or "high" not in each for each in limits):
        raise UsageError(
            f"zone {zone.zone} in zoneinfo has no per-CPU lists with batch and high: take the sample again"
        )
    # Before 6.7 there are no high_min and high_max: high is not tuned there, so that it is both.
    return PcpLimits(
        max(each["batch"] for each in limits),
        max(each.get("high_min", each["high"]) for each in limits),
        max(each.get("high_max", each["high"]) for each in limits),
    )


def marks_of(zone: zoneinfo.Zone, names: Sequence[str]) -> Marks:
    """The watermarks; ``names``: zones of the node in the kernel's order, which is that of the protection's numbers."""
    protection = [0] * len(ZONE_INDEX)
    for name, pages in zip(names, zone.protection, strict=False):
        if name in ZONE_INDEX:
            protection[ZONE_INDEX[name]] = pages
    values = zone.values
    return Marks(values.get("min", 0), values.get("low", 0), values.get("high", 0), tuple(protection))
