# SPDX-License-Identifier: GPL-2.0-only
"""Two runs of the history against each other: verdicts, deviations, and the time that cases took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, or_, select

from harness.errors import UsageError
from harness.history.database import History
from harness.history.tables import results, runs, series
from harness.report.text import one_line


@dataclass(frozen=True)
class Change:
    """A case that is not the same in both; '' for a run that does not have it."""

    case: str
    a: str
    b: str
    sentence: str


@dataclass(frozen=True)
class Pair:
    """What two runs have in common, and do not."""

    a: str
    b: str
    same: int
    changes: tuple[Change, ...]
    seconds: tuple[float, float]
    """Of the cases that both have, summed."""


def compare_runs(history: History, a: str, b: str) -> Pair:
    """``a`` and ``b`` name runs: the beginning of an identity or of a commit, or the folder that was added.

    Of several with the same commit or folder the newest.  Raises :class:`UsageError` for a name that none has.
    """
    with history.read() as connection:
        first, second = _find(connection, a), _find(connection, b)
        ours, theirs = _cases(connection, first.id), _cases(connection, second.id)
    changes = []
    for case in sorted(ours.keys() | theirs.keys()):
        x, y = ours.get(case), theirs.get(case)
        before, after = _says(x), _says(y)
        if before != after:
            changes.append(Change(case, before, after, (y or x or _NONE).sentence))
    both = ours.keys() & theirs.keys()
    return Pair(
        a=_label(first),
        b=_label(second),
        same=sum(_says(ours[case]) == _says(theirs[case]) for case in both),
        changes=tuple(changes),
        seconds=(sum(ours[case].seconds for case in both), sum(theirs[case].seconds for case in both)),
    )


@dataclass(frozen=True)
class _Case:
    verdict: str
    signature: str
    sentence: str
    seconds: float


_NONE = _Case("", "", "", 0.0)


def _says(case: _Case | None) -> str:
    return "" if case is None else case.signature or case.verdict


def _find(connection: Connection, name: str) -> Row[Any]:
    """The newest run of that name."""
    if not name:
        raise UsageError("a run is named by its identity, its commit or its folder, and '' is none")
    found = connection.execute(
        select(runs)
        .where(
            or_(
                runs.c.key.startswith(name, autoescape=True),
                runs.c.commit.startswith(name, autoescape=True),
                runs.c.folder.in_([name.rstrip("/"), str(Path(name).resolve())]),
            )
        )
        .order_by(runs.c.started.desc(), runs.c.key)
        .limit(1)
    ).first()
    if found is None:
        raise UsageError(f"the history has no run {one_line(name, 200)!r}: gmem history runs lists them")
    return found


def _cases(connection: Connection, run: int) -> dict[str, _Case]:
    """Of repetitions of a case the last."""
    rows = connection.execute(
        select(series.c.case, results.c.verdict, results.c.signature, results.c.sentence, results.c.seconds)
        .join_from(results, series, results.c.series == series.c.id)
        .where(results.c.run == run)
        .order_by(results.c.place)
    )
    return {row[0]: _Case(*row[1:]) for row in rows}


def _label(run: Row[Any]) -> str:
    commit = f" {run.commit[:12]}" if run.commit else ""
    return f"{run.key[:12]} {run.started} {run.release} [{run.kernel}]{commit} as {run.design} on {run.host}"


def newest_runs(history: History, count: int) -> list[str]:
    """A line for each of the newest runs."""
    with history.read() as connection:
        rows = connection.execute(select(runs).order_by(runs.c.started.desc(), runs.c.key).limit(count))
        return [f"{_label(row)}  {row.verdict}  {row.folder}" for row in rows]
