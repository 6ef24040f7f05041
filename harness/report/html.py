# SPDX-License-Identifier: GPL-2.0-only
"""The report for people: one HTML file that needs no network, no script and no other file.

The template escapes everything, and every single value is cleaned and bounded on its way into it (``finalize`` in
pages.py): what guests and kernels under test printed is data.  Amounts are bounded too; the rest stays in
``results.jsonl``.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from harness.guest.console import find_crash, read_console
from harness.report.claims_page import claims_section
from harness.report.claims_table import Table, inside
from harness.report.pages import template
from harness.report.plots import HEIGHT, WIDTH, Plot, counter_plots
from harness.report.summary import (
    KeyCounter,
    case_name,
    guest_kind_text,
    kernel_text,
    moves,
    observed_text,
    outside,
    ratio_text,
    sharpness_text,
    shrink_command,
    summarize,
)
from harness.report.text import bounded, clean, tail
from harness.run.result import CaseResult, CounterSharpness, Finding, RunInfo, StepResult
from harness.run.verdict import Verdict

_STEPS: Final = 200
_ROWS: Final = 200
_CONSOLES: Final = 8
_PASSING: Final = 40
"""Cases that pass and are shown step by step; of a run of hundreds, 50 kB each would make a page nobody can open."""
_BEFORE, _OOPS = 5, 100
"""Lines of a console that are shown before and after the one with which a crash begins; an oops has about 60."""
_WRONG: Final = 20
"""Cases that did not pass and are named before everything else."""
_OPEN: Final = frozenset({Verdict.CRASH, Verdict.NO_BOOT})
"""Verdicts whose cause is on a console."""
_CLOSED: Final = frozenset({Verdict.PASS, Verdict.XFAIL, Verdict.SKIP, Verdict.NOTHING_RAN})


@dataclass(frozen=True)
class _Console:
    name: str
    lines: list[str]
    oops: list[str] = field(default_factory=list)
    """What the console shows of a crash, from a few lines before it; it may be long before the end."""
    line: int = 0
    """Where the crash begins, from 1."""


@dataclass(frozen=True)
class _Row:
    """One finding as a row of a step's table."""

    finding: Finding
    observed: str
    outside: bool


@dataclass(frozen=True)
class _Step:
    step: StepResult
    rows: list[_Row]
    """Findings outside their prediction first, then those that were predicted to move."""
    still: list[str]
    """Counters that were predicted to stay, and did."""
    recorded: list[tuple[str, str]]
    messages: list[str]
    more: int
    """Rows and messages that were left out."""


@dataclass(frozen=True)
class _Case:
    case: CaseResult
    name: str
    anchor: str
    where: str
    counters: tuple[KeyCounter, ...]
    plots: list[Plot]
    steps: list[_Step]
    more_steps: int
    link: str
    consoles: list[_Console]
    smaller: str
    """The command that makes it small; '' where nothing was seen of the kernel, or no scenario is there."""
    open: bool
    open_consoles: bool


def html(info: RunInfo, cases: Sequence[CaseResult], out: Path, claims: Table | None = None) -> str:
    """The document.  ``out`` is the output directory: evidence is linked relative to it, consoles are read from it.

    ``claims``: the table of claims of this run, for a run that has cases about them.
    """
    told = [_case(number, case, out, info.same) for number, case in enumerate(cases, 1)]
    detailed = _detailed(told)
    return template("report.html.j2").render(
        info=info,
        counts="".join(f"{count} {word} · " for word, count in sorted(info.counts.items()) if count),
        facts=_facts(info),
        size=(WIDTH, HEIGHT),
        guest_kind=guest_kind_text(info.guest_kind),
        kernel=kernel_text(info),
        cases=told,
        detailed=detailed,
        wrong=[case for case in told if case.open],
        wrong_shown=_WRONG,
        anchors={case.anchor for case in detailed},
        sharp=_sharp(info),
        sharp_text=sharpness_text(info.sharpness),
        consoles=_run_consoles(cases, out),
        open_consoles=info.verdict in _OPEN,
        claims="" if claims is None else claims_section(claims, fold=True),
        curves=claims is not None and bool(claims.curves),
    )


def _detailed(cases: Sequence[_Case]) -> list[_Case]:
    """The cases that are shown step by step: all that did not pass, and the first that did."""
    passing = 0
    shown = []
    for case in cases:
        passing += not case.open
        if case.open or passing <= _PASSING:
            shown.append(case)
    return shown


@dataclass(frozen=True)
class _Sharp:
    """One counter's row in the table of sharpness."""

    row: CounterSharpness
    ratio: str
    poor: bool
    """Its intervals are wider than what it does in them."""


def _sharp(info: RunInfo) -> list[_Sharp]:
    rows = info.sharpness.counters[:_ROWS]
    return [_Sharp(row, ratio_text(row), bool(row.intervals) and (row.ratio or 2.0) > 1.0) for row in rows]


def _facts(info: RunInfo) -> list[tuple[str, list[tuple[str, str]]]]:
    """Sections of names and values, in the order a reader asks for them."""
    return [
        ("kernel under test", sorted(info.kernel.items())),
        ("design", [("design", info.design), *(("because", line) for line in info.design_evidence[:_ROWS])]),
        ("host under test", sorted(info.host.items())),
        ("QEMU", sorted(info.qemu.items())),
        (
            "run",
            [
                ("started", info.started),
                ("finished", info.finished),
                ("seed", str(info.seed)),
                ("command", shlex.join(info.command)),
            ],
        ),
        ("versions", sorted(info.versions.items())),
    ]


def _case(number: int, case: CaseResult, out: Path, same: Sequence[str]) -> _Case:
    summary = summarize(case)
    folder = inside(out, case.evidence)
    return _Case(
        case=case,
        name=case_name(case),
        anchor=f"case-{number}",
        where="" if summary.step is None else f"step {summary.step.index}",
        counters=summary.counters,
        plots=counter_plots(case),
        steps=[_step(step) for step in case.steps[:_STEPS]],
        more_steps=max(0, len(case.steps) - _STEPS),
        link="" if folder is None else "./" + quote(case.evidence.strip("/")) + "/",
        consoles=[] if folder is None else _consoles(folder, out, crashed=case.verdict in _OPEN),
        smaller="" if folder is None else shrink_command(case, folder, same),
        open=case.verdict not in _CLOSED,
        open_consoles=case.verdict in _OPEN,
    )


def _step(step: StepResult) -> _Step:
    rows = [_Row(finding, observed_text(finding.observed), outside(finding)) for finding in step.findings]
    rows.sort(key=lambda row: (not row.outside, row.finding.counter))
    loud = [row for row in rows if row.outside or moves(row.finding)]
    still = [row.finding.counter for row in rows if not (row.outside or moves(row.finding))]
    still += sorted(name for counters in step.still.values() for name in counters)
    recorded = [(name, f"{value:+d}") for name, value in sorted(step.recorded.items())]
    parts: list[Sequence[object]] = [loud, still, recorded, step.messages]
    return _Step(
        step=step,
        rows=loud[:_ROWS],
        still=still[:_ROWS],
        recorded=recorded[:_ROWS],
        messages=list(step.messages[:_ROWS]),
        more=sum(max(0, len(part) - _ROWS) for part in parts),
    )


def _consoles(folder: Path, out: Path, *, crashed: bool = False) -> list[_Console]:
    """The ends of all consoles in a folder of evidence, the host's first; with ``crashed`` the crash itself too."""
    found = sorted(folder.glob("*console*.txt"), key=lambda path: (path.name != "host-console.txt", path.name))
    consoles = []
    for path in found[:_CONSOLES]:
        try:
            if path.is_file() and path.resolve().is_relative_to(out.resolve()):
                oops, line = _oops(path) if crashed else ([], 0)
                consoles.append(_Console(path.relative_to(out.resolve()).as_posix(), tail(path), oops, line))
        except OSError as error:
            consoles.append(_Console(path.name, [f"(cannot be read: {error.strerror})"]))
    return consoles


def _oops(path: Path) -> tuple[list[str], int]:
    """The lines of a console around its first crash and the number of the line that shows it; nothing for none."""
    text = read_console(path)
    found = find_crash(text)
    if found is None:
        return [], 0
    first = max(0, found.line - 1 - _BEFORE)
    lines = clean(text).split("\n")[first : found.line + _OOPS]
    return [bounded(line.expandtabs()) for line in lines], found.line


def _run_consoles(cases: Sequence[CaseResult], out: Path) -> list[_Console]:
    """Consoles of evidence that belongs to no case: the boot of the host, and what came after the last case."""
    known = {inside(out, case.evidence) for case in cases}
    folders = sorted((out / "evidence").glob("*/")) if (out / "evidence").is_dir() else []
    resolved = (inside(out, folder.relative_to(out).as_posix()) for folder in folders)
    return [console for folder in resolved if folder and folder not in known for console in _consoles(folder, out)]
