# SPDX-License-Identifier: GPL-2.0-only
"""``gmem host restore`` and ``gmem host status``: what a run left of itself on a host, and giving the host back."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from harness.errors import GmemError, InfraError
from harness.host.config.host import HostConfig
from harness.host.config.load import load_host
from harness.host.config.reaching import reach_host
from harness.host.knobs.giving_back import give_back, open_stories
from harness.host.knobs.journal import ControllerJournal, Story, union
from harness.host.knobs.lending import controller_folder
from harness.host.knobs.lock import HostLock, look, take
from harness.host.knobs.place import DEFAULT_PLACE
from harness.host.knobs.processes import ours
from harness.host.knobs.setting import read_knobs
from harness.host.knobs.values import same, selected
from harness.host.reach import Reach, read_file

_host = click.option(
    "--host", metavar="NAME|FILE", default="local", show_default=True, help="Which host: a name or a file of it."
)


@contextlib.contextmanager
def _reached(host: str) -> Iterator[tuple[HostConfig, Reach]]:
    config = load_host(host)
    reach = reach_host(config)
    try:
        yield config, reach
    finally:
        reach.close()


def _note(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


# -- restore


@click.command("restore")
@_host
@click.option("--force", is_flag=True, help="Take the host from a holder on another machine that may be alive.")
def restore_command(host: str, force: bool) -> int:
    """Give a host back as it was before a run that was killed or cut off.

    Sets back what its journal says that the run set, ends processes of the run, removes its files, frees the lock.
    What somebody else set meanwhile is told and left alone.  Doing it twice does no harm.
    """
    with _reached(host) as (config, reach):
        local = ControllerJournal(controller_folder(config.name))
        lock = take(reach, DEFAULT_PLACE, "gmem host restore", notice=_note, host=shlex.quote(host), force=force)
        try:
            told = _restored(lock, local)
        except BaseException:
            with contextlib.suppress(GmemError):  # the first error is the one to tell
                lock.free()
            raise
        lock.free()
        for sentence in told:
            print(sentence)
        print(f"{config.name}: {'given back' if told else 'there was nothing to give back'}")
    return 0


def _restored(lock: HostLock, local: ControllerJournal) -> list[str]:
    return give_back(lock, local, open_stories(lock, local)).told


# -- status


@dataclass(frozen=True)
class _Status:
    """What a run has, or has left, on a host."""

    held: dict[str, Any] | None
    knobs: list[dict[str, str]]
    processes: list[dict[str, Any]]
    files: list[str]
    runs: int
    """Runs whose journal is open."""

    @property
    def abandoned(self) -> bool:
        """Whether something is there that no run that may be alive has."""
        something = bool(self.held or self.runs or any(process["alive"] for process in self.processes))
        return something and (self.held is None or bool(self.held["stale"]))


@click.command("status")
@_host
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def status_command(host: str, as_json: bool) -> int:
    """Say who has a host, since when, and what is set there for a run.

    The exit code is 0 for a host that is free or in use, 3 when there is something to give back.
    """
    with _reached(host) as (config, reach):
        status = _status(reach, ControllerJournal(controller_folder(config.name)))
    if as_json:
        print(json.dumps({"host": config.name, **status.__dict__, "abandoned": status.abandoned}, sort_keys=True))
    else:
        for line in _lines(config.name, status):
            print(line)
    if status.abandoned:
        raise InfraError(
            f"{config.name} was not given back: run gmem host restore{_option(host)}; a new run does it first, too"
        )
    return 0


def _option(host: str) -> str:
    return "" if host == "local" else f" --host {shlex.quote(host)}"


def _status(reach: Reach, local: ControllerJournal) -> _Status:
    seen = look(reach, DEFAULT_PLACE)
    held = None
    if seen.holder is not None:
        holder = seen.holder
        held = {
            "user": holder.user, "machine": holder.machine, "pid": holder.pid, "purpose": holder.purpose,
            "since": holder.since, "age": seen.age, "stale": seen.stale,
        }  # fmt: skip
    stories = union([read_file(reach, DEFAULT_PLACE.journal) or b"", local.read()])
    return _Status(
        held,
        _knobs(reach, [story for story in stories if story.begin.boot == seen.boot]),
        [process.__dict__ for process in ours(reach, DEFAULT_PLACE)],
        [path for story in stories for path in story.made],
        len(stories),
    )


def _knobs(reach: Reach, stories: list[Story]) -> list[dict[str, str]]:
    now = read_knobs(reach, [path for story in stories for path in story.changes])
    found = []
    for story in stories:
        for path, change in story.changes.items():
            knob, was = now.get(path), selected(story.first.get(path, ""))
            has = "" if knob is None or knob.text is None else selected(knob.text)
            if not same(was, has):
                found.append({"path": path, "before": was, "set": change.value, "now": has})
    return found


def _lines(name: str, status: _Status) -> Iterator[str]:
    if status.held is None:
        yield f"{name}: nobody has it"
    else:
        held = status.held
        yield f"{name}: {held['user']}@{held['machine']}, process {held['pid']}: {held['purpose']}"
        yield f"  held {held['age']}{'; stale: ' + held['stale'] if held['stale'] else ''}"
    for knob in status.knobs:
        yield f"  {knob['path']} is {knob['now'] or 'gone'}, was {knob['before']} (set to {knob['set']})"
    for process in status.processes:
        if process["alive"]:
            yield f"  process {process['pid']}: {process['what']}"
    for path in status.files:
        yield f"  file {path}"
