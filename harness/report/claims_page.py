# SPDX-License-Identifier: GPL-2.0-only
"""The table of claims as HTML: a section of ``report.html``, and a page with the curves; both work offline."""

from __future__ import annotations

import html
from typing import Any, Final
from urllib.parse import quote

from markupsafe import Markup

from harness.report.claims_curves import Curve, CurveLine
from harness.report.claims_table import Table
from harness.report.pages import in_script, plotly, template
from harness.report.text import one_line

_CASES: Final = 30
"""Cases of one cell, and numbers of one case; ``claims.json`` has all."""
_LINES: Final = 40
"""Lines of one plot."""
_DASHES: Final = ("solid", "dash", "dashdot", "longdash", "longdashdot")


def claims_section(table: Table, *, fold: bool = False) -> Markup:
    """The table; the page around it defines the colours.  ``fold``: claims that no run decides are folded away."""
    untold = [row for row in table.claims if fold and not any(cell.verdict for cell in row.cells)]
    told = [row for row in table.claims if row not in untold]
    page = template("claims_table.html.j2")
    return Markup(page.render(table=table, told=told, untold=untold, shown=_CASES, link=_link))


def claims_page(table: Table) -> str:
    """The document."""
    figures = [_figure(number, curve) for number, curve in enumerate(table.curves)]
    return template("claims.html.j2").render(
        table=table,
        guests=list(dict.fromkeys(run.guest for run in table.runs)),
        claims=claims_section(table),
        link=_link,
        figures=figures,
        data=in_script(figures),
        plotly=plotly() if figures else "",
    )


def _link(folder: str) -> str:
    """A relative folder as an address; it can name no other scheme, whatever it is called."""
    return "./" + quote(folder.strip("/")) + "/"


def _figure(number: int, curve: Curve) -> dict[str, Any]:
    runs = list(dict.fromkeys(line.run for line in curve.lines))
    cases = list(dict.fromkeys(line.case for line in curve.lines))
    traces = [
        trace
        for line in curve.lines[:_LINES]
        for trace in _traces(line, runs.index(line.run), _DASHES[cases.index(line.case) % len(_DASHES)])
    ]
    return {
        "id": f"curve-{number}",
        "claim": curve.claim,
        "counter": one_line(curve.counter, 80),
        "axis": html.escape(one_line(curve.axis, 80)),
        "traces": traces,
    }


def _traces(line: CurveLine, colour: int, dash: str) -> list[dict[str, Any]]:
    """The bounds as two dotted lines with the room between them filled, and what was measured on top.

    A run has one colour, and a case one dash.
    """
    name = html.escape(one_line(f"{line.run}: {line.case}", 120))
    usual: dict[str, Any] = {"type": "scatter", "x": line.x, "meta": colour, "legendgroup": f"{colour} {name}"}
    bound = {**usual, "mode": "lines", "showlegend": False}
    dotted = {"dash": "dot", "width": 1}
    low = {**bound, "y": line.low, "name": f"{name}: lowest predicted", "line": {**dotted}}
    high = {**bound, "y": line.high, "name": f"{name}: highest predicted", "line": {**dotted}, "fill": "tonexty"}
    measured = {**usual, "mode": "lines+markers", "y": line.observed, "name": name, "marker": {"size": 4}}
    measured["line"] = {"width": 2, "dash": dash}
    return [low, high, measured] if any(number is not None for number in line.low) else [measured]
