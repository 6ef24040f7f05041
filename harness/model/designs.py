# SPDX-License-Identifier: GPL-2.0-only
"""The designs and shared backings the model knows, by name.

A further design is a further record with its own functions where it differs; nothing else asks which one it serves.

>>> design_named("thp-discard").order, design_named("thp-discard:4").name
(9, 'thp-discard:4')
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from harness.errors import UsageError
from harness.model.aligned import PMD_ORDER, PUD_ORDER, size_name
from harness.model.backing_anon_thp import ANON_THP
from harness.model.backing_hugetlb import HUGETLB_1G, HUGETLB_2M
from harness.model.backing_shmem import MEMFD_4K, SHMEM_THP
from harness.model.context import Backing, Design
from harness.model.hugetlb import hugetlb
from harness.model.inplace import INPLACE
from harness.model.inplace_thp import inplace_thp
from harness.model.order0 import ORDER0
from harness.model.shared import ANON_4K
from harness.model.thp import thp_discard
from harness.model.truncate import thp_2m_truncate


@dataclass(frozen=True)
class Family:
    """Designs that differ in the order of their folios only."""

    name: str
    make: Callable[[int, str], Design]
    """The design with folios of an order, under a name."""
    orders: tuple[int, ...] = tuple(range(1, PUD_ORDER + 1))
    """Orders that make sense; 9, a PMD's, is the one the plain name stands for."""


_POOLS = (PMD_ORDER, PUD_ORDER)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("thp-discard", thp_discard),
        Family("thp-2m-truncate", partial(thp_2m_truncate, refuses=True)),
        Family("thp-2m-truncate-noop", partial(thp_2m_truncate, refuses=False)),
        Family("inplace-thp", partial(inplace_thp, refuses=True)),
        Family("inplace-thp-noop", partial(inplace_thp, refuses=False)),
        Family("hugetlb", partial(hugetlb, optimised=True), _POOLS),
        Family("hugetlb-no-hvo", partial(hugetlb, optimised=False), _POOLS),
    )
}

DESIGNS: Mapping[str, Design] = {
    ORDER0.name: ORDER0,
    INPLACE.name: INPLACE,
    **{name: family.make(PMD_ORDER, name) for name, family in FAMILIES.items()},
}
BACKINGS: Mapping[str, Backing] = {
    backing.name: backing for backing in (ANON_4K, ANON_THP, MEMFD_4K, SHMEM_THP, HUGETLB_2M, HUGETLB_1G)
}


def design_named(name: str, order: int | None = None) -> Design:
    """The design ``name``, with folios of ``2**order`` pages if that is given; ``thp-discard:4`` says the same.

    Raises UsageError that lists the known names or orders.
    """
    plain, _, wanted = name.partition(":")
    if plain not in DESIGNS:
        raise UsageError(f"unknown gmem design {name!r}: known are {', '.join(DESIGNS)}")
    if wanted:
        if not wanted.isdecimal():
            raise UsageError(f"gmem design {name!r}: after the colon comes the order of its folios, e.g. {plain}:4")
        order = int(wanted)
    if order is None:
        return DESIGNS[plain]
    family = FAMILIES.get(plain)
    if family is None:
        raise UsageError(f"gmem design {plain} has no folio order to choose; write {plain}")
    if order not in family.orders:
        known = f"{family.orders[0]} ({size_name(family.orders[0])}) to {family.orders[-1]}"
        known = known if len(family.orders) > 2 else " and ".join(map(str, family.orders))
        raise UsageError(f"gmem design {plain} has no folios of order {order}: orders are {known}")
    return DESIGNS[plain] if order == PMD_ORDER else family.make(order, f"{plain}:{order}")


def backing_named(name: str) -> Backing:
    """The shared backing ``name``; raises UsageError that lists the known ones."""
    if name not in BACKINGS:
        raise UsageError(f"unknown shared backing {name!r}: known are {', '.join(sorted(BACKINGS))}")
    return BACKINGS[name]
