# SPDX-License-Identifier: GPL-2.0-only
"""Design thp-2m-truncate: large folios, conversion in 4 KiB, truncation of whole windows only.

A window keeps its memory, and its folio, until a truncation covers all of it.  What a truncation of a part does is the
one difference between the two variants: an error, or nothing.
"""

from __future__ import annotations

from dataclasses import replace

from harness.model import pages
from harness.model.aligned import full_groups, spread
from harness.model.context import Context, Design, Outcome
from harness.model.mapping import zap
from harness.model.order0 import convert_by_discard
from harness.model.references import leave, unpin
from harness.model.state import RegionState
from harness.model.thp import allocate, fault
from harness.scenario.steps import Side


def punch(context: Context, region: RegionState, gone: int) -> Outcome:
    """Whole windows go with everything in them, large folios and small; a part of a window is refused or ignored.

    The refusal comes before anything is done, so that nothing is zapped either.
    """
    order = context.design.order
    whole = spread(full_groups(gone, order), order)
    part = gone & ~whole
    if part and context.design.refuses_partial:
        first = pages.first(part)
        text = f"{{where}} covers a part of the window of {1 << order} pages at page {first >> order << order}"
        return Outcome(region, refused=context.refuse("EINVAL", "punch", first, "truncate-unit", text))
    if not whole:
        return Outcome(region)
    return give_up(context, region, whole)


def give_up(context: Context, region: RegionState, whole: int) -> Outcome:
    """What whole windows hold leaves the guest_memfd, on whichever side its pages are."""
    zapped = zap(context, region, whole, Side.PRIVATE, "the hole punch of the guest_memfd")
    region, events = zapped.region, zapped.events
    if context.design.shared_side:
        shared = zap(context, region, whole, Side.SHARED, "the hole punch of the guest_memfd")
        region = replace(shared.region, shared_patterns=region.shared_patterns.clear(whole))
        events += shared.events
    left = leave(context, region, whole & region.private)
    after = replace(left.region, private_patterns=region.private_patterns.clear(whole))
    return Outcome(after, events + left.events)


def thp_2m_truncate(order: int, name: str, *, refuses: bool) -> Design:
    """The design with folios of ``2**order`` pages; ``refuses``: a partial truncation is an error."""
    partial = "refused with EINVAL" if refuses else "without effect"
    return Design(
        name,
        f"guest_memfd in folios of order {order}; truncation of a part of a window is {partial}",
        (0, order),
        allocate=allocate,
        fault=fault,
        punch=punch,
        convert=convert_by_discard,
        unpin=unpin,
        refuses_partial=refuses,
    )
