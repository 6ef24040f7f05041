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
from dataclasses import dataclass, field, replace

from harness.errors import UsageError
from harness.model import blocks, nested, slab, uncertain
from harness.model.aligned import Blocks
from harness.model.closing import close_guest
from harness.model.context import Backing, Context, Design
from harness.model.demand import Demand
from harness.model.events import traffic_by_cpu
from harness.model.facts import HostFacts
from harness.model.folio_events import NESTED_TABLE_LINKED
from harness.model.frames import Frames
from harness.model.hostwide import HOST_WIDE, loose, open_ends, split_perhaps, stirred
from harness.model.ledger import Ledger
from harness.model.physics import ALLOWANCES, Allowances
from harness.model.prediction import ExpectedContents, StepPrediction
from harness.model.prepared import empty_region
from harness.model.quiet import open_counters
from harness.model.room import Room
from harness.model.shared import ANON_4K
from harness.model.state import RegionState
from harness.model.steprules import ON_HOST, RANGE_RULES, StepOutcome
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Check, Close, Convert, Place, Step


@dataclass
class Walk:
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
    cpus: dict[str, int] = field(default_factory=dict)
    """Host CPU of each guest that was placed."""
    nested_linked: dict[str, int] = field(default_factory=dict)
    """Tables that KVM linked for each guest."""
    loose: dict[str, str] = field(default_factory=dict)
    """Counters, with ``{guest}``, that an earlier step made unknown, and why."""
    frames: Frames | None = None
    """Which frames come back; None: the scenario does not watch them."""
    worlds: dict[str, uncertain.Worlds] | None = None
    """Per region the states its windows may be in, once a large allocation may fail; None: all are known."""
    room: Room | None = None
    """How many large folios the host has; None: it was not looked at since a large allocation may fail."""
    stirred: str = ""
    """Why the host may compact and reclaim from here on; '' as long as it does not."""


@dataclass(frozen=True)
class World:
    """What stays the same."""

    design: Design
    backing: Backing
    start: Mapping[str, int]
    facts: HostFacts
    allowances: Allowances


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
    world = World(design, design.shared_side or backing, start, facts, allowances)
    walk = set_out(scenario, world, regions or {})
    return [predict_step(index, step, world, walk) for index, step in enumerate(scenario.steps)]


def set_out(scenario: Scenario, world: World, regions: Mapping[str, RegionState]) -> Walk:
    """The walk before its first step."""
    scenario.check()
    walk = _begin(scenario, world, regions)
    if scenario.frames and "nr_unevictable" in world.design.resident_counters:  # a census sees what is on an LRU list
        walk.frames = Frames.from_sample(world.start, world.facts.guests)
    return walk


def _begin(scenario: Scenario, world: World, given: Mapping[str, RegionState]) -> Walk:
    start, facts = world.start, world.facts
    for name in scenario.regions:
        if facts.regions.get(name, 0) < scenario.chunks:
            raise UsageError(
                f"scenario {scenario.name!r} needs {name} with {scenario.chunks} chunks: the testbed has"
                f" {facts.regions.get(name, 0)}"
            )
    states = {
        name: given.get(name) or empty_region(world.design, facts, chunks) for name, chunks in facts.regions.items()
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
    if facts.nodes > 1:
        lost = f"the host has {facts.nodes} nodes, and the first sample adds their free lists up"
    elsewhere = {guest: rest + facts.rom_pages for guest, rest in elsewhere.items()}
    walk = Walk(states, lists, lost, elsewhere=elsewhere, running=list(facts.guests))
    if None in (facts.large_folios, facts.thp_available):
        _become_unsure(world, walk)
        for name, worlds in (walk.worlds or {}).items():
            if name not in given:  # neither is it known what the private touch of the preparation got
                order = uncertain.window_order(world.design, world.backing)
                other = uncertain.split_up(replace(states[name], nested_missing=Blocks()), order)
                worlds |= {number: tuple(dict.fromkeys((*seen, *other[number]))) for number, seen in worlds.items()}
    return walk


def _become_unsure(world: World, walk: Walk) -> None:
    """From here on a large allocation may fail, window by window."""
    if walk.worlds is None and uncertain.unsure(world.design, world.backing, world.facts):
        order = uncertain.window_order(world.design, world.backing)
        walk.worlds = {name: uncertain.split_up(state, order) for name, state in walk.regions.items()}
        walk.lists, walk.lists_lost = None, "large folios may be had or not: what they take of the lists is not known"


def predict_step(index: int, step: Step, world: World, walk: Walk) -> StepPrediction:
    ledger = Ledger()
    open_counters(ledger, world.start, walk.running, step.text(), world.design, world.backing)
    if isinstance(step, Close):
        return _predict_close(index, step, world, walk, ledger)
    if isinstance(step, Place):
        walk.cpus[step.guest] = step.cpu
    unpredicted: dict[str, str] = {}
    if type(step) in HOST_WIDE:
        unpredicted = _predict_host_wide(step, world, walk, ledger)
    before = dict(walk.regions)
    followed = _walk_regions(step, world, walk)
    outcome = followed.outcome
    demand = _post(step, followed, world, walk, ledger)
    if followed.torn:
        walk.loose |= {counter: followed.torn for counter in ledger.opened()}
    if walk.stirred:
        unpredicted |= stirred(walk.stirred, ledger)
    unpredicted |= _drop_lost(walk, ledger)
    if isinstance(step, Check):
        _hold_claim(step, outcome.contents, index, world.design)
    if outcome.wrote:
        walk.generation += 1
    bounds = ledger.close()
    if walk.frames is not None:
        single = isinstance(step, Convert) and step.by == 1
        bounds |= walk.frames.follow(outcome.events, bounds, before, walk.regions, one_by_one=single)
    return StepPrediction(
        index,
        step,
        bounds,
        conversions=outcome.conversions,
        contents=outcome.contents,
        views=outcome.views,
        generation=walk.generation if outcome.wrote else None,
        unpredicted=unpredicted,
        regions=dict(walk.regions),
        refused=outcome.refused,
        traffic_by_cpu=traffic_by_cpu(outcome.events),
        demand=demand,
    )


def _predict_close(index: int, step: Close, world: World, walk: Walk, ledger: Ledger) -> StepPrediction:
    unpredicted = close_guest(
        ledger, step.guest, walk.elsewhere, walk.regions, world.allowances, world.design, world.backing
    )
    walk.running.remove(step.guest)
    walk.elsewhere.pop(step.guest, None)
    walk.lists, walk.lists_lost = None, f"{step.guest} was closed: its pages went to lists no rule can tell"
    walk.room = None
    unpredicted |= _drop_lost(walk, ledger)
    if walk.worlds is not None:
        why = f"whether windows of {step.guest} held large folios is not known, nor how much went with them"
        resident = (*world.design.resident_counters, "nr_file_hugepages")
        ledger.drop(resident)
        unpredicted |= {counter: why for counter in resident}
        walk.worlds = {name: worlds for name, worlds in walk.worlds.items() if name in walk.regions}
    bounds = ledger.close()
    if walk.frames is not None:
        bounds |= walk.frames.follow((), bounds, {}, {})
    return StepPrediction(
        index, step, bounds, unpredicted=unpredicted, regions=dict(walk.regions), last_vm=not walk.running
    )


def _predict_host_wide(step: Step, world: World, walk: Walk, ledger: Ledger) -> dict[str, str]:
    counters, why = loose(step, world.backing)
    walk.loose |= {counter: why for counter in counters} | split_perhaps(step, world.backing, walk.regions.values())
    if HOST_WIDE[type(step)].takes_memory:
        _become_unsure(world, walk)
    walk.room = None
    walk.lists, walk.lists_lost = None, f"the host's memory was stirred ({step.text()}): its lists are not known"
    return open_ends(step, ledger)


def _drop_lost(walk: Walk, ledger: Ledger) -> dict[str, str]:
    """Counters that no step can say any more: of block types, and of leaves."""
    lost = {counter: walk.lists_lost for counter in blocks.BLOCK_COUNTERS} if walk.lists is None else {}
    for counter, why in walk.loose.items():
        lost |= {counter.format(guest=guest): why for guest in walk.running}
    ledger.drop(lost)
    return lost


def _walk_regions(step: Step, world: World, walk: Walk) -> uncertain.Followed:
    """Applies the step to its region; steps without a range have none."""
    ranges = step.ranges()
    if not ranges:
        return uncertain.Followed(StepOutcome(RegionState(1)), slab.NodeChange())
    (where,) = ranges
    context = Context(world.facts, world.design, world.backing, where.guest, str(where), cpu=walk.cpus.get(where.guest))
    trees = {"file_backed": world.backing.file_backed, "attributes": not world.design.attributes_in_file}
    before, generation = walk.regions[where.region], walk.generation + 1
    if walk.worlds is not None:
        followed = uncertain.follow(context, walk.worlds[where.region], step, generation, room=walk.room, **trees)
        if walk.room is not None:
            events = [*followed.outcome.events, *followed.perhaps]
            walk.room, why = walk.room.used(where.count, followed.wanted, events)
            walk.stirred = walk.stirred or why
    else:
        outcome = RANGE_RULES[type(step)](context, before, step, generation)
        change = slab.node_change([(before, outcome.region)], **trees)
        followed = uncertain.Followed(outcome, slab.with_splits(change, outcome.events, world.facts))
    after = followed.outcome.region
    # What was given up comes back on node 0.
    walk.regions[where.region] = replace(after, shared_far=after.shared_far & after.shared)
    return followed


def _post(step: Step, followed: uncertain.Followed, world: World, walk: Walk, ledger: Ledger) -> Demand | None:
    """Enters what happened, and what it costs the host in slabs, tables and pageblocks; returns what it asks of lists.

    None where that is not known: of what stirs the host, and where large folios may be had or not.
    """
    facts, events, change = world.facts, list(followed.outcome.events), followed.change
    ledger.post(events)
    for loose_end in followed.loose:
        ledger.allow(loose_end.counter, loose_end.low, loose_end.high, "fallback", loose_end.text)
    traffic = type(step) in RANGE_RULES
    if traffic:
        _allow_traffic(ledger, world.allowances, on_host=type(step) in ON_HOST)
    slab_pages = slab.post(ledger, facts, change, walk.nodes_freed)
    walk.nodes_freed += change.gone + change.gone_above
    possible = [*events, *followed.perhaps]
    cached = nested.post(ledger, facts, possible, walk.nested_linked, unsure=walk.worlds is not None)
    cached += slab.post_maple(ledger, events)
    for event in possible:
        if event.kind is NESTED_TABLE_LINKED:
            walk.nested_linked[event.guest] = walk.nested_linked.get(event.guest, 0) + event.pages
    if type(step) not in HOST_WIDE:
        blocks.post_movable_balance(ledger, facts, events, quiet=not traffic)
    demand = blocks.demand_of(facts, events, slab_pages, cached)
    if walk.lists is not None:
        walk.lists, walk.lists_lost = blocks.post_blocks(ledger, walk.lists, demand)
    return None if walk.worlds is not None or type(step) in HOST_WIDE else demand


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


def _hold_claim(step: Check, contents: tuple[ExpectedContents, ...], index: int, design: Design) -> None:
    """A scenario may not claim contents that the design does not keep: then either of them is wrong."""
    for run in contents:
        if step.expect not in ("either", run.kind):
            held = "zeroes" if run.generation is None else f"the pattern of generation {run.generation}"
            raise UsageError(
                f"step {index} ({step.text()}) claims what design {design.name} does not do: {run.region} holds {held}"
                f" in pages {run.start} to {run.start + run.count - 1}"
            )
