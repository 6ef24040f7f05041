# SPDX-License-Identifier: GPL-2.0-only
"""``gmem nightly``: a matrix of kernels, hosts, guest kinds and suites, run by Buildbot night after night."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from harness.cli.nightly_show import as_json, lines
from harness.errors import GmemError, InfraError, UsageError
from harness.kernel.config import SourceError
from harness.locks import FileLock
from harness.nightly.leftovers import end_all, marked
from harness.nightly.matrix import Matrix, load_matrix
from harness.nightly.once import Once, verdict
from harness.nightly.owner import owning
from harness.nightly.place import MARK, Place, Running, default_state
from harness.nightly.rest import Pages
from harness.nightly.told import shown
from harness.report.text import one_line
from harness.run.verdict import Verdict

UP_SECONDS: Final = 600.0
DOWN_SECONDS: Final = 300.0
"""For the owner to end everything: a run gives its host back first."""
LEFT_SECONDS: Final = 60.0
"""For what an owner that was killed left: it is ending by itself."""
LOOK_SECONDS: Final = 0.5
_Command = TypeVar("_Command", bound=Callable[..., object])


def _config(command: _Command) -> _Command:
    return click.option(
        "--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", required=True, help="The matrix."
    )(command)


def _state(command: _Command) -> _Command:
    return click.option(
        "--state",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="State folder (default: gmem-harness/nightly in $XDG_STATE_HOME, else in ~/.local/state).",
    )(command)


_json = click.option("--json", "as_json_", is_flag=True, help="Print one JSON object on standard output.")


@click.group("nightly")
def nightly_group() -> None:
    """Run a matrix of kernels, hosts, guest kinds and suites night after night (Buildbot)."""


@nightly_group.command("check")
@_config
def check_command(config: Path) -> int:
    """Read a matrix, make Buildbot's configuration of it, and say what would run."""
    matrix = load_matrix(config)
    with tempfile.TemporaryDirectory(prefix="gmem-nightly-") as folder:
        place = Place(Path(folder))
        place.choose(config, timers=True)
        _check_buildbot(place)
    cells = matrix.cells()
    print("\n".join(str(cell) for cell in cells))
    at = "" if matrix.at is None else f", every night at {matrix.at[0]:02d}:{matrix.at[1]:02d}"
    print(f"{len(cells)} jobs on {len(matrix.hosts)} hosts{at}")
    return 0


@nightly_group.command("up")
@_config
@_state
def up_command(config: Path, state: Path | None) -> int:
    """Start master and workers, and leave them running."""
    matrix, place = _of(config, state)
    _refuse_if_up(place)
    _make(place)
    words = [sys.executable, "-m", "harness.cli.main", "nightly", "serve", "--config", str(config.resolve())]
    with place.log.open("ab") as log:
        owner = subprocess.Popen(
            [*words, "--state", str(place.path)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, MARK: str(place.path)},
        )  # fmt: skip
    end = time.monotonic() + UP_SECONDS
    try:
        while (running := place.running()) is None:
            if owner.poll() is not None:
                raise _error_of(owner.returncode, _last_line(place.log))
            if time.monotonic() > end:
                raise InfraError(f"nothing answered within {UP_SECONDS:.0f} s, see {place.log}")
            time.sleep(LOOK_SECONDS)
    except BaseException:
        _end_owner(owner.pid)
        raise
    print(f"up: {running.url} ({len(matrix.cells())} jobs on {len(matrix.hosts)} hosts), log {place.log}")
    return 0


@nightly_group.command("serve")
@_config
@_state
def serve_command(config: Path, state: Path | None) -> int:
    """The same as up in the foreground, for systemd: ends when it is told to."""
    matrix, place = _of(config, state)
    with _lock(place, "gmem nightly serve"):
        owner_of = _owning(place, config, matrix, timers=True)
        with owner_of as owner:
            place.set_running(Running(os.getpid(), owner.pages.url, f"{datetime.now().astimezone():%F %T}"))
            _note(f"up: {owner.pages.url}")
            try:
                while True:
                    owner.tend()
                    time.sleep(LOOK_SECONDS)
            finally:
                place.set_running(None)


@nightly_group.command("down")
@_state
def down_command(state: Path | None) -> int:
    """End master, workers and the jobs that run, and show that nothing is left."""
    place = Place(_folder(state))
    place.settings()
    owner = place.owner()
    if owner is not None:
        _end_owner(owner)
    ended = end_all(place.path, LEFT_SECONDS if owner is None else 5.0)
    place.set_running(None)
    words = "it was not up" if owner is None and not ended else "down"
    more = f", {ended} processes had to be ended" if ended else ""
    print(f"{words}{more}: no process of {place.path} is left")
    return 0


@nightly_group.command("status")
@_state
@_json
def status_command(state: Path | None, as_json_: bool) -> int:
    """The newest verdict of each cell, since when, and where to read more.

    The exit code is that of the worst; 5 when nothing has been run yet.
    """
    place = Place(_folder(state))
    settings, running = place.settings(), place.running()
    matrix = load_matrix(Path(settings.matrix))
    cells = shown(place, matrix.cells())
    if as_json_:
        print(as_json(cells, running.url if running else ""))
    else:
        for line in lines(cells, running is not None):
            print(line)
        print(f"up: {running.url}, since {running.since}" if running else f"down ({place.path})")
    found = {one.cell: one.told for one in cells if one.told is not None}
    return (verdict(dict(found)) if found else Verdict.NOTHING_RAN).exit_code


@nightly_group.command("once")
@_config
@_state
@_json
def once_command(config: Path, state: Path | None, as_json_: bool) -> int:
    """Run every cell one time, through the master that is up or one that ends with this command.

    The exit code is that of the worst cell.
    """
    matrix, place = _of(config, state)
    running = place.running()
    if running is not None:
        settings = place.settings()
        if Path(settings.matrix) != config.resolve():
            raise UsageError(f"{place.path} is up with {settings.matrix}: gmem nightly down ends it")
        pages = Pages(matrix, settings)
        found = Once(place, matrix, pages, _note).run(lambda: None)
        return _end_once(place, matrix, found, pages.url, as_json_)
    with _lock(place, "gmem nightly once"), _owning(place, config, matrix, timers=False) as owner:
        _note(f"{owner.pages.url}#/grid")
        found = Once(place, matrix, owner.pages, _note).run(owner.tend)
        return _end_once(place, matrix, found, owner.pages.url, as_json_)


def _end_once(place: Place, matrix: Matrix, found: dict[Any, Any], url: str, json_: bool) -> int:
    cells = shown(place, matrix.cells())
    worst = verdict(found)
    if json_:
        print(as_json(cells, url))
    else:
        for line in lines(cells, True):
            print(line)
        print(f"{len(found)} jobs: {worst.value}", flush=True)
    return worst.exit_code


# -- what workers call


@nightly_group.command("job-kernel", hidden=True)
@_state
@click.argument("host")
@click.argument("kernel")
@click.argument("revision", default="")
def job_kernel_command(state: Path | None, host: str, kernel: str, revision: str) -> int:
    """Check out and build a branch's kernel; prints a JSON object."""
    from harness.nightly.job import prepare
    from harness.nightly.steps import DOES_NOT_BUILD

    try:
        found = prepare(Place(_folder(state)), host, kernel, revision, _note)
    except SourceError as error:
        _note(str(error))
        return DOES_NOT_BUILD
    print(msgspec.json.encode(found).decode())
    return 0


@nightly_group.command("job-news", hidden=True)
@_state
@click.argument("cell")
@click.argument("out", type=click.Path(path_type=Path))
def job_news_command(state: Path | None, cell: str, out: Path) -> int:
    """What a run shows that the one before did not; prints a JSON object."""
    from harness.nightly.job import news

    print(msgspec.json.encode(news(Place(_folder(state)), cell, out)).decode())
    return 0


# -- parts


def _of(config: Path, state: Path | None) -> tuple[Matrix, Place]:
    matrix = load_matrix(config)
    return matrix, Place(_folder(state))


def _folder(state: Path | None) -> Path:
    return (state or default_state()).expanduser().absolute()


def _make(place: Place) -> None:
    try:
        place.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"the state folder {place.path} cannot be made: {error.strerror}") from error


def _lock(place: Place, what: str) -> FileLock:
    _make(place)
    return place.lock(what)


def _owning(place: Place, config: Path, matrix: Matrix, *, timers: bool) -> Any:
    os.environ[MARK] = str(place.path)
    if left := marked(place.path):
        raise UsageError(
            f"{len(left)} processes of {place.path} are left of a time before, first {left[0].pid}: "
            f"gmem nightly down ends them"
        )
    settings = place.choose(config, timers=timers)
    _check_buildbot(place)
    return owning(place, matrix, settings, _note)


def _check_buildbot(place: Place) -> None:
    """The configuration as Buildbot itself would take it."""
    try:
        from harness.nightly.check import check
    except ModuleNotFoundError as error:
        raise InfraError(f"{error.name} is missing: pip install 'gmem-harness[nightly]'") from error
    check(place)


def _refuse_if_up(place: Place) -> None:
    running, owner = place.running(), place.owner()
    if running is not None:
        raise UsageError(f"it is up already, since {running.since}: {running.url}; gmem nightly down ends it")
    if owner is not None:
        raise UsageError(f"{place.path} belongs to process {owner}: gmem nightly down ends it")


def _end_owner(pid: int) -> None:
    """Tells the owner to end, and waits; its children end with it in any case."""
    for number, seconds in ((signal.SIGTERM, DOWN_SECONDS), (signal.SIGKILL, 30.0)):
        end = time.monotonic() + seconds
        try:
            os.kill(pid, number)
            while time.monotonic() < end:
                os.kill(pid, 0)
                if Path(f"/proc/{pid}/cmdline").read_bytes() == b"":  # a zombie of ours
                    return
                time.sleep(LOOK_SECONDS)
        except (ProcessLookupError, FileNotFoundError):
            return


def _error_of(code: int, sentence: str) -> GmemError:
    text = sentence.removeprefix("gmem: ")
    return UsageError(text) if code == Verdict.USAGE.exit_code else InfraError(text)


def _last_line(path: Path) -> str:
    lines_ = path.read_text(errors="replace").strip().splitlines()
    return one_line(lines_[-1]) if lines_ else f"it ended at once, see {path}"


def _note(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {one_line(line, collapse=False)}", file=sys.stderr, flush=True)
