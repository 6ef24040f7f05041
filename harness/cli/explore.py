# SPDX-License-Identifier: GPL-2.0-only
"""``gmem explore``: random scenarios on a kernel, held against the model; what deviates is made small and kept."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import click
import msgspec

from harness.cli.options import cmdline_option, design_option, kernel_option, out_option, patch_option
from harness.cli.run import Building
from harness.cli.show import Progress, progress
from harness.errors import GmemError, UsageError
from harness.explore.budget import Budget, seconds_of
from harness.explore.case import SessionRunners
from harness.explore.corpus import Corpus, default_corpus
from harness.explore.coverage import Coverage
from harness.explore.draw import Shape
from harness.explore.exploration import Exploration
from harness.explore.findings import Findings
from harness.explore.summary import SUMMARY, Summary, summary, summary_text
from harness.explore.together import CHUNKS_MOST, together_at_most
from harness.explore.workers import Workers
from harness.report.store import OutDir
from harness.report.summary import kernel_text
from harness.run.held import HOOK_FACT
from harness.run.options import RunOptions, check_options
from harness.run.outcome import verdict_of_error
from harness.run.result import RunInfo, Sharpness
from harness.run.session import Ready, Session
from harness.run.verdict import Verdict

DEFAULT_TIME = "5m"


@click.command("explore")
@kernel_option
@patch_option
@design_option
@cmdline_option
@click.option("--guests", type=click.IntRange(1, 2), default=2, show_default=True, help="Guests of a case at most.")
@click.option(
    "--chunks", type=click.IntRange(2, CHUNKS_MOST), default=8, show_default=True, help="2 MiB chunks of a guest."
)
@click.option(
    "--time", "seconds", metavar="TIME", help=f"Restore no testbed after, e.g. 90s [default: {DEFAULT_TIME}]."
)
@click.option("--cases", type=click.IntRange(1, 10_000_000), help="Begin no more than that many cases.")
@click.option(
    "--findings", type=click.IntRange(1, 100), default=5, show_default=True, help="Different ones, then stop."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the first case.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Cases side by side (default: CPUs of this machine).")
@click.option(
    "--together",
    type=click.IntRange(1, CHUNKS_MOST),
    default=4,
    show_default=True,
    help=f"Cases one after another on a restored testbed at most; they share {CHUNKS_MOST} chunks.",
)
@click.option("--pressure", is_flag=True, help="Memory pressure of the host too; such cases take seconds.")
@click.option("--corpus", type=click.Path(file_okay=False), help="Scenarios to begin with, and to add to.")
@out_option
@click.option("--json", "as_json", is_flag=True, help="Print explore.json on standard output.")
def explore_command(
    kernel: str | None,
    patch: tuple[str, ...],
    design: str,
    cmdline: str,
    guests: int,
    chunks: int,
    seconds: str | None,
    cases: int | None,
    findings: int,
    seed: int,
    jobs: int | None,
    together: int,
    pressure: bool,
    corpus: str | None,
    out: str | None,
    as_json: bool,
) -> int:
    """Run random scenarios on a kernel and hold every counter against the model.

    A scenario that deviates or crashes the kernel is made as small as it can be, on that kernel, and kept as
    OUT/found/NAME.yaml, for gmem run.  The exit code is the verdict, as of gmem run: 0 means that nothing was found.
    """
    limit = seconds_of(seconds or DEFAULT_TIME) if seconds or cases is None else None
    budget = Budget(seconds=limit, cases=cases, findings=findings)
    options = RunOptions(kernel=kernel, patches=tuple(map(Path, patch)), design=design, command_line=cmdline, seed=seed)
    check_options(options)
    if corpus and Path(corpus).exists() and not Path(corpus).is_dir():
        raise UsageError(f"--corpus {corpus} is a file: name a folder of scenarios")
    place = OutDir.create(Path(out) if out else None)
    with progress(json_output=as_json) as show:
        session = Session(options, evidence=place.evidence, relative=place.relative, notice=show.note)
        session.progress = Building(show.note)
        wanted = _Wanted(
            Shape(guests, chunks, pressure=pressure),
            budget,
            corpus,
            jobs or os.cpu_count() or 1,
            together_at_most(together, chunks),
        )
        exploration, ended = _explore(session, place, wanted, show)
    info = _info(session, exploration, ended)
    place.finish(info)
    if exploration is None:
        assert ended is not None, "without an exploration something ended it"
        raise ended
    told = summary(exploration, info, wanted.jobs)
    _write(place.path / SUMMARY, told)
    print(told.text() if as_json else summary_text(told, exploration, info, place.path), flush=True)
    return info.exit_code


@dataclass(frozen=True)
class _Wanted:
    """What the command line asks for."""

    shape: Shape
    budget: Budget
    corpus: str | None
    jobs: int
    together: int


def _explore(
    session: Session, place: OutDir, wanted: _Wanted, show: Progress
) -> tuple[Exploration | None, GmemError | KeyboardInterrupt | None]:
    """The exploration as far as it came (None: no testbed came up), and what ended it before its end."""
    exploration: Exploration | None = None
    try:
        readies = [
            session.ready(session.spec(guests=guests, chunks=chunks))
            for guests in range(1, wanted.shape.guests + 1)
            for chunks in _chunks(wanted)
        ]
        shape = _shape(wanted.shape, readies[0])
        folder = Path(wanted.corpus) if wanted.corpus else default_corpus(session.design, shape)
        kernel, seed = kernel_text(session.info(())), session.options.seed
        exploration = Exploration(
            shape,
            wanted.budget,
            seed,
            place,
            Corpus(folder),
            Coverage(session.design),
            Findings(place.path, session.options, f"gmem explore --seed {seed}", kernel, session.design),
            together=wanted.together,
            ended=show.end,
            note=show.note,
        )
        show.note(f"kernel {kernel}, design {session.design}, seeds from {seed}, {wanted.jobs} at a time")
        with Workers(SessionRunners(session.options, place.path), wanted.jobs, show.note) as workers:
            exploration.run(workers)
    except (KeyboardInterrupt, GmemError) as error:
        return exploration, error
    for line in exploration.corpus.unreadable:
        show.note(f"not read: {line}")
    return exploration, None


def _chunks(wanted: _Wanted) -> set[int]:
    """Sizes of the testbeds that are needed from the beginning; what deviates gets one of its own size later."""
    return {wanted.shape.chunks * wanted.together} | ({wanted.shape.chunks} if wanted.shape.pressure else set())


def _shape(wanted: Shape, ready: Ready) -> Shape:
    """What can be drawn for the kernel and the host that came up."""
    pins = ready.state.kernel_facts.get(HOOK_FACT) == "y"
    return replace(wanted, cpus=ready.spec.machine.cpus, pins=pins)


def _info(session: Session, exploration: Exploration | None, ended: GmemError | KeyboardInterrupt | None) -> RunInfo:
    """The record of the run, with the counts of all cases: results.jsonl has those that did not pass.

    An interruption stands above all, as in gmem run; trouble of the testbed below what was found before it.
    """
    ended_by: tuple[Verdict, str] | None = exploration.verdict() if exploration else None
    if isinstance(ended, GmemError) and (exploration is None or not exploration.findings.all):
        ended_by = verdict_of_error(ended), str(ended)
    elif isinstance(ended, KeyboardInterrupt):
        done, found = (exploration.done, len(exploration.findings.all)) if exploration else (0, 0)
        ended_by = Verdict.INTERRUPTED, f"interrupted after {done} cases, {found} found"
    info = session.info(tuple(sys.argv), ended_by=ended_by)
    if exploration is None:
        return info
    counts = {kind.value: exploration.counts[kind] for kind in Verdict}
    return msgspec.structs.replace(info, counts=counts, sharpness=Sharpness())


def _write(path: Path, told: Summary) -> None:
    path.write_text(told.text() + "\n", encoding="utf-8")
