# SPDX-License-Identifier: GPL-2.0-only
"""What a rule gets and gives: the context it acts in, the records of design and backing, the outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.model.events import Event, EventKind
from harness.model.facts import HostFacts
from harness.model.prediction import ExpectedError, Reason
from harness.model.state import RegionState
from harness.scenario.steps import PageRange, Side


@dataclass(frozen=True)
class Outcome:
    """A region after a rule acted on it, and what happened."""

    region: RegionState
    events: tuple[Event, ...] = ()
    refused: ExpectedError | None = None
    """The kernel refused the call; region and events are what it did all the same."""


@dataclass(frozen=True)
class Context:
    """Where a rule acts: host, design, backing, guest, and the range as text for its sentences."""

    facts: HostFacts
    design: Design
    backing: Backing
    guest: str
    where: str
    cpu: int | None = None
    """Host CPU that the guest is placed on; None: it was never placed."""

    @property
    def region(self) -> str:
        """Name of the region."""
        return self.where.partition("[")[0]

    def refuse(self, errno: str, call: str, page: int, rule: str, text: str) -> ExpectedError:
        """The error of a call that the kernel must refuse; ``{where}`` in the sentence is the range."""
        reason = Reason(rule, text.format(where=self.where))
        return ExpectedError(errno, call, self.region, page, reason)

    def at(self, where: PageRange) -> Context:
        """The same context for a part of the range."""
        return replace(self, where=str(where))

    def event(self, kind: EventKind, pages: int, rule: str, text: str) -> tuple[Event, ...]:
        """One event with its sentence; none for zero pages.

        ``{n}`` is the number, ``{where}`` the range, ``{s}`` a noun's plural, ``{v}`` and ``{es}`` a verb's singular.
        """
        if not pages:
            return ()
        plural = pages != 1
        words = {
            "s": "s" if plural else "",
            "v": "" if plural else "s",
            "es": "" if plural else "es",
            "are": "are" if plural else "is",
        }
        said = text.format(n=pages, where=self.where, **words)
        return (Event(kind, self.guest, pages, rule, said, self.cpu),)


Rule = Callable[[Context, RegionState, int], Outcome]
"""Acts on a set of pages of one region."""

ConvertRule = Callable[[Context, RegionState, int, Side], Outcome]
"""Carries one conversion out: the pages of one piece, and the side they become."""


MigrateRule = Callable[[Context, RegionState, int, int], Outcome]
"""Moves a set of pages of the shared side to a NUMA node."""


def keep(context: Context, region: RegionState, pages: int) -> Outcome:
    """A rule by which nothing happens."""
    del context, pages
    return Outcome(region)


def left_empty(facts: HostFacts, region: RegionState) -> RegionState:
    """A testbed's preparation leaves nothing of the shared side."""
    del facts
    return region


@dataclass(frozen=True)
class Backing:
    """What holds the shared side of guest memory, with its rules."""

    name: str
    folio_orders: tuple[int, ...]
    """Orders of folios a fault can bring; (0,) is 4 KiB only."""
    write: Rule
    """The guest writes to pages whose attribute is shared."""
    read: Rule
    """The guest reads pages whose attribute is shared."""
    discard: Rule
    """QEMU discards the range, present or not."""
    file_backed: bool = False
    """Whether it is page cache of a file (memfd): its pages are in nr_file_pages and a tree of their own."""
    moves: tuple[str, ...] = ()
    """Counters that its rules move beyond those of anonymous 4 KiB memory, as patterns (``thp_split_*``)."""
    says: str = "anonymous 4 KiB memory"
    """What it is, for sentences."""
    shrink: Rule = keep
    """What memory pressure, or dropping slabs, makes of its folios."""
    unpin: Rule = keep
    """References that pins took on shared pages of the range are dropped."""
    migrate: MigrateRule | None = None
    """The host moves pages of the range to a node; None: no rule says what happens then."""
    split: Rule | None = None
    """The host asks for large folios of the range to be split; None: no rule says what happens then."""
    prepared: Callable[[HostFacts, RegionState], RegionState] = left_empty
    """What the preparation of a testbed leaves of the shared side of a region that is empty otherwise."""

    @property
    def falls_back(self) -> bool:
        """Whether it takes an order-0 folio where a large one is not to be had."""
        return self.folio_orders[0] == 0 and len(self.folio_orders) > 1


@dataclass(frozen=True)
class Design:
    """What a kernel does with guest_memfd folios, with its rules."""

    name: str
    claim: str
    """The design in a sentence."""
    folio_orders: tuple[int, ...]
    """Orders of folios it may allocate, smallest first."""
    allocate: Rule
    """Pages of the range become present in the guest_memfd; present ones stay."""
    fault: Rule
    """The guest touches pages whose attribute is private."""
    punch: Rule
    """fallocate(PUNCH_HOLE) of the range, present or not."""
    convert: ConvertRule
    """KVM's attributes and QEMU's discard of one piece."""
    unpin: Rule = keep
    """References that pins took on private pages of the range are dropped."""
    shared_side: Backing | None = None
    """The shared side, where the guest_memfd itself holds it; None: the testbed's backing does."""
    resident_counters: tuple[str, ...] = ("nr_file_pages", "nr_unevictable", "nr_zone_unevictable")
    """Counters that a present page holds up by one until it goes."""
    refuses_partial: bool = False
    """Whether truncation of a part of a folio's window is an error; otherwise it has no effect."""
    vmemmap_optimised: bool = False
    """HVO: a whole hugetlb folio has given the pages of its page structures back."""
    attributes_in_file: bool = False
    """Whether private and shared are a property of the guest_memfd (a maple tree), not of the VM (an xarray)."""
    moves: tuple[str, ...] = ()
    """Counters that its rules move and those of order0 do not, as patterns, where folio orders do not say it."""

    @property
    def order(self) -> int:
        """The largest folio it allocates."""
        return self.folio_orders[-1]

    @property
    def falls_back(self) -> bool:
        """Whether it allocates single pages where a large folio is not to be had."""
        return self.folio_orders[0] < self.order


def chain(context: Context, region: RegionState, pages: int, *rules: Rule) -> Outcome:
    """The rules one after the other on the same pages, up to the first that is refused."""
    events: tuple[Event, ...] = ()
    for rule in rules:
        outcome = rule(context, region, pages)
        region = outcome.region
        events += outcome.events
        if outcome.refused:
            return Outcome(region, events, outcome.refused)
    return Outcome(region, events)
