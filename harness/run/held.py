# SPDX-License-Identifier: GPL-2.0-only
"""Carries out references on pages of a guest_memfd, by the hook of the kernel under test (docs/kernels.md, hold)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.errors import NothingRanError, UsageError
from harness.model import pages as sets
from harness.model.prediction import StepPrediction
from harness.model.references import references
from harness.model.state import page_set
from harness.scenario.steps import PageRange, Pin, Unpin

if TYPE_CHECKING:
    from harness.run.walk import Walker

HOOK_FACT = "device.gmem-hold"
"""In the facts of a testbed: ``y`` where the kernel has the hook."""


def check_pins(predictions: Sequence[StepPrediction], kernel_facts: Mapping[str, str]) -> None:
    """Before the first step: raises ``NothingRanError`` where the kernel lacks the hook that a pin needs.

    ``UsageError`` for a pin of pages on both sides: two things hold them, and nothing would say which dropped what.
    """
    for prediction in predictions:
        step = prediction.step
        if not isinstance(step, Pin):
            continue
        region, where = prediction.regions[step.range.region], page_set(step.range)
        private, shared = region.private_held & where, region.shared_held & where
        if private and shared:
            raise UsageError(
                f"step {prediction.index} ({step.text()}) names pages of both sides: pin one, then the other"
            )
        if private and kernel_facts.get(HOOK_FACT) != "y":
            raise NothingRanError(
                "to pin pages of a guest_memfd takes a kernel with the hook /dev/gmem-hold, which this one has not: "
                "the demonstrator kernels have it (gmem kernel list), host-configs/patches/*/hold.patch adds it to "
                "any other"
            )


def pin(walker: Walker, step: Pin, prediction: StepPrediction) -> tuple[str, ...]:
    """Pages that the model says are there to be held: the hook knows no attributes, only the guest_memfd."""
    region = step.range.region
    walker.referred.add(step.range.guest)
    where = prediction.regions[region].private_held & page_set(step.range)
    return _refer(walker, prediction, "take", [PageRange(region, *run) for run in sets.runs(where)])


def unpin(walker: Walker, step: Unpin, prediction: StepPrediction) -> tuple[str, ...]:
    """All references on pages of the range, in the file or not."""
    return _refer(walker, prediction, "drop", [step.range])


def _refer(walker: Walker, prediction: StepPrediction, mode: str, where: Sequence[PageRange]) -> tuple[str, ...]:
    """Take or drop references, and compare how many pages of the guest are held then."""
    guest, seen = where[0].guest, 0
    for pages in where:
        for offset, length in walker.extents(pages):
            seen = walker.probe.refer(walker.pid(pages.region), mode, offset, length, timeout=walker.deadline)
    wanted = sum(references(state) for name, state in prediction.regions.items() if name.partition(".")[0] == guest)
    if seen == wanted:
        return ()
    return (f"references: {seen} pages of {guest} are held after the step, the model says {wanted}",)
