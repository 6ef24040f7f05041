# SPDX-License-Identifier: GPL-2.0-only
"""Adding runs: one transaction each, and the same run as often as you like."""

from __future__ import annotations

from sqlalchemy import Connection, select

from harness.history.database import History, insert_new
from harness.history.record import Line, Row, RunRecord
from harness.history.tables import results, runs, series


def add(history: History, run: RunRecord) -> bool:
    """Add a run; False when it is there already.  Afterwards it is committed, all of it."""
    with history.write() as connection:
        # PostgreSQL: a second importer of the same run waits here for the first to commit
        new = insert_new(connection, runs).values(**run.columns).returning(runs.c.id)
        number = connection.execute(new).scalar_one_or_none()
        if number is None:
            return False
        places = _series(connection, run.rows)
        rows = [{"series": places[row.line, row.case], "run": number, **row.columns} for row in run.rows]
        if rows:
            connection.execute(results.insert(), rows)
        return True


def _series(connection: Connection, rows: tuple[Row, ...]) -> dict[tuple[Line, str], int]:
    """The numbers of the series of these rows, made where they are new."""
    found: dict[tuple[Line, str], int] = {}
    for line in sorted({row.line for row in rows}):
        found.update(_known(connection, line))
        # sorted, so that two importers never wait for each other crosswise
        missing = sorted({row.case for row in rows if row.line == line and (line, row.case) not in found})
        if missing:
            new = [{**vars(line), "case": case} for case in missing]
            connection.execute(insert_new(connection, series), new)
            found.update(_known(connection, line))
    return found


def _known(connection: Connection, line: Line) -> dict[tuple[Line, str], int]:
    same = [series.c[name] == value for name, value in vars(line).items()]
    rows = connection.execute(select(series.c.case, series.c.id).where(*same))
    return {(line, case): number for case, number in rows}
