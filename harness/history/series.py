# SPDX-License-Identifier: GPL-2.0-only
"""Reading series: their newest results, and where the present deviation began.

Each question reads the rows at the end of a series, by the primary key; what it costs depends on the number of series
and not on the number of runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, or_, select

from harness.errors import UsageError
from harness.history.database import History
from harness.history.judgement import DECIDED, WINDOW, CaseStatus, Quarantine, Result, Spell, judge
from harness.history.record import Line
from harness.history.tables import quarantine, results, runs, series
from harness.report.text import one_line
from harness.run.verdict import Verdict

_DECIDED: Final = sorted(verdict.value for verdict in DECIDED)
_GOOD: Final = (Verdict.PASS.value, Verdict.XFAIL.value)

_COLUMNS: Final = (
    results.c.place, results.c.verdict, results.c.signature, results.c.sentence, results.c.reason, results.c.seconds,
    runs.c.key, runs.c.started, runs.c.release, runs.c.build, runs.c.commit, runs.c.folder, results.c.evidence,
)  # fmt: skip
"""In the order of the fields of :class:`Result`."""


@dataclass(frozen=True)
class Wanted:
    """Which lines and cases are asked for; '' for all."""

    kernel: str = ""
    branch: str = ""
    host: str = ""
    case: str = ""
    since: str = ""
    """Only series with a result from this time on, as in ``Result.started``."""

    def conditions(self) -> list[ColumnElement[bool]]:
        """A kernel is found by its name, whatever patches it has."""
        found: list[ColumnElement[bool]] = []
        if self.kernel:
            found.append(
                or_(series.c.kernel == self.kernel, series.c.kernel.startswith(f"{self.kernel} + ", autoescape=True))
            )
        for name in ("branch", "host", "case"):
            if getattr(self, name):
                found.append(series.c[name] == getattr(self, name))
        return found


def statuses(
    history: History, wanted: Wanted | None = None, *, last: int = WINDOW, today: date
) -> tuple[CaseStatus, ...]:
    """The status of every case asked for, by line and case; raises :class:`UsageError` when there is none."""
    wanted = wanted or Wanted()
    with history.read() as connection:
        known = quarantines(connection)
        found = []
        for number, line, case in _numbers(connection, wanted):
            window = _newest(connection, number, last)
            if not window or window[-1].started < wanted.since:
                continue
            found.append(judge(line, case, window, _spell(connection, number, window), known, today))
    if not found:
        raise UsageError(f"{history.name} has no result of {_words(wanted)}: gmem history status shows all there are")
    return tuple(found)


def every_result(history: History, wanted: Wanted) -> Iterator[tuple[Line, list[Result]]]:
    """All results of a case, oldest first, line by line."""
    with history.read() as connection:
        for number, line, _ in _numbers(connection, wanted):
            rows = connection.execute(_ALL, {"series": number})
            yield line, [_result(row) for row in rows]


def quarantines(connection: Connection) -> list[Quarantine]:
    """All of them, expired ones too."""
    rows = connection.execute(select(quarantine).order_by(quarantine.c.id))
    return [
        Quarantine(
            number=row.id,
            case=row.case,
            signature=row.signature,
            kernel=row.kernel,
            branch=row.branch,
            host=row.host,
            reason=row.reason,
            link=row.link,
            until=date.fromisoformat(row.until),
        )
        for row in rows
    ]


def _numbers(connection: Connection, wanted: Wanted) -> list[tuple[int, Line, str]]:
    columns = (series.c.kernel, series.c.branch, series.c.host, series.c.guest, series.c.design)
    rows = connection.execute(select(series.c.id, series.c.case, *columns).where(*wanted.conditions()))
    found = [(row[0], Line(*row[2:]), row[1]) for row in rows]
    return sorted(found, key=lambda one: (one[1], one[2]))


def _of_series() -> Select[Any]:
    return (
        select(*_COLUMNS)
        .join_from(results, runs, results.c.run == runs.c.id)
        .where(results.c.series == bindparam("series"))
    )


_ALL: Final = _of_series().order_by(results.c.place)
_NEWEST: Final = _of_series().order_by(results.c.place.desc()).limit(bindparam("last"))
_OTHER: Final = (
    _of_series()
    .where(results.c.verdict.in_(_DECIDED), results.c.signature != bindparam("signature"))
    .order_by(results.c.place.desc())
    .limit(1)
)
"""The newest decided result that shows something else: the spell begins behind it."""
_FIRST: Final = (
    _of_series()
    .where(results.c.signature == bindparam("signature"), results.c.place > bindparam("after"))
    .order_by(results.c.place)
    .limit(1)
)
_LAST_GOOD: Final = (
    _of_series()
    .where(results.c.verdict.in_(_GOOD), results.c.place < bindparam("before"))
    .order_by(results.c.place.desc())
    .limit(1)
)


def _newest(connection: Connection, number: int, last: int) -> list[Result]:
    rows = connection.execute(_NEWEST, {"series": number, "last": last})
    return [_result(row) for row in rows][::-1]


def _spell(connection: Connection, number: int, window: Sequence[Result]) -> Spell | None:
    """Where the present deviation began: mostly within the window, else asked of the database."""
    decided = next((result for result in reversed(window) if result.verdict in DECIDED), None)
    if decided is None or not decided.deviates:
        return None
    same = {"series": number, "signature": decided.signature}
    other = next(
        (one for one in reversed(window) if one.verdict in DECIDED and one.signature != decided.signature), None
    ) or _one(connection, _OTHER, same)
    first = _one(connection, _FIRST, {**same, "after": other.place if other is not None else ""}) or decided
    return Spell(first, _one(connection, _LAST_GOOD, {"series": number, "before": first.place}))


def _one(connection: Connection, query: Select[Any], values: dict[str, Any]) -> Result | None:
    row = connection.execute(query, values).first()
    return None if row is None else _result(row)


def _result(row: Row[Any]) -> Result:
    place, verdict, *others = tuple[Any, ...](row)
    return Result(place, Verdict(verdict), *others)


def _words(wanted: Wanted) -> str:
    told = [f"{name} {one_line(value, 100)}" for name, value in vars(wanted).items() if value]
    return ", ".join(told) or "any case"
