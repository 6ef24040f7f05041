# SPDX-License-Identifier: GPL-2.0-only
"""Applies the rules of a shared backing by themselves, without a scenario, and adds up what they move."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from harness.model import pages
from harness.model.backing_anon_thp import ANON_THP
from harness.model.backing_hugetlb import HUGETLB_1G, HUGETLB_2M
from harness.model.backing_hugetlb import punch as hugetlb_punch
from harness.model.backing_shmem import MEMFD_4K, SHMEM_THP
from harness.model.backing_shmem import punch as shmem_punch
from harness.model.context import Backing, Context, Outcome
from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.shared import ANON_4K
from harness.model.state import RegionState
from harness.scenario.steps import Side

BACKINGS = {b.name: b for b in (ANON_4K, ANON_THP, MEMFD_4K, SHMEM_THP, HUGETLB_2M, HUGETLB_1G)}
PUNCH = {"memfd-4k": shmem_punch, "shmem-thp": shmem_punch, "hugetlb": hugetlb_punch, "hugetlb-1g": hugetlb_punch}
FACTS = HostFacts(ncpu=2, regions={"g0.r0": 4})
THP = "mthp/2048kB"
"""Where the counters of huge folios are, by their size."""

Operation = tuple[str, int, int]
"""What is done, first page, number of pages."""


class Walk:
    """One region on one backing, operation by operation."""

    def __init__(self, backing: str, facts: HostFacts = FACTS, *, chunks: int = 4, tables: bool = False) -> None:
        self.backing: Backing = BACKINGS[backing]
        self.context = Context(facts, design_named("order0"), self.backing, "g0", "here")
        self.region = RegionState.empty(chunks, tables=tables)
        self.generation = 0
        self.levels: Counter[str] = Counter()
        """Everything moved so far."""
        self.sentences: list[str] = []
        """Of the last operation."""

    def do(self, operation: Operation, *, kvm: bool = True) -> dict[str, int]:
        """Applies one operation; returns what it moves, without zeroes; ``kvm``: with KVM's leaves and tables."""
        what, start, count = operation
        where = pages.span(start, count)
        outcome = getattr(self, "_" + what)(where)
        self.region = outcome.region
        self.sentences = [f"{event.rule}: {event.text}" for event in outcome.events]
        moved: Counter[str] = Counter()
        for event in outcome.events:
            if not kvm and ("leaf" in event.kind.name or "nested" in event.kind.name):
                continue
            for counter, difference in event.moves():
                moved[counter] += difference
                self.levels[counter] += difference
        return {counter: by for counter, by in sorted(moved.items()) if by}

    def _write(self, where: int) -> Outcome:
        outcome = self.backing.write(self.context, self.region, where & ~self.region.attr_private)
        self.generation += 1
        return Outcome(outcome.region.write(where & ~self.region.attr_private, self.generation), outcome.events)

    def _read(self, where: int) -> Outcome:
        return self.backing.read(self.context, self.region, where & ~self.region.attr_private)

    def _discard(self, where: int) -> Outcome:
        return self.backing.discard(self.context, self.region, where)

    def _punch(self, where: int) -> Outcome:
        return PUNCH[self.backing.name](self.context, self.region, where)

    def _shrink(self, where: int) -> Outcome:
        return self.backing.shrink(self.context, self.region, where)

    def _pin(self, where: int) -> Outcome:
        held = self.region.shared_held | where & self.region.shared
        return Outcome(replace(self.region, shared_held=held))

    def _unpin(self, where: int) -> Outcome:
        return self.backing.unpin(self.context, self.region, where)

    def _map_private(self, where: int) -> Outcome:
        return self.context.design.fault(self.context, self.region, where & self.region.attr_private)

    def _to_private(self, where: int) -> Outcome:
        return self._convert(where, Side.PRIVATE)

    def _to_shared(self, where: int) -> Outcome:
        return self._convert(where, Side.SHARED)

    def _convert(self, where: int, to: Side) -> Outcome:
        """As design order0 and QEMU make it."""
        return self.context.design.convert(self.context, self.region, where, to)
