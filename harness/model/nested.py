# SPDX-License-Identifier: GPL-2.0-only
"""KVM's page tables in the free memory of the host: they come from a cache of each vCPU that is refilled in bulk.

Which table is linked or freed is exact (``mapping.py``).  When the cache was last full is not known, so that the
refills of a step are an interval; a step that links no table after none was linked has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.model import physics
from harness.model.events import Event
from harness.model.facts import HostFacts
from harness.model.folio_events import NESTED_TABLE_FREED, NESTED_TABLE_LINKED
from harness.model.ledger import Ledger


def refills(before: int, now: int, vcpus: int) -> tuple[int, int]:
    """Least and most refills of a step that links ``now`` tables after ``before`` of them; ``vcpus`` share them.

    One cache, full of an unknown number at first, was refilled ceil(n/36) times or once less after n links.

    >>> refills(0, 1, 1), refills(1, 1, 1), refills(0, 73, 1)
    ((0, 1), (0, 1), (2, 3))
    """
    if not before + now:
        return 0, 0
    size, after = physics.NESTED_CACHE, before + now
    most = now // size + min(vcpus, after)
    if vcpus > 1:
        return 0, most
    least_before, least_after = (max(0, -(-n // size) - 1) for n in (before, after))
    return max(0, least_after - -(-before // size)), min(most, -(-after // size) - least_before)


def post(
    ledger: Ledger, facts: HostFacts, events: Iterable[Event], linked: Mapping[str, int], *, unsure: bool = False
) -> int:
    """Enters the tables of a step; ``linked``: tables each guest linked before.  Returns the most pages taken.

    ``unsure``: some of the events may not happen, here and in earlier steps.
    """
    used: dict[str, int] = {}
    guests: set[str] = set()
    freed = 0
    for event in events:
        if event.kind is NESTED_TABLE_LINKED:
            used[event.guest] = used.get(event.guest, 0) + event.pages
        elif event.kind is NESTED_TABLE_FREED:
            freed += event.pages
        if event.kind.name.startswith("leaf") and event.kind.name.endswith("installed"):
            guests.add(event.guest)
    least = most = 0
    for guest in guests:
        low, high = refills(linked.get(guest, 0), used.get(guest, 0), facts.vcpus)
        least, most = least + (0 if unsure else low), most + high
    pages = (least * physics.NESTED_CACHE, most * physics.NESTED_CACHE)
    text = f"a vCPU's cache of table pages may be refilled, {physics.NESTED_CACHE} at a time: {least} to {most} times"
    ledger.allow("F", -pages[1], -pages[0], "nested-table", text)
    ledger.allow("pgalloc", *pages, "nested-table", text)
    ledger.allow("unaccounted", *pages, "nested-table", text)
    back = freed // physics.NESTED_HEADERS_PER_PAGE + 1 if freed else 0
    taken = most * physics.NESTED_HEADERS
    headers = f"headers of KVM's tables: up to {taken} slab pages taken, up to {back} given back"
    ledger.allow("nr_slab_unreclaimable", -back, taken, "nested-table", headers)
    ledger.allow("F", -taken, back, "nested-table", headers)
    ledger.allow("pgalloc", 0, taken, "nested-table", headers)
    ledger.allow("pgfree", 0, back, "nested-table", headers)
    return pages[1] + taken
