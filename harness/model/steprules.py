# SPDX-License-Identifier: GPL-2.0-only
"""What each step does to the regions, in terms of the design's and the backing's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.model import pages
from harness.model.context import Context, Outcome, chain
from harness.model.events import Event
from harness.model.prediction import ExpectedContents, ExpectedConversion
from harness.model.state import RegionState, page_set
from harness.scenario.steps import (
    BaseStep,
    Check,
    Convert,
    Fallocate,
    PageRange,
    Populate,
    PunchHole,
    Side,
    Touch,
)


@dataclass(frozen=True)
class StepOutcome:
    """One region after a step, and what the step made happen."""

    region: RegionState
    events: tuple[Event, ...] = ()
    conversions: tuple[ExpectedConversion, ...] = ()
    contents: tuple[ExpectedContents, ...] = ()
    wrote: bool = False
    """The guest writes its pattern: the step uses a generation up."""


def _access(context: Context, region: RegionState, touched: int, *, write: bool) -> Outcome:
    """The guest touches pages, each on the side its attribute names."""
    shared_rule = context.backing.write if write else context.backing.read
    private = context.design.fault(context, region, region.on_side(touched, Side.PRIVATE))
    shared = shared_rule(context, private.region, region.on_side(touched, Side.SHARED))
    return Outcome(shared.region, private.events + shared.events)


def _written(context: Context, region: RegionState, touched: int, generation: int) -> StepOutcome:
    outcome = _access(context, region, touched, write=True)
    return StepOutcome(outcome.region.write(touched, generation), outcome.events, wrote=True)


def _populate(context: Context, region: RegionState, step: Populate, generation: int) -> StepOutcome:
    return _written(context, region, page_set(step.range), generation)


def _touch(context: Context, region: RegionState, step: Touch, generation: int) -> StepOutcome:
    touched = pages.strided(step.range.start, step.range.end, step.stride)
    if step.write:
        return _written(context, region, touched, generation)
    outcome = _access(context, region, touched, write=False)
    return StepOutcome(outcome.region, outcome.events)


def _convert(context: Context, region: RegionState, step: Convert, generation: int) -> StepOutcome:
    """One hypercall per chunk piece, also where nothing changes: the guest does not know and QEMU does not ask."""
    del generation
    events: tuple[Event, ...] = ()
    conversions = []
    for piece in step.calls():
        outcome = context.design.convert(context.at(piece), region, page_set(piece), step.to)
        region = outcome.region
        events += outcome.events
        conversions.append(ExpectedConversion(piece.start, piece.count, step.to, piece.region))
    return StepOutcome(region, events, tuple(conversions))


def _check(context: Context, region: RegionState, step: Check, generation: int) -> StepOutcome:
    del generation
    outcome = _access(context, region, page_set(step.range), write=False)
    return StepOutcome(outcome.region, outcome.events, contents=expected_contents(outcome.region, step.range))


def _fallocate(context: Context, region: RegionState, step: Fallocate, generation: int) -> StepOutcome:
    del generation
    outcome = chain(context, region, page_set(step.range), context.design.allocate)
    return StepOutcome(outcome.region, outcome.events)


def _punch(context: Context, region: RegionState, step: PunchHole, generation: int) -> StepOutcome:
    del generation
    outcome = chain(context, region, page_set(step.range), context.design.punch)
    return StepOutcome(outcome.region, outcome.events)


def expected_contents(region: RegionState, where: PageRange) -> tuple[ExpectedContents, ...]:
    """What the guest must read in ``where``, as runs in rising order of pages."""
    found = [
        ExpectedContents(where.region, start, count, generation)
        for generation, held in region.contents(page_set(where))
        for start, count in pages.runs(held)
    ]
    found.sort(key=lambda run: run.start)
    merged: list[ExpectedContents] = []
    for run in found:
        last = merged[-1] if merged else None
        if last and last.generation == run.generation and last.start + last.count == run.start:
            merged[-1] = ExpectedContents(run.region, last.start, last.count + run.count, run.generation)
        else:
            merged.append(run)
    return tuple(merged)


RANGE_RULES: Mapping[type[BaseStep], Callable[[Context, RegionState, Any, int], StepOutcome]] = {
    Populate: _populate,
    Touch: _touch,
    Convert: _convert,
    Check: _check,
    Fallocate: _fallocate,
    PunchHole: _punch,
}
"""Rule of each step that acts on a range of one region; the last argument is the generation of a pattern written."""

ON_HOST: frozenset[type[BaseStep]] = frozenset({Fallocate, PunchHole})
"""Steps that the host probe carries out; the guest does not run for them."""
