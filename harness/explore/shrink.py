# SPDX-License-Identifier: GPL-2.0-only
"""Makes a scenario as small as it can be while a kernel still shows the same thing.

Half a second for each try, so what promises most comes first, and nothing is tried twice:

1. steps: those behind the one that deviates, then halves, quarters, ... of the others, then single ones;
2. guests that no step names;
3. what makes a step particular: conversions in pieces, strides, placement;
4. ranges, those of all steps at once: pages between two borders that steps name are left out, so that what was equal,
   adjoined or overlapped still does;
5. ranges one by one: that of another step, a single page, a half, a part up to where another one begins or ends.

Rounds of all five until one changes nothing.  The order is fixed: the same scenario and the same answers give the same
smallest one.  Pure but for the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from harness.errors import UsageError
from harness.scenario.scenario import Scenario
from harness.scenario.steps import CHUNK_PAGES, Convert, PageRange, Place, Step, Touch

Shows = Callable[[Scenario], bool]
"""Whether a scenario still shows the same thing.  Trouble of the testbed counts as no."""


class OutOfBudget(Exception):
    """Raised by a :data:`Shows` that may not try any more."""


def shrink(scenario: Scenario, shows: Shows, *, keep: Callable[[Scenario], None] = lambda smaller: None) -> Scenario:
    """The smallest scenario found that still shows it; ``keep`` is told of each smaller one that does.

    ``shows`` may raise :class:`OutOfBudget`: then the smallest one so far is returned.
    """
    best = scenario
    tried = {_key(scenario)}

    def smaller(passes: Callable[[Scenario], Iterator[Scenario]]) -> Scenario | None:
        """The first candidate of a pass that shows it."""
        for candidate in passes(best):
            if _key(candidate) in tried or not _valid(candidate):
                continue
            tried.add(_key(candidate))
            if shows(candidate):
                return candidate
        return None

    try:
        again = True
        while again:
            again = False
            for one in _PASSES:
                while (found := smaller(one)) is not None:
                    best, again = found, True
                    keep(best)
    except OutOfBudget:
        pass
    return best


def _key(scenario: Scenario) -> tuple[int, tuple[Step, ...]]:
    return scenario.guests, scenario.steps


def _valid(scenario: Scenario) -> bool:
    try:
        scenario.check()
    except UsageError:
        return False
    return bool(scenario.steps)


def _with(scenario: Scenario, steps: tuple[Step, ...], guests: int | None = None) -> Scenario:
    return msgspec.structs.replace(scenario, steps=steps, guests=guests or scenario.guests)


def _fewer_steps(scenario: Scenario) -> Iterator[Scenario]:
    """Without a half, a quarter, ... one of the steps; the last one, which shows it, goes last."""
    steps = scenario.steps
    size = len(steps) // 2
    while size:
        for start in range(0, len(steps), size):
            yield _with(scenario, steps[:start] + steps[start + size :])
        size //= 2


def _fewer_guests(scenario: Scenario) -> Iterator[Scenario]:
    """Without guests that no step names; the others get the lowest numbers."""
    named = sorted({name for step in scenario.steps for name in step.guest_names()}, key=lambda name: int(name[1:]))
    count = max(1, len(named))
    if count < scenario.guests:
        numbers = {old: f"g{new}" for new, old in enumerate(named)}
        yield _with(scenario, tuple(_renamed(step, numbers) for step in scenario.steps), count)


def _renamed(step: Step, numbers: dict[str, str]) -> Step:
    """The step with guests called otherwise."""
    if (pages := _range(step)) is not None:
        region = f"{numbers[pages.guest]}.{pages.region.partition('.')[2]}"
        return _at(step, PageRange(region, pages.start, pages.count))
    names = step.guest_names()
    return msgspec.structs.replace(step, guest=numbers[names[0]]) if names else step


def _plainer_steps(scenario: Scenario) -> Iterator[Scenario]:
    """One step done in the usual way: whole chunks by a hypercall, every page, on CPU 0."""
    for index, step in enumerate(scenario.steps):
        plain: Step = step
        if isinstance(step, Convert):
            plain = msgspec.structs.replace(step, by=CHUNK_PAGES)
        elif isinstance(step, Touch):
            plain = msgspec.structs.replace(step, stride=1)
        elif isinstance(step, Place):
            plain = msgspec.structs.replace(step, cpu=0)
        if plain != step:
            yield _replaced(scenario, index, plain)


def _closer_ranges(scenario: Scenario) -> Iterator[Scenario]:
    """Pages between two borders of ranges left out everywhere: all of them, all but one, or half.

    Then everything moved to the beginning of the region by whole chunks, which keeps what is aligned.
    """
    ranges = [pages for step in scenario.steps if (pages := _range(step)) is not None]
    borders = sorted({border for pages in ranges for border in (pages.start, pages.end)})
    first = borders[0] // CHUNK_PAGES * CHUNK_PAGES if borders else 0
    if first:
        yield moved(scenario, lambda page: page - first)
    for low, high in zip([0, *borders], borders, strict=False):
        least = 1 if low in borders else 0  # what lies between two borders may be a range
        for rest in dict.fromkeys((least, max(least, (high - low) // 2))):
            if rest < high - low:
                yield moved(scenario, partial(_left_out, high=high, pages=high - low - rest))


def _left_out(page: int, *, high: int, pages: int) -> int:
    """Where a border is once ``pages`` pages below ``high`` are left out."""
    return page - pages if page >= high else page


def moved(scenario: Scenario, place: Callable[[int], int]) -> Scenario:
    """The scenario with every border (a page number) of its ranges at another place."""
    steps = []
    for step in scenario.steps:
        if (pages := _range(step)) is not None:
            start, end = place(pages.start), place(pages.end)
            step = _at(step, PageRange(pages.region, start, end - start))
        steps.append(step)
    return _with(scenario, tuple(steps))


def _smaller_ranges(scenario: Scenario) -> Iterator[Scenario]:
    """One range that of another step, where that is smaller or lies before it; or a part of it."""
    ranges = [pages for step in scenario.steps if (pages := _range(step)) is not None]
    for index, step in enumerate(scenario.steps):
        pages = _range(step)
        if pages is None:
            continue
        for other in dict.fromkeys(ranges):
            if other.region == pages.region and (other.count, other.start) < (pages.count, pages.start):
                yield _replaced(scenario, index, _at(step, other))
        if pages.count == 1:
            continue
        middle = pages.start + pages.count // 2
        ends = {border for other in ranges for border in (other.start, other.end)}
        cuts = [middle, *sorted(border for border in ends if pages.start < border < pages.end)]
        parts = [(pages.start, pages.start + 1)]
        parts += [part for cut in cuts for part in ((pages.start, cut), (cut, pages.end))]
        for start, end in dict.fromkeys(parts):
            yield _replaced(scenario, index, _at(step, PageRange(pages.region, start, end - start)))


def _replaced(scenario: Scenario, index: int, step: Step) -> Scenario:
    return _with(scenario, (*scenario.steps[:index], step, *scenario.steps[index + 1 :]))


def _range(step: Step) -> PageRange | None:
    """The one range that a step names, if it names any."""
    ranges = step.ranges()
    return ranges[0] if ranges else None


def _at(step: Step, pages: PageRange) -> Step:
    """The step on another range."""
    return msgspec.structs.replace(step, range=pages)


_PASSES: tuple[Callable[[Scenario], Iterator[Scenario]], ...] = (
    _fewer_steps,
    _fewer_guests,
    _plainer_steps,
    _closer_ranges,
    _smaller_ranges,
)
