# SPDX-License-Identifier: GPL-2.0-only
"""What ``gmem history`` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby

from harness.history.compare import Pair
from harness.history.judgement import CaseStatus, Result
from harness.history.status import Status, readings, shown, told
from harness.report.text import storable

_SPELLS = 50
"""Spells of one series that are shown, the newest."""


def status_lines(status: Status, everything: bool) -> Iterator[str]:
    """Line by line of the history: what is worth a look, or ``everything``."""
    cases = list(status.cases) if everything else shown(status)
    for line, members in groupby(sorted(cases, key=lambda case: case.line), key=lambda case: case.line):
        yield str(line)
        for case in members:
            mark = "  (in quarantine)" if case.quarantine is not None else ""
            yield f"  {case.verdict.value:<13} {case.case}{mark}"
            if not everything or case.spell is not None or case.newest is not case.decided:
                yield from (f"  {'':<13}   {text}" for text in told(case))
        yield ""
    counts = ", ".join(f"{count} {word}" for word, count in readings(status.cases).items())
    yield f"cases:   {counts}"
    yield f"verdict: {status.verdict.value} (exit code {status.verdict.exit_code}): {status.sentence}"


def series_lines(case: CaseStatus, results: Sequence[Result]) -> Iterator[str]:
    """One case on one line: the status, then its spells, newest first."""
    yield f"{case.line}: {case.case}"
    for text in told(case):
        yield f"  {text}"
    spells = [list(members) for _, members in groupby(results, key=lambda one: one.signature or one.verdict.value)]
    for spell in spells[::-1][:_SPELLS]:
        first, last = spell[0], spell[-1]
        when = first.started if first is last else f"{first.started} .. {last.started}"
        kernels = first.kernel if first.kernel == last.kernel else f"{first.kernel} .. {last.kernel}"
        yield f"  {last.verdict.value:<13} {len(spell):>5} x  {when}  {kernels}"
        if last.sentence:
            yield f"  {'':<13}          {last.sentence}"
        if last.reason:
            yield f"  {'':<13}          {last.reason}"
        if last.deviates:
            yield f"  {'':<13}          {last.folder}/{last.evidence}"
    if len(spells) > _SPELLS:
        yield f"  {len(spells) - _SPELLS} older spells"
    yield ""


def change_lines(pair: Pair) -> Iterator[str]:
    """Two runs of the history."""
    yield f"A: {pair.a}"
    yield f"B: {pair.b}"
    for change in pair.changes:
        yield f"{change.case}: {change.a or 'not there'} -> {change.b or 'not there'}"
        if change.sentence:
            yield f"  {change.sentence}"
    before, after = pair.seconds
    yield f"{pair.same} cases say the same, {len(pair.changes)} do not; {before:.1f} s -> {after:.1f} s"


def as_json(status: Status) -> str:
    """All cases, as one object."""
    plain = {
        "verdict": status.verdict.value,
        "exit_code": status.verdict.exit_code,
        "sentence": status.sentence,
        "today": status.today.isoformat(),
        "cases": [_plain(case) for case in status.cases],
    }
    return json.dumps(storable(plain), sort_keys=True, ensure_ascii=False)


def _plain(case: CaseStatus) -> dict[str, object]:
    good = case.spell.last_good if case.spell is not None else None
    return {
        **vars(case.line),
        "case": case.case,
        "verdict": case.verdict.value,
        "signature": case.decided.signature if case.decided is not None else "",
        "since": _point(case.spell.first if case.spell is not None else None),
        "last_good": _point(good),
        "newest": _point(case.newest),
        "deviating": case.rate.deviating,
        "decided": case.rate.of,
        "rate_low": round(case.rate.low, 6),
        "rate_high": round(case.rate.high, 6),
        "flaky": case.flaky,
        "undecided": case.undecided,
        "quarantine": None
        if case.quarantine is None
        else {
            "reason": case.quarantine.reason,
            "link": case.quarantine.link,
            "until": case.quarantine.until.isoformat(),
        },
    }


def _point(result: Result | None) -> dict[str, str] | None:
    if result is None:
        return None
    return {
        "started": result.started,
        "run": result.run,
        "commit": result.commit,
        "build": result.build,
        "release": result.release,
        "folder": result.folder,
        "verdict": result.verdict.value,
        "sentence": result.sentence,
    }
