# SPDX-License-Identifier: GPL-2.0-only
"""Counters over the steps of a case, drawn as SVG within the page: no script, a few kilobytes a case.

A plot shows where a counter stood relative to the beginning of the case.  Each step has a box, from the level that the
step before it left: the bounds that the model predicted for this step; and a dot: what was observed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from harness.report.summary import counter_rank, moves, observed_text, outside
from harness.report.text import one_line
from harness.run.result import CaseResult, Finding, StepResult

PLOTS: Final = 6
"""Counters of one case: those that a reader looks for first."""
STEPS: Final = 60
"""Steps of one plot; its dots would touch each other with more."""
WIDTH, HEIGHT = 320, 130
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 10, 18
_BOX: Final = 3.0
"""Least height of a box: the prediction of one value is a line."""


@dataclass(frozen=True)
class Mark:
    """One step in a plot, in the units of its viewBox."""

    x: float
    left: float
    width: float
    top: float | None
    """Of the box; None for a step without a prediction."""
    height: float
    y: float | None
    """Of the dot; None for a counter that was not observed."""
    outside: bool
    text: str
    """Shown when a pointer rests on it."""


@dataclass(frozen=True)
class Plot:
    """One counter."""

    counter: str
    low: str
    high: str
    """Labels of the axis at the bottom and at the top."""
    zero: float
    """Where the level of the beginning is."""
    path: str
    """Of the line through the dots."""
    marks: tuple[Mark, ...]
    first: int
    last: int
    """Steps at the ends of the axis."""
    outside: bool


def counter_plots(case: CaseResult, most: int = PLOTS) -> list[Plot]:
    """The counters that left their bounds, then those that were predicted to move or did; nothing for none."""
    steps = [step for step in case.steps if step.findings or step.still][:STEPS]
    worth: dict[str, bool] = {}
    for step in steps:
        for finding in step.findings:
            if outside(finding) or moves(finding) or finding.observed:
                worth[finding.counter] = worth.get(finding.counter, False) or outside(finding)
    ordered = sorted(worth, key=lambda name: (not worth[name], counter_rank(name)))
    return [_plot(name, steps, worth[name]) for name in ordered[:most]]


@dataclass(frozen=True)
class _Point:
    step: StepResult
    finding: Finding | None
    before: int
    after: int | None


def _plot(counter: str, steps: Sequence[StepResult], wrong: bool) -> Plot:
    points = _points(counter, steps)
    values = [0]
    for point in points:
        values += [] if point.after is None else [point.after]
        if point.finding is not None:
            values += [point.before + point.finding.low, point.before + point.finding.high]
    low, high = min(values), max(values)
    span = max(high - low, 1)

    def height(value: float) -> float:
        return round(_TOP + (high - value) / span * (HEIGHT - _TOP - _BOTTOM), 1)

    room = (WIDTH - _LEFT - _RIGHT) / max(len(points), 1)
    marks = tuple(_mark(point, _LEFT + room * (number + 0.5), room, height) for number, point in enumerate(points))
    return Plot(
        counter=one_line(counter, 60),
        low=f"{low:+d}",
        high=f"{high:+d}",
        zero=height(0),
        path=_path(marks),
        marks=marks,
        first=steps[0].index,
        last=steps[-1].index,
        outside=wrong,
    )


def _points(counter: str, steps: Sequence[StepResult]) -> list[_Point]:
    found, level = [], 0
    for step in steps:
        finding = next((one for one in step.findings if one.counter == counter), None)
        still = any(counter in names for names in step.still.values())
        moved = finding.observed if finding is not None else 0 if still else step.recorded.get(counter)
        found.append(_Point(step, finding, level, None if moved is None else level + moved))
        level += moved or 0
    return found


def _mark(point: _Point, x: float, room: float, height: Callable[[float], float]) -> Mark:
    finding, width = point.finding, min(room * 0.8, 26.0)
    top: float | None = None
    bottom: float | None = None
    if finding is not None:
        top, bottom = height(point.before + finding.high), height(point.before + finding.low)
        if bottom - top < _BOX:
            top, bottom = (top + bottom - _BOX) / 2, (top + bottom + _BOX) / 2
    said = f"predicted {finding.predicted}, observed {observed_text(finding.observed)}" if finding else "not predicted"
    return Mark(
        x=round(x, 1),
        left=round(x - width / 2, 1),
        width=round(width, 1),
        top=None if top is None else round(top, 1),
        height=0.0 if top is None or bottom is None else round(bottom - top, 1),
        y=None if point.after is None else height(point.after),
        outside=finding is not None and outside(finding),
        text=f"step {point.step.index}: {said}",
    )


def _path(marks: Sequence[Mark]) -> str:
    """The line breaks where nothing was observed."""
    words, pen = [], "M"
    for mark in marks:
        if mark.y is None:
            pen = "M"
            continue
        words.append(f"{pen}{mark.x} {mark.y}")
        pen = "L"
    return "".join(words)
