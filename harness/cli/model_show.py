# SPDX-License-Identifier: GPL-2.0-only
"""``gmem model`` on a terminal: curves as one line each, predictions as a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.model.prediction import StepPrediction
from harness.report.model_terms import PLOTS, Line, Predicted, bounds, moved, number

_BARS: Final = "▁▂▃▄▅▆▇█"
_WIDTH: Final = 40
"""Characters of a curve: what is left of an 80-column terminal beside names and numbers."""


def sparkline(values: Sequence[float], low: float, high: float, width: int = _WIDTH) -> str:
    """The values between ``low`` and ``high`` as ``width`` characters of eight heights.

    >>> sparkline([0, 1, 2, 3], 0, 3, width=4)
    '▁▃▆█'
    """
    places = np.linspace(0, len(values) - 1, width).round().astype(int)
    span = (high - low) or 1.0
    return "".join(_BARS[round((float(values[at]) - low) / span * (len(_BARS) - 1))] for at in places)


def console() -> Console:
    """Standard output as it is, 120 columns where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 120, markup=False, highlight=False)


def print_curves(out: Console, lines: Sequence[Line]) -> None:
    """A block per quantity, a line per curve, all lines of a block on one scale; still quantities in one sentence."""
    still = []
    for plot in PLOTS:
        values = [plot.scaled(line.curves) for line in lines]
        low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
        if low == high:
            still.append(f"{plot.title}: {number(low)}")
            continue
        table = Table(box=None, pad_edge=False, title=f"\n{plot.title}", title_justify="left", title_style="bold")
        for heading, justify in (("", "left"), ("begin", "right"), ("end", "right"), ("", "left")):
            table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for line, found in zip(lines, values, strict=True):
            curve = sparkline(found.tolist(), low, high)
            table.add_row(line.label, number(float(found[0])), number(float(found[-1])), curve)
        out.print(table)
    if still:
        out.print(Text(f"\nthe same in every line: {'; '.join(still)}"))
    for line in lines:
        if line.curves.ended:
            out.print(Text(f"{line.label}: {line.curves.ended}", style="yellow"))


def print_predictions(out: Console, found: Sequence[Predicted]) -> None:
    """What surely moves in each step, a column per design; all bounds and their reasons are on the page."""
    for design in found:
        if design.missing:
            out.print(Text(f"\nno prediction for {design.label}: {design.missing}", style="yellow"))
    known = [design for design in found if not design.missing]
    if not known:
        return
    table = Table(box=None, pad_edge=False, title="\nstep by step", title_justify="left", title_style="bold")
    table.add_column("STEP", overflow="fold")
    table.add_column("COUNTER", no_wrap=True)
    for design in known:
        table.add_column(design.label, justify="right", no_wrap=True)
    for steps in zip(*(design.steps for design in known), strict=True):
        name = f"{steps[0].index} {steps[0].step.text()}"
        for counter in _surely(steps) or [""]:
            table.add_row(name, counter, *(_cell(step, counter) for step in steps))
            name = ""
    out.print(table)
    out.print(Text("only what surely moves; why: gmem model --explain COUNTER --step N, or the page"))


def _surely(steps: Sequence[StepPrediction]) -> list[str]:
    """Counters that move in at least one of the designs whatever happens, sorted."""
    return sorted({name for step in steps for name, found in moved(step).items() if 0 not in found})


def _cell(step: StepPrediction, counter: str) -> str:
    if not counter:
        return "0"
    if counter in step.unpredicted:
        return "?"
    prediction = step.predictions.get(counter)
    return "-" if prediction is None else bounds(prediction)
