# SPDX-License-Identifier: GPL-2.0-only
"""``gmem bisect``: which commit of a tree, or which kernel of a list, brought a deviation."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from harness.bisect.decide import Found, Suspects
from harness.bisect.ending import Ending, Told, log_lines
from harness.bisect.git import Repository
from harness.bisect.judging import Judging
from harness.bisect.line import Commits, Kernels, Line, check_kernels
from harness.bisect.runner import run_gmem
from harness.bisect.search import Search
from harness.bisect.state import STATE, Asked, State, load_state
from harness.cache import ContentCache
from harness.cli.bisect_info import run_info
from harness.cli.bisect_question import question_of, question_options
from harness.cli.bisect_step import step_command
from harness.cli.options import deadline_option, design_option, expression_option
from harness.cli.run import Building, suite_paths
from harness.errors import GmemError, UsageError
from harness.kernel.store import KernelStore
from harness.report.store import DEFAULT_ROOT, LATEST, RESULTS, RUN, OutDir, load
from harness.report.text import one_line, storable
from harness.run.options import RunOptions, check_options
from harness.run.outcome import verdict_of_error
from harness.run.verdict import Verdict

TRIALS, CONFIDENCE = 5, 0.95
LOG = "bisect.log"


class BisectCommand(click.Command):
    """``gmem bisect step`` is another command; every other word is a suite."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == ["step"]:
            return step_command.make_context(f"{info_name} step", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("bisect", cls=BisectCommand)
@click.argument("suites", nargs=-1, metavar="[SUITE...]")
@click.option("--tree", type=click.Path(), metavar="DIR", help="A git tree of the kernel; only read.")
@click.option(
    "--kernels", metavar="A,B,...", help="Kernels in their order, instead of a tree: whatever --kernel takes."
)
@click.option("--good", metavar="REV", help="Passes. With --kernels: the first.")
@click.option("--bad", metavar="REV", help="Shows the fault. With --kernels: the last.")
@expression_option
@design_option
@click.option("--guest", default="snp-stand-in", show_default=True, help="How guests are started.")
@click.option("--cmdline", default="", help="Added to the command line of the kernels under test.")
@deadline_option
@click.option(
    "--trials", type=click.IntRange(1, 1000), default=TRIALS, show_default=True, help="Attempts at the bad end."
)
@click.option(
    "--confidence", type=click.FloatRange(0.5, 0.9999), default=CONFIDENCE, show_default=True, help="Of the answer."
)
@question_options
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Candidates side by side.")
@click.option(
    "--state",
    "--out",
    "state",
    type=click.Path(file_okay=False),
    help="Output directory (default: gmem-out/DATE-TIME-xxxx).",
)
@click.option("--resume", is_flag=False, flag_value=f"{DEFAULT_ROOT}/{LATEST}", metavar="[DIR]", help="Go on there.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON object on standard output.")
def bisect_command(resume: str | None, state: str | None, jobs: int, as_json: bool, **given: Any) -> int:
    """Find the commit, or the kernel of a list, that brought a deviation.

    Both ends are confirmed first; then the shortest case that shows the fault is run on each commit that is tried.
    SUITE as in gmem run.  gmem bisect step --help: the same for git bisect run.

    The exit code: 0 found, 6 only commits that had to be skipped are left, 2 interrupted (--resume goes on), 3 the
    testbed failed, 4 usage, or an end that is not what it should be, 7 the good end does not boot.
    """
    note = _note
    if resume is not None:
        if any(value for name, value in given.items() if _from_user(name)) or state:
            raise UsageError("--resume goes on with what was asked for at the beginning: give the directory alone")
        place, known, line = _resumed(Path(resume), note)
    else:
        place, known, line = _begun(given, state, note)
    return _search(place, known, line, note, jobs, as_json)


def _from_user(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _begun(given: dict[str, Any], state: str | None, note: Callable[[str], None]) -> tuple[OutDir, State, Line]:
    """A new bisection: everything is checked before anything is made."""
    asked = _asked(given)
    line, good, bad = _line(asked, note)
    check_options(RunOptions(design=asked.design, guest=asked.guest, command_line=asked.command_line))
    place = OutDir.create(Path(state) if state else None)
    known = State(asked=asked, good=good, bad=bad, question=asked.question)
    known.save(place.path)
    note(f"state in {place.path}: gmem bisect --resume {shlex.quote(str(place.path))} goes on after an interruption")
    return place, known, line


def _resumed(folder: Path, note: Callable[[str], None]) -> tuple[OutDir, State, Line]:
    folder = folder.resolve()
    known = load_state(folder)
    line, good, bad = _line(known.asked, note)
    if (good, bad) != (known.good, known.bad):
        line = _line(msgspec.structs.replace(known.asked, good=known.good, bad=known.bad), note)[0]
    place = OutDir(folder)
    (folder / RESULTS).touch()
    place.cases = load(folder, notify=lambda _: None)[1]
    _drop_torn_line(folder / RESULTS)
    (folder / RUN).unlink(missing_ok=True)
    judged = sum(bool(step.why) for step in known.steps)
    note(f"going on in {folder}: {judged} of {len(known.steps)} candidates were judged")
    return place, known, line


def _drop_torn_line(path: Path) -> None:
    """What a power cut left of a record: the next one must not be appended to it."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def _asked(given: dict[str, Any]) -> Asked:
    """The command line as a record; raises ``UsageError`` for what does not go together."""
    tree, kernels = given["tree"], given["kernels"]
    if (tree is None) == (kernels is None):
        raise UsageError("name what is to be bisected: --tree DIR --good REV --bad REV, or --kernels A,B,C")
    if tree is not None and not (given["good"] and given["bad"]):
        raise UsageError("--tree needs both ends: --good REV --bad REV")
    names = tuple(name.strip() for name in kernels.split(",")) if kernels is not None else ()
    good, bad = check_kernels(names, given["good"], given["bad"]) if kernels is not None else ("", "")
    return Asked(
        tree=str(Path(tree).expanduser().resolve()) if tree is not None else "",
        kernels=names,
        good=good or given["good"],
        bad=bad or given["bad"],
        suites=tuple(str(Path(path).absolute()) for path in suite_paths(given["suites"], given["guest"])),
        expression=given["expression"],
        design=given["design"],
        guest=given["guest"],
        command_line=given["cmdline"],
        deadline=given["deadline"],
        question=question_of(given),
        confidence=given["confidence"],
        trials=given["trials"],
    )


def _line(asked: Asked, note: Callable[[str], None]) -> tuple[Line, str, str]:
    """The candidates, and the full names of both ends."""
    cache = ContentCache(notify=note)
    store = KernelStore(cache, progress=Building(note))
    if asked.kernels:
        return Kernels(asked.kernels, store), asked.good, asked.bad
    repository = Repository(Path(asked.tree))
    good, bad = repository.commit(asked.good, "--good"), repository.commit(asked.bad, "--bad")
    repository.check_range(good, bad, (asked.good, asked.bad))
    if repository.has_local_changes():
        note(f"uncommitted changes in {repository.path} are not looked at: commits are bisected")
    return Commits(repository, cache, store), good, bad


def _search(place: OutDir, known: State, line: Line, note: Callable[[str], None], jobs: int, as_json: bool) -> int:
    """To the end, or to what ends it; the reports are written in any case."""
    began = datetime.now().astimezone()
    log = _Log(place.path / LOG, note)
    answer: Found | Suspects | None = None
    ended: GmemError | KeyboardInterrupt | None = None
    try:
        with line.hold():
            answer = Search(Judging(known, line, run_gmem, place, log), jobs).run()
    except (GmemError, KeyboardInterrupt) as error:
        ended = error
    told = Ending(known, line, place.path).told(answer) if answer is not None else None
    if isinstance(ended, KeyboardInterrupt):
        verdict, sentence = Verdict.INTERRUPTED, f"interrupted after {len(known.steps)} candidates"
        note(f"gmem bisect --resume {shlex.quote(str(place.path))} goes on")
    elif isinstance(ended, GmemError):
        verdict, sentence = verdict_of_error(ended), str(ended)
    else:
        assert told is not None
        verdict, sentence = (Verdict.PASS if told.found else Verdict.INCONCLUSIVE), told.sentence
        known.conclusion = told.sentence
        known.save(place.path)
    place.finish(run_info(place, began, verdict, sentence, tuple(sys.argv)))
    if ended is not None:
        raise ended
    assert told is not None
    _show(told, known, place, log, as_json)
    return told.exit_code


def _show(told: Told, known: State, place: OutDir, log: _Log, as_json: bool) -> None:
    lines = [*log_lines(known), "", *told.lines]
    lines.append(f"cost:   {told.builds} builds, {told.runs} runs, {told.seconds:.0f} s")
    lines.append(f"report: {place.report}")
    log.keep(lines)
    if as_json:
        plain = {**msgspec.to_builtins(told), "out": str(place.path)}
        print(msgspec.json.encode(storable(plain), order="sorted").decode(), flush=True)
    else:
        print("\n".join(one_line(line, collapse=False) for line in lines), flush=True)


class _Log:
    """What is said is also kept in the output directory."""

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        self._path = path
        self._note = note

    def __call__(self, line: str) -> None:
        self._note(line)
        self.keep([line])

    def keep(self, lines: list[str]) -> None:
        """Only into the file."""
        with self._path.open("a", encoding="utf-8", errors="replace") as stream:
            stream.write("".join(f"{datetime.now():%H:%M:%S} {line}\n" for line in lines))


def _note(line: str) -> None:
    print(one_line(line, collapse=False), file=sys.stderr, flush=True)


__all__ = ["STATE", "bisect_command"]
