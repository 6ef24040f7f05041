# SPDX-License-Identifier: GPL-2.0-only
"""The page of ``gmem model``: curves and predictions in one HTML file that needs no network and no other file.

plotly.js is written into the page as a whole.  Numbers and labels reach it as JSON in a script element that is never
executed; everything else goes through a template that escapes.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.report.model_terms import PLOTS, Line, Plot, Predicted, bounds, moved
from harness.report.pages import in_script, plotly, template
from harness.report.text import one_line

_ROWS: Final = 400
"""Rows of predictions of one design: more are in the JSON, and no phone scrolls further."""
_REASONS: Final = 12
_REASON_LENGTH: Final = 400
_DASHES: Final = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


@dataclass(frozen=True)
class ModelPage:
    """What the page shows."""

    question: str
    setting: Sequence[tuple[str, str]]
    """Names and values: scenario, guest, host, seed."""
    notes: Sequence[str]
    """What is unknown or assumed."""
    lines: Sequence[Line]
    predictions: Sequence[Predicted]


@dataclass(frozen=True)
class _Row:
    step: str
    counter: str
    predicted: str
    reasons: list[str]


def model_page(page: ModelPage) -> str:
    """The document."""
    return template("model.html.j2").render(
        page=page,
        plots=PLOTS,
        figures=in_script([_figure(plot, page.lines) for plot in PLOTS]),
        plotly=plotly() if page.lines else "",
        predictions=[(found, _rows(found)) for found in page.predictions],
    )


def _figure(plot: Plot, lines: Sequence[Line]) -> dict[str, Any]:
    """A figure as plotly.js reads it; a design has one colour, its variants differ in the dash."""
    designs = list(dict.fromkeys(line.curves.design.name for line in lines))
    several = {name: [line.label for line in lines if line.curves.design.name == name] for name in designs}
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": html.escape(one_line(line.label, 80)),
            "x": line.curves["conversions"].tolist(),
            "y": plot.scaled(line.curves).tolist(),
            "meta": designs.index(line.curves.design.name),
            "line": {
                "dash": _DASHES[several[line.curves.design.name].index(line.label) % len(_DASHES)],
                # the first is the widest, so that lines which lie on each other can all be seen
                "width": 2 + 2 * (len(designs) - 1 - designs.index(line.curves.design.name)),
            },
        }
        for line in lines
    ]
    return {"id": f"plot-{plot.column}", "title": plot.title, "traces": traces}


def _rows(found: Predicted) -> list[_Row]:
    rows = []
    for step in found.steps:
        name = f"{step.index} {step.step.text()}"
        for counter, prediction in moved(step).items():
            reasons = [one_line(str(reason), _REASON_LENGTH) for reason in prediction.reasons[:_REASONS]]
            if len(prediction.reasons) > _REASONS:
                reasons.append(f"and {len(prediction.reasons) - _REASONS} more")
            rows.append(_Row(name, counter, bounds(prediction), reasons))
        if not moved(step):
            rows.append(_Row(name, "", "0", ["nothing moves"]))
    return rows[:_ROWS]
