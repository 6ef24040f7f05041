# SPDX-License-Identifier: GPL-2.0-only
"""The status as a page: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final
from urllib.parse import quote

from harness.history.judgement import CaseStatus, Result
from harness.history.record import DEVIATIONS, Line
from harness.history.status import Status, decides, readings, told
from harness.report.pages import template
from harness.run.verdict import Verdict

_STRIP: Final = 40
"""Newest results of a case that are drawn."""
_DEVIATIONS: Final = 300
_LINES: Final = 300
_HOSTS: Final = 40
_CASES: Final = 400
"""What a page shows of each kind; more would be a page that nobody opens, and --json has all."""
_GOOD: Final = (Verdict.PASS, Verdict.XFAIL)


@dataclass(frozen=True)
class _Part:
    """Neighbouring results of a strip that are drawn alike."""

    kind: str
    marks: str


@dataclass(frozen=True)
class _Case:
    status: CaseStatus
    told: list[str]
    strip: list[_Part]
    report: str
    """Address of the report of the newest run that shows the deviation; '' for none."""
    link: str
    """Address of the quarantine; only of http and https."""


@dataclass(frozen=True)
class _GridRow:
    """A kernel as one guest kind and design judges it, on every host."""

    name: str
    cells: list[Verdict | None]
    """By host; None where it never ran."""


@dataclass(frozen=True)
class _Line:
    line: Line
    counts: str
    cases: list[_Case]
    more: int
    open: bool


def status_page(status: Status, folder: Path) -> str:
    """The document; links to the reports of runs are relative to ``folder``, the one that the page is written into."""
    lines = [
        _line(line, list(members), folder)
        for line, members in groupby(
            sorted(status.cases, key=lambda one: (one.line, one.case)), key=lambda one: one.line
        )
    ]
    lines.sort(key=lambda line: not line.open)
    hosts = sorted({case.line.host for case in status.cases})[:_HOSTS]
    return template("history.html.j2").render(
        status=status,
        verdict=status.verdict,
        counts=_counts(status.cases),
        hosts=hosts,
        grid=_grid(status.cases, hosts) if len(lines) > 1 else [],
        sections=[
            ("Deviations", [_case(case, folder) for case in status.deviating[:_DEVIATIONS]], len(status.deviating)),
            (
                "In quarantine",
                [_case(case, folder) for case in status.quarantined[:_DEVIATIONS]],
                len(status.quarantined),
            ),
            ("Undecided", [_case(case, folder) for case in status.undecided[:_DEVIATIONS]], len(status.undecided)),
            ("Flaky, and passing now", [_case(case, folder) for case in status.flaky[:_DEVIATIONS]], len(status.flaky)),
        ],
        lines=lines[:_LINES],
        more=max(0, len(lines) - _LINES),
    )


def _grid(cases: Sequence[CaseStatus], hosts: Sequence[str]) -> list[_GridRow]:
    """The worst of what decides, for each kernel and host."""
    found: dict[str, dict[str, list[Verdict]]] = {}
    for case in cases:
        kernel = case.line.kernel + (f" ({case.line.branch})" if case.line.branch else "")
        row = found.setdefault(f"{kernel}, {case.line.guest}, {case.line.design}", {})
        row.setdefault(case.line.host, []).extend(case.deciding)
    return [
        _GridRow(name, [decides(row[host]) if host in row else None for host in hosts])
        for name, row in sorted(found.items())[:_LINES]
    ]


def _counts(cases: Sequence[CaseStatus]) -> str:
    return ", ".join(f"{count} {word}" for word, count in readings(cases).items())


def _line(line: Line, cases: list[CaseStatus], folder: Path) -> _Line:
    loud = any(case.spell is not None and case.quarantine is None for case in cases)
    return _Line(
        line, _counts(cases), [_case(case, folder) for case in cases[:_CASES]], max(0, len(cases) - _CASES), loud
    )


def _case(case: CaseStatus, folder: Path) -> _Case:
    decided = case.decided
    return _Case(
        status=case,
        told=told(case),
        strip=_strip(case),
        report=_report(decided, folder) if decided is not None and decided.deviates else "",
        link="" if case.quarantine is None else case.quarantine.link,
    )


def _strip(case: CaseStatus) -> list[_Part]:
    window = case.window[-_STRIP:]
    return [_Part(kind, _MARKS[kind] * len(list(members))) for kind, members in groupby(map(_kind, window))]


_MARKS: Final = {"good": "·", "bad": "×", "odd": "?", "none": "-"}


def _kind(verdict: Verdict) -> str:
    if verdict in DEVIATIONS:
        return "bad"
    return "good" if verdict in _GOOD else "none" if verdict in (Verdict.SKIP, Verdict.NOTHING_RAN) else "odd"


def _report(result: Result, folder: Path) -> str:
    """A relative address, which can name no other scheme."""
    if not result.folder:
        return ""
    path = os.path.relpath(result.folder, folder)
    return "./" + quote(f"{path}/report.html")
