# SPDX-License-Identifier: GPL-2.0-only
"""Carries out the steps of the host on the shared side of a guest: references, migration, splits.

Each shows that it did something: where the pages are is asked of the kernel, page by page.  Addresses are those of the
guest's RAM in its QEMU, which maps it in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.errors import InfraError, UsageError
from harness.guest.agent import PAGE_SIZE
from harness.host.probe import HOLDS
from harness.model.migrating import pages_on
from harness.model.prediction import StepPrediction
from harness.model.state import RegionState
from harness.scenario.steps import Migrate, PageRange, Pin, Split, Unpin

if TYPE_CHECKING:
    from harness.run.walk import Walker

SPLIT = "/sys/kernel/debug/split_huge_pages"


@dataclass
class Holds:
    """Which ranges the probe holds references on: the number of each."""

    taken: dict[str, int] = field(default_factory=dict)

    def take(self, pages: PageRange) -> int:
        """A free number for a range; raises ``UsageError`` when there is none or the range is held."""
        free = [number for number in range(HOLDS) if number not in self.taken.values()]
        if str(pages) in self.taken or not free:
            raise UsageError(f"pin {pages}: at most {HOLDS} ranges can be held at a time, each once")
        self.taken[str(pages)] = free[0]
        return free[0]

    def drop(self, pages: PageRange) -> int:
        """The number of a held range; raises ``UsageError`` for any other."""
        if str(pages) not in self.taken:
            held = ", ".join(self.taken) or "nothing"
            raise UsageError(f"unpin {pages}: references are dropped as they were taken, and what is held is {held}")
        return self.taken.pop(str(pages))


def pin(walker: Walker, step: Pin, prediction: StepPrediction) -> tuple[str, ...]:
    """References on the pages of the file that the shared side is."""
    if not walker.testbed.spec.backing.file:
        raise UsageError(
            f"{step.text()}: references are taken through the file of a guest's RAM, and backing"
            f" {walker.testbed.spec.backing.name} has none"
        )
    if len(step.range.pieces()) > 1:
        raise UsageError(f"{step.text()}: a pin covers pages of one chunk")
    number = walker.holds.take(step.range)
    for offset, length in walker.extents(step.range):
        pid = walker.pid(step.range.region)
        walker.probe.hold(pid, number, offset, length // PAGE_SIZE, timeout=walker.deadline)
    return ()


def unpin(walker: Walker, step: Unpin, prediction: StepPrediction) -> tuple[str, ...]:
    """The references of one pin."""
    dropped = walker.probe.release(walker.holds.drop(step.range), timeout=walker.deadline)
    if dropped != step.range.count:
        raise InfraError(f"{step.text()}: the probe held {dropped} pages where it must have held {step.range.count}")
    return ()


def migrate(walker: Walker, step: Migrate, prediction: StepPrediction) -> tuple[str, ...]:
    """Moves the pages, then asks the kernel where they are and holds that against the model."""
    region, problems = prediction.regions[step.range.region], []
    for piece, address in addresses(walker, step.range):
        pid = walker.pid(piece.region)
        walker.probe.move_pages(pid, address, piece.count, step.node, timeout=walker.deadline)
        problems += compare_nodes(region, piece, walker.probe.nodes(pid, address, piece.count, timeout=walker.deadline))
    return tuple(problems)


def split(walker: Walker, step: Split, prediction: StepPrediction) -> tuple[str, ...]:
    """Asks for the folios of each piece; what comes of it is in the counters."""
    for piece, address in addresses(walker, step.range):
        where = f"{walker.pid(piece.region)},{address:#x},{address + piece.count * PAGE_SIZE:#x}"
        walker.probe.write(SPLIT, where, timeout=walker.deadline)
    return ()


def addresses(walker: Walker, pages: PageRange) -> list[tuple[PageRange, int]]:
    """Each piece of a range with its address in QEMU."""
    ram = walker.testbed.guest(pages.guest).ram
    return [(piece, ram + offset) for piece, (offset, _) in zip(pages.pieces(), walker.extents(pages), strict=True)]


def compare_nodes(region: RegionState, piece: PageRange, seen: Sequence[int | None]) -> list[str]:
    """A sentence for pages that are not on the node where the model has them; unmapped ones are nowhere."""
    expected = pages_on(region, piece.start, piece.count)
    wrong = [
        (piece.start + number, node, wanted)
        for number, (node, wanted) in enumerate(zip(seen, expected, strict=True))
        if node is not None and node != wanted
    ]
    if not wrong:
        return []
    page, node, wanted = wrong[0]
    return [f"nodes: {len(wrong)} pages of {piece}: page {page} is on node {node}, predicted on node {wanted}"]
