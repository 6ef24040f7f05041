# SPDX-License-Identifier: GPL-2.0-only
"""predict(): what every counter must do in every step of a scenario, and why.  Pure: the same input, the same answer.

>>> from harness.model.designs import design_named
>>> from harness.scenario.scenario import Scenario
>>> from harness.scenario.steps import Convert, PageRange, Populate, Side
>>> there = PageRange("g0.r0", 0, 512)
>>> scenario = Scenario("there", (Convert(there, Side.PRIVATE), Populate(there)))
>>> steps = predict(scenario, design_named("order0"), {"gmem/g0": 0}, HostFacts(ncpu=2))
>>> print(steps[1].predictions["nr_file_pages"].low, steps[1].predictions["nr_file_pages"].reasons[0].text)
512 512 absent private pages of g0.r0[0:512] enter the page cache of the guest_memfd as order-0 folios
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import UsageError
from harness.model import blocks, slab
from harness.model.closing import close_guest
from harness.model.context import Backing, Context, Design
from harness.model.events import Event
from harness.model.facts import HostFacts
from harness.model.ledger import Ledger
from harness.model.physics import ALLOWANCES, Allowances
from harness.model.prediction import ExpectedContents, StepPrediction
from harness.model.quiet import open_counters
from harness.model.shared import ANON_4K
from harness.model.state import RegionState
from harness.model.steprules import ON_HOST, RANGE_RULES, StepOutcome
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Check, Close, Step


@dataclass
class _Walk:
    """What changes from step to step."""

    regions: dict[str, RegionState]
    lists: blocks.FreeLists | None
    lists_lost: str = ""
    """Why pageblock types are no longer predicted."""
    nodes_freed: int = 0
    generation: int = 0
    elsewhere: dict[str, int] = field(default_factory=dict)
    """Pages of each guest's guest_memfd outside the regions; absent when the first sample does not say."""
    running: list[str] = field(default_factory=list)


def predict(
    scenario: Scenario,
    design: Design,
    start: Mapping[str, int],
    facts: HostFacts,
    *,
    backing: Backing = ANON_4K,
    regions: Mapping[str, RegionState] | None = None,
    allowances: Allowances = ALLOWANCES,
) -> list[StepPrediction]:
    """One StepPrediction per step.

    ``start``: values of the first sample (only ``gmem/*``, ``pcp``, ``free/*``, ``free_order/10`` and the names of
    counters are used).  ``regions``: state before the first step, canonical *empty* where absent.
    Raises UsageError when the scenario does not fit the testbed or claims contents that the design does not keep.
    """
    scenario.check()
    walk = _begin(scenario, start, facts, regions or {})
    return [
        _predict_step(index, step, design, backing, start, facts, walk, allowances)
        for index, step in enumerate(scenario.steps)
    ]


def _begin(scenario: Scenario, start: Mapping[str, int], facts: HostFacts, given: Mapping[str, RegionState]) -> _Walk:
    for name in scenario.regions:
        if facts.regions.get(name, 0) < scenario.chunks:
            raise UsageError(
                f"scenario {scenario.name!r} needs {name} with {scenario.chunks} chunks: the testbed has"
                f" {facts.regions.get(name, 0)}"
            )
    states = {
        name: given.get(name, RegionState.empty(chunks, tables=facts.tables_present))
        for name, chunks in facts.regions.items()
    }
    inside = {guest: 0 for guest in facts.guests}
    for name, state in states.items():
        inside[name.partition(".")[0]] += state.private.bit_count()
    elsewhere = {g: start[f"gmem/{g}"] - held for g, held in inside.items() if f"gmem/{g}" in start}
    for guest, rest in elsewhere.items():
        if rest < 0:
            raise UsageError(
                f"the first sample has {start[f'gmem/{guest}']} pages in the guest_memfd of {guest}, fewer than the"
                f" {inside[guest]} that its regions are said to hold"
            )
    lists = blocks.FreeLists.from_sample(start, facts)
    lost = "" if lists else "the first sample lacks free/Unmovable, free/Reclaimable or free_order/10"
    return _Walk(states, lists, lost, elsewhere=elsewhere, running=list(facts.guests))


def _predict_step(
    index: int,
    step: Step,
    design: Design,
    backing: Backing,
    start: Mapping[str, int],
    facts: HostFacts,
    walk: _Walk,
    allowances: Allowances,
) -> StepPrediction:
    ledger = Ledger()
    open_counters(ledger, start, walk.running, step.text(), design, backing)
    if isinstance(step, Close):
        unpredicted = close_guest(ledger, step.guest, walk.elsewhere, walk.regions, allowances)
        walk.running.remove(step.guest)
        walk.elsewhere.pop(step.guest, None)
        walk.lists, walk.lists_lost = None, f"{step.guest} was closed: its pages went to lists no rule can tell"
        unpredicted |= {counter: walk.lists_lost for counter in blocks.BLOCK_COUNTERS}
        return StepPrediction(index, step, ledger.close(), unpredicted=unpredicted, regions=dict(walk.regions))
    outcome, change = _walk_regions(step, design, backing, facts, walk)
    ledger.post(outcome.events)
    traffic = type(step) in RANGE_RULES
    if traffic:
        _allow_traffic(ledger, allowances, on_host=type(step) in ON_HOST)
    slab_pages = slab.post(ledger, facts, change, walk.nodes_freed)
    walk.nodes_freed += change.gone + change.gone_above
    events = list(outcome.events)
    blocks.post_movable_balance(ledger, facts, events, quiet=not traffic)
    unpredicted = _post_blocks(ledger, facts, walk, events, slab_pages)
    if isinstance(step, Check):
        _hold_claim(step, outcome.contents, index, design)
    if outcome.wrote:
        walk.generation += 1
    return StepPrediction(
        index,
        step,
        ledger.close(),
        conversions=outcome.conversions,
        contents=outcome.contents,
        generation=walk.generation if outcome.wrote else None,
        unpredicted=unpredicted,
        regions=dict(walk.regions),
    )


def _walk_regions(
    step: Step, design: Design, backing: Backing, facts: HostFacts, walk: _Walk
) -> tuple[StepOutcome, slab.NodeChange]:
    """Applies the step to its region; Settle and Empty have none."""
    ranges = step.ranges()
    if not ranges:
        return StepOutcome(RegionState(1)), slab.NodeChange()
    (where,) = ranges
    context = Context(facts, design, backing, where.guest, str(where))
    before = walk.regions[where.region]
    outcome = RANGE_RULES[type(step)](context, before, step, walk.generation + 1)
    walk.regions[where.region] = outcome.region
    return outcome, slab.node_change([(before, outcome.region)])


def _allow_traffic(ledger: Ledger, allowances: Allowances, *, on_host: bool) -> None:
    what = "the request to the host probe" if on_host else "the request to the guest's agent"
    slabs, raw, events = allowances.slab_pages, allowances.raw_pages, allowances.event_pages
    for counter in ("nr_slab_reclaimable", "nr_slab_unreclaimable"):
        ledger.allow(counter, -slabs, slabs, "traffic", f"{what} may take or give back {slabs} slab pages")
    ledger.allow("unaccounted", -raw, raw, "traffic", f"{what} may take or give back {raw} raw pages")
    moved = 2 * slabs + raw
    ledger.allow("F", -moved, moved, "traffic", f"{what} may take or give back {moved} pages")
    for counter in ("pgfree", "pgalloc"):
        ledger.allow(counter, 0, moved + events, "traffic", f"{what} may pass through {moved + events} pages")


def _post_blocks(
    ledger: Ledger, facts: HostFacts, walk: _Walk, events: list[Event], slab_pages: tuple[int, int]
) -> dict[str, str]:
    if walk.lists is not None:
        walk.lists, walk.lists_lost = blocks.post_blocks(ledger, facts, walk.lists, events, slab_pages)
    if walk.lists is not None:
        return {}
    ledger.drop(blocks.BLOCK_COUNTERS)
    return {counter: walk.lists_lost for counter in blocks.BLOCK_COUNTERS}


def _hold_claim(step: Check, contents: tuple[ExpectedContents, ...], index: int, design: Design) -> None:
    """A scenario may not claim contents that the design does not keep: then either of them is wrong."""
    for run in contents:
        if step.expect not in ("either", run.kind):
            held = "zeroes" if run.generation is None else f"the pattern of generation {run.generation}"
            raise UsageError(
                f"step {index} ({step.text()}) claims what design {design.name} does not do: {run.region} holds {held}"
                f" in pages {run.start} to {run.start + run.count - 1}"
            )
