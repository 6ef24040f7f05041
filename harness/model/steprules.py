# SPDX-License-Identifier: GPL-2.0-only
"""What each step does to the regions, in terms of the design's and the backing's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import UsageError
from harness.model import pages
from harness.model.context import Context, Outcome, Rule, chain
from harness.model.events import Event
from harness.model.prediction import ExpectedContents, ExpectedConversion, ExpectedError, ExpectedView
from harness.model.state import RegionState, page_set
from harness.scenario.steps import (
    BaseStep,
    Check,
    Convert,
    Fallocate,
    Migrate,
    PageRange,
    Peek,
    Pin,
    Populate,
    PunchHole,
    Side,
    Split,
    Touch,
    Unpin,
)


@dataclass(frozen=True)
class StepOutcome:
    """One region after a step, and what the step made happen."""

    region: RegionState
    events: tuple[Event, ...] = ()
    conversions: tuple[ExpectedConversion, ...] = ()
    contents: tuple[ExpectedContents, ...] = ()
    views: tuple[ExpectedView, ...] = ()
    wrote: bool = False
    """The guest writes its pattern: the step uses a generation up."""
    refused: ExpectedError | None = None
    """The error that the step ends with."""


def _access(context: Context, region: RegionState, touched: int, *, write: bool) -> Outcome:
    """The guest touches pages, each on the side its attribute names."""
    side = context.design.shared_side or context.backing
    shared_rule = side.write if write else side.read
    private = context.design.fault(context, region, region.on_side(touched, Side.PRIVATE))
    shared = shared_rule(context, private.region, region.on_side(touched, Side.SHARED))
    return Outcome(shared.region, private.events + shared.events)


def read_access(context: Context, region: RegionState, touched: int) -> Outcome:
    """The guest reads pages, or KVM populates them as if it did."""
    return _access(context, region, touched, write=False)


def _written(context: Context, region: RegionState, touched: int, generation: int) -> StepOutcome:
    outcome = _access(context, region, touched, write=True)
    return StepOutcome(outcome.region.write(touched, generation), outcome.events, wrote=True)


def _populate(context: Context, region: RegionState, step: Populate, generation: int) -> StepOutcome:
    return _written(context, region, page_set(step.range), generation)


def _touch(context: Context, region: RegionState, step: Touch, generation: int) -> StepOutcome:
    touched = pages.strided(step.range.start, step.range.end, step.stride)
    if step.write:
        return _written(context, region, touched, generation)
    outcome = read_access(context, region, touched)
    return StepOutcome(outcome.region, outcome.events)


def _convert(context: Context, region: RegionState, step: Convert, generation: int) -> StepOutcome:
    """One hypercall per chunk piece, also where nothing changes: the guest does not know and QEMU does not ask.

    A QEMU that populates does so after each of them: a fault for reading (mmu.c:kvm_arch_vcpu_pre_fault_memory).  The
    guest asks for nothing more after a piece that the kernel refuses.
    """
    del generation
    events: tuple[Event, ...] = ()
    conversions = []
    for piece in step.calls():
        outcome = context.design.convert(context.at(piece), region, page_set(piece), step.to)
        region = outcome.region
        events += outcome.events
        conversions.append(ExpectedConversion(piece.start, piece.count, step.to, piece.region))
        if outcome.refused:
            return StepOutcome(region, events, tuple(conversions), refused=outcome.refused)
        if context.facts.prefaults:
            populated = read_access(context.at(piece), region, page_set(piece))
            region, events = populated.region, events + populated.events
    return StepOutcome(region, events, tuple(conversions))


def _check(context: Context, region: RegionState, step: Check, generation: int) -> StepOutcome:
    del generation
    outcome = read_access(context, region, page_set(step.range))
    return StepOutcome(outcome.region, outcome.events, contents=expected_contents(outcome.region, step.range))


def _fallocate(context: Context, region: RegionState, step: Fallocate, generation: int) -> StepOutcome:
    del generation
    return _in_file(context, region, step.range, context.design.allocate)


def _punch(context: Context, region: RegionState, step: PunchHole, generation: int) -> StepOutcome:
    del generation
    return _in_file(context, region, step.range, context.design.punch)


def _in_file(context: Context, region: RegionState, where: PageRange, rule: Rule) -> StepOutcome:
    """A call of the host on the guest_memfd: one per chunk, since chunks need not be neighbours in the file.

    Folios of order 0 do not care how a range is cut, so that it is one sentence for them.
    """
    events: tuple[Event, ...] = ()
    for piece in where.pieces() if context.design.order else (where,):
        outcome = rule(context.at(piece), region, page_set(piece))
        region, events = outcome.region, events + outcome.events
        if outcome.refused:
            return StepOutcome(region, events, refused=outcome.refused)
    return StepOutcome(region, events)


def _pin(context: Context, region: RegionState, step: Pin, generation: int) -> StepOutcome:
    """References on what is present, each page on the side that its attribute names."""
    del generation
    where = page_set(step.range)
    if context.design.shared_side:
        return StepOutcome(replace(region, private_held=region.private_held | where & region.private))
    return StepOutcome(
        replace(
            region,
            private_held=region.private_held | region.on_side(where, Side.PRIVATE) & region.private,
            shared_held=region.shared_held | region.on_side(where, Side.SHARED) & region.shared,
        )
    )


def _unpin(context: Context, region: RegionState, step: Unpin, generation: int) -> StepOutcome:
    """What left its file or its mapping under a reference comes free with it."""
    del generation
    side = context.design.shared_side or context.backing
    outcome = chain(context, region, page_set(step.range), context.design.unpin, side.unpin)
    return StepOutcome(outcome.region, outcome.events)


def _migrate(context: Context, region: RegionState, step: Migrate, generation: int) -> StepOutcome:
    """One call for each piece of a chunk."""
    del generation
    rule = (context.design.shared_side or context.backing).migrate
    if rule is None:
        raise UsageError(f"{step.text()}: no rule of {context.backing.name} says what happens then")
    events: tuple[Event, ...] = ()
    for piece in step.range.pieces():
        outcome = rule(context.at(piece), region, page_set(piece), step.node)
        region, events = outcome.region, events + outcome.events
    return StepOutcome(region, events)


def _split(context: Context, region: RegionState, step: Split, generation: int) -> StepOutcome:
    """The kernel walks the range page by page and finds each folio once."""
    del generation
    rule = (context.design.shared_side or context.backing).split
    if rule is None:
        raise UsageError(f"{step.text()}: no rule of {context.backing.name} says what happens then")
    outcome = rule(context, region, page_set(step.range))
    return StepOutcome(outcome.region, outcome.events)


def _peek(context: Context, region: RegionState, step: Peek, generation: int) -> StepOutcome:
    """The host reads what is mapped, and tries what must refuse: neither allocates."""
    del generation
    return StepOutcome(region, views=expected_views(region, step.range, in_file=context.design.shared_side is not None))


def expected_views(region: RegionState, where: PageRange, *, in_file: bool) -> tuple[ExpectedView, ...]:
    """What the host may see in ``where``, as runs in rising order of pages.

    Beside a guest_memfd QEMU has the shared side mapped, of private pages too: what nobody discarded is still there.
    ``in_file``: QEMU has the guest_memfd itself mapped, which refuses its private pages (guest_memfd.c:
    kvm_gmem_fault_user_mapping).
    """
    wanted = page_set(where)
    hidden = region.on_side(wanted, Side.PRIVATE) if in_file else 0
    found = [
        ExpectedView(where.region, start, count, generation, mapped=generation is not None and not in_file)
        for generation, held in region.shared_patterns.within(wanted & ~hidden)
        for start, count in pages.runs(held)
    ]
    found += [ExpectedView(where.region, start, count, None, refused=True) for start, count in pages.runs(hidden)]
    return tuple(sorted(found, key=lambda view: view.start))


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
    Pin: _pin,
    Unpin: _unpin,
    Migrate: _migrate,
    Split: _split,
    Peek: _peek,
}
"""Rule of each step that acts on a range of one region; the last argument is the generation of a pattern written."""

ON_HOST: frozenset[type[BaseStep]] = frozenset({Fallocate, PunchHole, Pin, Unpin, Migrate, Split, Peek})
"""Steps that the host probe carries out; the guest does not run for them."""
