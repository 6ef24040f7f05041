# SPDX-License-Identifier: GPL-2.0-only
"""``gmem history``: the results of many runs in one database, and what they say together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import click

from harness.cli.history_show import as_json, change_lines, series_lines, status_lines
from harness.errors import UsageError
from harness.history.compare import compare_runs, newest_runs
from harness.history.database import History, default_place
from harness.history.importing import add
from harness.history.judgement import WINDOW
from harness.history.page import status_page
from harness.history.quarantine import lift, put
from harness.history.record import read_folder
from harness.history.series import Wanted, every_result, statuses
from harness.history.status import Status
from harness.report.text import one_line
from harness.run.verdict import Verdict

_Command = TypeVar("_Command", bound=Callable[..., object])


def today() -> date:
    """The day in UTC, as the times of runs are kept."""
    return datetime.now(UTC).date()


def _db(command: _Command) -> _Command:
    return click.option(
        "--db",
        metavar="FILE|URL",
        help="The history: a file, or postgresql://USER@HOST/NAME (default: $GMEM_HISTORY, else "
        "gmem-harness/history.sqlite in $XDG_STATE_HOME).",
    )(command)


def _lines(command: _Command) -> _Command:
    for name, words in (
        ("host", "Only this host."),
        ("branch", "Only this branch."),
        ("kernel", "Only the kernel that runs asked for by this name."),
    ):
        command = click.option(f"--{name}", default="", metavar="NAME", help=words)(command)
    return command


def _last(command: _Command) -> _Command:
    return click.option(
        "--last",
        type=click.IntRange(1, 100_000),
        default=WINDOW,
        show_default=True,
        help="Newest results of each case that rates are told of.",
    )(command)


@click.group("history")
def history_group() -> None:
    """Results of many runs in one database: what deviates, since when, how often, and what is known."""


@history_group.command("add")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@_db
@click.option("--branch", default="", metavar="NAME", help="Branch of the kernel, where the run does not know it.")
@click.option("--commit", default="", metavar="HASH", help="Commit of the kernel, where the run does not know it.")
def add_command(runs: tuple[Path, ...], db: str | None, branch: str, commit: str) -> int:
    """Add the output directories of runs; one that is there already is left alone.

    Each run is committed by itself: one that cannot be read is named, and the others are added (exit code 4).
    """
    history = History.open(db or default_place(), make=True)
    added, refused = 0, 0
    for folder in runs:
        try:
            run = read_folder(folder, branch=branch, commit=commit)
        except UsageError as error:
            refused += 1
            print(f"gmem: {one_line(str(error))}", file=sys.stderr)
            continue
        added += add(history, run)
    known = len(runs) - added - refused
    print(f"{added} added, {known} there already{f', {refused} refused' if refused else ''}: {history.name}")
    return (Verdict.USAGE if refused else Verdict.PASS).exit_code


@history_group.command("status")
@_db
@_lines
@_last
@click.option(
    "--within", type=click.IntRange(1), metavar="DAYS", help="Only cases with a result in the last DAYS days."
)
@click.option("--all", "everything", is_flag=True, help="Show the cases that pass, too.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a page, too.")
@click.option("--json", "json_", is_flag=True, help="Print one JSON object on standard output.")
def status_command(
    db: str | None,
    kernel: str,
    branch: str,
    host: str,
    last: int,
    within: int | None,
    everything: bool,
    html: Path | None,
    json_: bool,
) -> int:
    """What each case says now: present deviations, since when, last good, and how often.

    The exit code is that of the worst case; a deviation in quarantine is shown and does not decide.
    """
    history = History.open(db or default_place())
    day = today()
    since = (day - timedelta(days=within)).isoformat() if within else ""
    wanted = Wanted(kernel=kernel, branch=branch, host=host, since=since)
    status = Status(day, statuses(history, wanted, last=last, today=day))
    if html is not None:
        write_page(html, status_page(status, html.absolute().parent))
    if json_:
        print(as_json(status))
    else:
        for line in status_lines(status, everything):
            print(line)
    return status.verdict.exit_code


def write_page(path: Path, text: str) -> None:
    """Raises :class:`UsageError` for a place that cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another file") from error


@history_group.command("show")
@click.argument("case", metavar="CASE")
@_db
@_lines
@_last
def show_command(case: str, db: str | None, kernel: str, branch: str, host: str, last: int) -> int:
    """The course of one case (SUITE/CASE) on each line: spells of the same outcome, newest first."""
    history = History.open(db or default_place())
    wanted = Wanted(kernel=kernel, branch=branch, host=host, case=case)
    status = Status(today(), statuses(history, wanted, last=last, today=today()))
    courses = dict(every_result(history, wanted))
    for one in status.cases:
        for line in series_lines(one, courses[one.line]):
            print(line)
    return status.verdict.exit_code


@history_group.command("compare")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@_db
def compare_command(a: str, b: str, db: str | None) -> int:
    """Two runs of the history: cases that say something else in B, and the time they took.

    A and B are beginnings of a run's identity or of its kernel's commit, or the folder that was added.
    The exit code is 0 when both say the same, else 1.
    """
    pair = compare_runs(History.open(db or default_place()), a, b)
    for line in change_lines(pair):
        print(line)
    return (Verdict.DEVIATES if pair.changes else Verdict.PASS).exit_code


@history_group.command("runs")
@_db
@click.option("-n", "count", type=click.IntRange(1), default=20, show_default=True, help="How many, the newest first.")
def runs_command(db: str | None, count: int) -> None:
    """The newest runs, with their identities."""
    for line in newest_runs(History.open(db or default_place()), count):
        print(line)


@history_group.command("quarantine")
@click.argument("case", metavar="CASE")
@_db
@_lines
@click.option("--reason", metavar="TEXT", help="Why the deviation is known and still there.")
@click.option("--link", metavar="URL", help="Where it is dealt with.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE", help="The last day on which it counts.")
@click.option("--lift", "lifted", is_flag=True, help="Take the case's quarantines away instead.")
def quarantine_command(
    case: str,
    db: str | None,
    kernel: str,
    branch: str,
    host: str,
    reason: str | None,
    link: str | None,
    until: datetime | None,
    lifted: bool,
) -> None:
    """Put the deviation that CASE shows now into quarantine: it is shown, and decides nothing until DATE is over.

    Another deviation of the same case still decides.
    """
    history = History.open(db or default_place())
    wanted = Wanted(kernel=kernel, branch=branch, host=host, case=case)
    if lifted:
        print(f"{lift(history, wanted)} lifted: {one_line(case, 200)}")
        return
    if reason is None or link is None or until is None:
        missing = [
            f"--{name}" for name, value in (("reason", reason), ("link", link), ("until", until)) if value is None
        ]
        raise UsageError(f"a quarantine needs a reason, a link and a last day: {' and '.join(missing)} missing")
    for one in put(history, wanted, reason=reason, link=link, until=until.date(), today=today()):
        print(f"in quarantine until {one.until}: {one.case}: {one.signature}")
