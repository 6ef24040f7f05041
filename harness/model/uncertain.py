# SPDX-License-Identifier: GPL-2.0-only
"""Windows of which nobody knows whether they got a large folio: every outcome is followed, bounds are over all of them.

A huge allocation may fail where memory is short or in pieces, and no counter says so.  What one window got says nothing
of the next, so that each window has states of its own; a step moves a counter by the least and the most of them, added
up over windows.  That is exact: each combination can happen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest

import msgspec

from harness.model import pages, slab
from harness.model.aligned import PMD_ORDER, Blocks
from harness.model.context import Backing, Context, Design
from harness.model.events import Event
from harness.model.facts import HostFacts
from harness.model.parked import Parked
from harness.model.room import Room
from harness.model.state import Patterns, RegionState, chunks_of
from harness.model.steprules import RANGE_RULES, StepOutcome
from harness.scenario.steps import CHUNK_PAGES, PageRange, Step, Touch

MOST_STATES = 64
"""States of one window beyond which the model gives up: more steps would double them again."""

Worlds = dict[int, tuple[RegionState, ...]]
"""Per window, by its number, the states that it may be in; the first is the one in which no allocation failed."""


@dataclass(frozen=True)
class Loose:
    """What a counter moves by in the windows of one region, least and most."""

    counter: str
    low: int
    high: int
    text: str


@dataclass(frozen=True)
class Followed:
    """One step in all worlds."""

    outcome: StepOutcome
    """What happens in every one of them; its region is the one in which no allocation failed."""
    change: slab.NodeChange
    loose: tuple[Loose, ...] = ()
    perhaps: tuple[Event, ...] = ()
    """Events of some worlds."""
    torn: str = ""
    """Why nothing can be said from here on."""
    wanted: tuple[int, int] = (0, 0)
    """Windows that ask for a large folio on the private side, least and most."""


def window_order(design: Design, backing: Backing) -> int:
    """Windows are at least chunks: a page table, a hypercall and a discard are never wider than a window."""
    return max(design.order, backing.folio_orders[-1], PMD_ORDER)


def split_up(region: RegionState, order: int) -> Worlds:
    """The windows of ``2**order`` pages of a region whose state is known."""
    size = 1 << order
    count = -(-region.chunks * CHUNK_PAGES // size)
    return {n: (_only(region, pages.span(n * size, size)),) for n in range(count)}


def follow(
    context: Context,
    worlds: Worlds,
    step: Step,
    generation: int,
    *,
    file_backed: bool,
    attributes: bool,
    room: Room | None = None,
) -> Followed:
    """Carries ``step`` out in every state of each window that it touches; changes ``worlds``.

    ``room``: how many large folios there are for the private side.
    """
    (where,) = step.ranges()
    size = 1 << window_order(context.design, context.backing)
    wanted = _wanted(context, worlds, step, generation)
    decided = room.decided(wanted) if room else None
    choices: list[tuple[Counter[str], Counter[str]]] = []
    open_windows = 0
    common: list[Event] = []
    perhaps: list[Event] = []
    parts: list[StepOutcome] = []
    change = slab.NodeChange()
    low: Counter[str] = Counter()
    high: Counter[str] = Counter()
    for number in range(where.start // size, (where.end - 1) // size + 1):
        part = _within(step, number * size, (number + 1) * size)
        if part is None:
            continue
        single = len(worlds[number]) == 1
        tried = _try(context, worlds[number], part, generation, decided)
        outcomes = list(dict.fromkeys(outcome for _, outcome in tried))
        worlds[number] = tuple(dict.fromkeys(outcome.region for outcome in outcomes))
        change += _widest(
            slab.with_splits(
                slab.node_change([(before, after.region)], file_backed=file_backed, attributes=attributes),
                after.events,
                context.facts,
            )
            for before, after in tried
        )
        same, rest = _compare([outcome.events for outcome in outcomes])
        common += same
        sums = [_moved(events) for events in rest]
        if single and len(outcomes) == 2:
            choices.append((sums[0], sums[1]))
        else:
            open_windows += len(outcomes) > 1
            for counter, (least, most) in _hull(sums).items():
                low[counter] += least
                high[counter] += most
        perhaps += [event for events in rest for event in events]
        parts.append(_agreed(outcomes))
        if len({outcome.refused for outcome in outcomes}) > 1:
            return Followed(_together(worlds, common, parts), change, torn=f"{step.text()} fails in some cases only")
        if len(worlds[number]) > MOST_STATES:
            return Followed(_together(worlds, common, parts), change, torn="too many states are possible")
        if parts[-1].refused:
            break
    text = f"each window of {where} may have got a large folio or not: what either gives"
    among = (0, len(choices))
    if room and choices and not open_windows and wanted == (len(choices), len(choices)):
        among = room.gets(wanted)
        text = f"{among[0]} to {among[1]} of {len(choices)} windows of {where} get a large folio: {room.text}"
    for counter, (least, most) in _of_so_many(choices, *among).items():
        low[counter] += least
        high[counter] += most
    loose = tuple(Loose(counter, low[counter], high[counter], text) for counter in sorted({*low, *high}))
    return Followed(_together(worlds, common, parts), change, loose, tuple(perhaps), wanted=wanted)


def _wanted(context: Context, worlds: Worlds, step: Step, generation: int) -> tuple[int, int]:
    """Windows that ask for a large folio in every state, and in one of them at least."""
    (where,) = step.ranges()
    size = 1 << window_order(context.design, context.backing)
    surely = perhaps = 0
    for number in range(where.start // size, (where.end - 1) // size + 1):
        part = _within(step, number * size, (number + 1) * size)
        if part is None or not context.design.falls_back:
            continue
        lucky, unlucky = (replace(context, facts=replace(context.facts, large_folios=luck)) for luck in (True, False))
        rule = RANGE_RULES[type(step)]
        asks = [
            rule(lucky, state, part, generation) != rule(unlucky, state, part, generation) for state in worlds[number]
        ]
        surely, perhaps = surely + all(asks), perhaps + any(asks)
    return surely, perhaps


def _try(
    context: Context, states: Sequence[RegionState], step: Step, generation: int, decided: bool | None = None
) -> list[tuple[RegionState, StepOutcome]]:
    """Each state with each luck; the first is the first state with good luck.

    ``decided``: what the private side gets, where that is known.
    """
    found = []
    lucks = [replace(context, facts=facts) for facts in _lucks(context) if decided in (None, facts.large_folios)]
    for state in states:
        for tried in lucks:
            found.append((state, RANGE_RULES[type(step)](tried, state, step, generation)))
    return found


def unsure(design: Design, backing: Backing, facts: HostFacts) -> bool:
    """Whether an allocation of a large folio may fail on either side, and a smaller one is taken instead."""
    return (
        len(_outcomes(design.falls_back, facts.large_folios)) + len(_outcomes(backing.falls_back, facts.thp_available))
        > 2
    )


def _lucks(context: Context) -> list[HostFacts]:
    """What both sides may get, the best first."""
    private = _outcomes(context.design.falls_back, context.facts.large_folios)
    shared = _outcomes(context.backing.falls_back, context.facts.thp_available)
    return [replace(context.facts, large_folios=large, thp_available=huge) for large in private for huge in shared]


def _outcomes(falls_back: bool, known: bool | None) -> tuple[bool, ...]:
    return (True, False) if falls_back and known is not False else (known is not False,)


def _within(step: Step, first: int, end: int) -> Step | None:
    """The part of a step on pages ``first`` to ``end - 1``; None where it touches none of them."""
    (where,) = step.ranges()
    start = max(where.start, first)
    if isinstance(step, Touch):
        start = where.start + -(-(start - where.start) // step.stride) * step.stride
    count = min(where.end, end) - start
    if count < 1:
        return None
    part: Step = msgspec.structs.replace(step, range=PageRange(where.region, start, count))
    return part


def _compare(several: Sequence[tuple[Event, ...]]) -> tuple[list[Event], list[list[Event]]]:
    """Events that all have, and what each has besides."""
    if len(several) == 1:
        return list(several[0]), []
    shared = Counter(several[0])
    for events in several[1:]:
        shared &= Counter(events)
    rests = [list((Counter(events) - shared).elements()) for events in several]
    return list(shared.elements()), rests


def _moved(events: Iterable[Event]) -> Counter[str]:
    """What events move each counter by."""
    moved: Counter[str] = Counter()
    for event in events:
        for counter, difference in event.moves():
            moved[counter] += difference
        if event.kind.demand == "Movable":  # as blocks.post_movable_balance enters what all worlds have
            moved["movable_balance"] += event.pages * event.kind.moves.get("F", 0)
    return moved


def _hull(sums: Sequence[Counter[str]]) -> dict[str, tuple[int, int]]:
    """Least and most of each counter over the outcomes of a window."""
    names = {name for moved in sums for name in moved}
    return {name: (min(moved[name] for moved in sums), max(moved[name] for moved in sums)) for name in names}


def _of_so_many(
    choices: Sequence[tuple[Counter[str], Counter[str]]], least: int, most: int
) -> dict[str, tuple[int, int]]:
    """Least and most of each counter when ``least`` to ``most`` of the windows, whichever, have their first outcome."""
    names = {name for pair in choices for moved in pair for name in moved}
    found = {}
    for name in names:
        base = sum(bad[name] for _, bad in choices)
        gains = sorted(good[name] - bad[name] for good, bad in choices)
        counts = range(least, most + 1)
        low = min(base + sum(gains[:count]) for count in counts)
        high = max(base + sum(gains[len(gains) - count :]) for count in counts)
        found[name] = low, high
    return found


def _widest(changes: Iterable[slab.NodeChange]) -> slab.NodeChange:
    found = slab.NodeChange()
    for change in changes:
        found = slab.NodeChange(
            max(found.new, change.new),
            max(found.new_above, change.new_above),
            max(found.gone, change.gone),
            max(found.gone_above, change.gone_above),
        )
    return found


def _agreed(outcomes: Sequence[StepOutcome]) -> StepOutcome:
    """The first outcome; contents only where all worlds agree."""
    first = outcomes[0]
    same = all(outcome.contents == first.contents for outcome in outcomes)
    return first if same else replace(first, contents=())


def _together(
    worlds: Mapping[int, Sequence[RegionState]], events: list[Event], parts: list[StepOutcome]
) -> StepOutcome:
    """The windows as one region again."""
    states = [worlds[number][0] for number in sorted(worlds)]
    region = states[0]
    for state in states[1:]:
        region = _united(region, state)
    return StepOutcome(
        region,
        tuple(events),
        conversions=tuple(call for part in parts for call in part.conversions),
        contents=tuple(run for part in parts for run in part.contents),
        wrote=any(part.wrote for part in parts),
        refused=parts[-1].refused,
    )


def _only(region: RegionState, window: int) -> RegionState:
    """What a region's state says of the pages of ``window``."""
    chunks = chunks_of(window)
    kept: dict[str, object] = {}
    for known in fields(region):
        value = getattr(region, known.name)
        if isinstance(value, Blocks):
            kept[known.name] = value.touching(window)
        elif isinstance(value, Patterns):
            kept[known.name] = Patterns(tuple((g, held & window) for g, held in value.layers if held & window))
        elif isinstance(value, Parked):
            kept[known.name] = _parked_in(value, window)
        elif known.name != "chunks":
            kept[known.name] = value & (chunks if known.name == "tables" else window)
    return replace(region, **kept)  # type: ignore[arg-type]


def _parked_in(parked: Parked, window: int) -> Parked:
    singles = tuple(layer & window for layer in parked.singles if layer & window)
    return Parked(singles, tuple(folio for folio in parked.folios if window >> folio[1] & 1))


def _united(some: RegionState, more: RegionState) -> RegionState:
    """Two states that speak of different windows."""
    joined: dict[str, object] = {}
    for known in fields(some):
        one, other = getattr(some, known.name), getattr(more, known.name)
        if isinstance(one, Blocks):
            joined[known.name] = one.join(other)
        elif isinstance(one, Patterns):
            joined[known.name] = one.join(other.layers)
        elif isinstance(one, Parked):
            layers = zip_longest(one.singles, other.singles, fillvalue=0)
            joined[known.name] = Parked(tuple(a | b for a, b in layers), one.folios + other.folios)
        elif known.name != "chunks":
            joined[known.name] = one | other
    return replace(some, **joined)  # type: ignore[arg-type]
