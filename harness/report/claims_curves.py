# SPDX-License-Identifier: GPL-2.0-only
"""Curves for the table of claims, from what runs recorded: predicted and observed, one plot for each claim and counter.

They come from three places: the steps of a long case, summed up over its conversions, with nothing asked of the suite;
tells that have a place on an axis, one point for each case; and curves that a case recorded itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from harness.report.claims import CLAIMS, Claim
from harness.report.series import Series
from harness.report.summary import case_name
from harness.run.result import CaseResult
from harness.run.tell import value

CONVERSIONS: Final = "conversions"
_ENOUGH: Final = 4
"""Points that make a curve: there, back and there again is a case like any other."""
_POINTS: Final = 2000
"""Points of one line: a phone is 400 wide."""

Number = float | None


class CurveLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a plot: a case, or the cases of a claim, in one run.  All four have the same length."""

    run: str
    case: str
    x: tuple[float, ...]
    observed: tuple[Number, ...]
    low: tuple[Number, ...]
    high: tuple[Number, ...]


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """One plot."""

    claim: str
    counter: str
    axis: str
    lines: tuple[CurveLine, ...]


Told = tuple[str, Sequence[CaseResult], Sequence[Series]]
"""Label of a run, its cases, the curves that they recorded."""


def curves(runs: Sequence[Told]) -> tuple[Curve, ...]:
    """All plots, in the order of the claims; a counter that no run moves or predicts to move makes none."""
    found: dict[tuple[str, str, str], list[CurveLine]] = {}
    for claim in CLAIMS:
        for label, cases, series in runs:
            about = [case for case in cases if case.claim_id == claim.id]
            recorded = [one for one in series if one.claim_id == claim.id]
            lines = [*_over_steps(claim, label, about), *_over_cases(label, about), *_recorded(label, recorded)]
            for counter, axis, line in lines:
                found.setdefault((claim.id, counter, axis), []).append(line)
    return tuple(
        Curve(claim=claim, counter=counter, axis=axis, lines=tuple(lines))
        for (claim, counter, axis), lines in found.items()
        if any(number for line in lines for part in (line.observed, line.low, line.high) for number in part)
    )


_Line = tuple[str, str, CurveLine]
"""Counter, axis, line."""


def _over_steps(claim: Claim, label: str, cases: Sequence[CaseResult]) -> Iterator[_Line]:
    for case in cases:
        for counter in claim.curves:
            line = cumulated(label, case, counter)
            if len(line.x) >= _ENOUGH:
                yield counter, CONVERSIONS, line


def cumulated(label: str, case: CaseResult, counter: str) -> CurveLine:
    """A counter summed up over the steps of a case, by the number of conversions that the guest has asked for.

    Each point stands at the end of what follows a conversion, before the next one.  The bound at a point is the sum of
    the bounds up to it, so it widens; a step without a prediction ends the predicted line, not the observed one.
    """
    points: dict[int, tuple[int | None, int | None, int]] = {}
    low: int | None = 0
    high: int | None = 0
    observed = conversions = 0
    for step in case.steps:
        least, most, seen = value(step, counter)
        conversions += step.conversions
        observed += seen or 0
        low = None if low is None or least is None else low + least
        high = None if high is None or most is None else high + most
        points[conversions] = low, high, observed
    rows = _thinned(list(points.items()))
    return CurveLine(
        run=label,
        case=case_name(case),
        x=tuple(float(place) for place, _ in rows),
        low=tuple(row[0] for _, row in rows),
        high=tuple(row[1] for _, row in rows),
        observed=tuple(row[2] for _, row in rows),
    )


_Point = tuple[int, tuple[int | None, int | None, int]]
"""Conversions so far; lowest, highest, observed."""


def _thinned(rows: list[_Point]) -> list[_Point]:
    """At most ``_POINTS`` rows, the first and the last among them."""
    every = -(-len(rows) // _POINTS) or 1
    kept = rows[::every]
    return kept if not rows or kept[-1] is rows[-1] else [*kept, rows[-1]]


def _over_cases(label: str, cases: Sequence[CaseResult]) -> Iterator[_Line]:
    """Tells with a place on an axis: a line through the cases of one suite."""
    points: dict[tuple[str, str, str], list[tuple[float, Number, Number, Number]]] = {}
    for case in cases:
        for told in case.tells:
            if told.x is not None:
                row = (told.x, told.low, told.high, told.observed)
                points.setdefault((told.counter, told.axis, case.suite), []).append(row)
    for (counter, axis, suite), rows in points.items():
        rows.sort(key=lambda row: row[0])
        x, low, high, observed = zip(*rows, strict=True)
        yield counter, axis, CurveLine(run=label, case=suite, x=x, low=low, high=high, observed=observed)


def _recorded(label: str, series: Sequence[Series]) -> Iterator[_Line]:
    for one in series:
        nothing: tuple[Number, ...] = (None,) * len(one.x)
        line = CurveLine(
            run=label,
            case=f"{one.suite}/{one.case}",
            x=one.x,
            low=one.low or nothing,
            high=one.high or nothing,
            observed=one.observed,
        )
        yield one.name, one.axis, line
