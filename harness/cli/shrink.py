# SPDX-License-Identifier: GPL-2.0-only
"""``gmem shrink``: the smallest scenario that still shows on a kernel what a scenario shows: which step, which page."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from harness.cli.options import (
    cmdline_option,
    deadline_option,
    design_option,
    host_option,
    kernel_option,
    out_option,
    patch_option,
)
from harness.cli.run import Building
from harness.cli.show import Progress, progress
from harness.errors import GmemError, InfraError, UsageError
from harness.explore.budget import seconds_of
from harness.explore.case import SHOWN_AGAIN, CaseReport, SessionRunner, ShrinkReport, run_case, shrink_case
from harness.explore.findings import Findings, Found
from harness.explore.summary import Ended, FoundRecord, found_record, found_text, of_run
from harness.interruption import INTERRUPTION
from harness.report.store import OutDir
from harness.report.summary import kernel_text
from harness.report.text import one_line
from harness.run.options import RunOptions, check_options
from harness.run.outcome import verdict_of_error
from harness.run.result import SCENARIO, CaseResult, RunInfo
from harness.run.runner import CaseName
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario

DEFAULT_TIME = "5m"
SUMMARY = "shrink.json"
NAME = CaseName("shrink", "", "the kernel moves every counter as the model says")


class Summary(Ended, frozen=True, kw_only=True):
    """What is written as ``shrink.json``."""

    scenario: str
    """Its name."""
    found: FoundRecord | None
    """None when it showed nothing."""


@click.command("shrink")
@click.argument("scenario", type=click.Path(exists=True))
@host_option
@kernel_option
@patch_option
@design_option
@click.option("--guest", default="snp-stand-in", show_default=True, help="How guests are started, as in gmem run.")
@cmdline_option
@deadline_option
@click.option(
    "--time", "seconds", metavar="TIME", default=DEFAULT_TIME, show_default=True, help="Try no further one after."
)
@out_option
@click.option("--json", "as_json", is_flag=True, help="Print shrink.json on standard output.")
def shrink_command(
    scenario: str,
    host: str,
    kernel: str | None,
    patch: tuple[str, ...],
    design: str,
    guest: str,
    cmdline: str,
    deadline: float,
    seconds: str,
    out: str | None,
    as_json: bool,
) -> int:
    """Make a scenario that deviates, or crashes the kernel, as small as it can be on that kernel.

    SCENARIO is a YAML file, or the evidence folder of a case.  The smallest one is kept as OUT/found/NAME.yaml.  The
    exit code is the verdict, as of gmem run: 0 means that the scenario passes.
    """
    options = RunOptions(
        kernel=kernel,
        patches=tuple(map(Path, patch)),
        host=host,
        design=design,
        guest=guest,
        command_line=cmdline,
        deadline=deadline,
    )
    check_options(options)
    limit = seconds_of(seconds)
    wanted = read_scenario(Path(scenario))
    place = OutDir.create(Path(out) if out else None)
    with progress(json_output=as_json) as show:
        shrinking = _Shrinking(wanted, options, place, show, f"gmem shrink {scenario}")
        shrinking.run(limit)
    info = shrinking.info(tuple(sys.argv))
    place.finish(info)
    found = shrinking.found
    told = Summary(**of_run(info), scenario=wanted.name, found=found_record(found) if found else None)
    (place.path / SUMMARY).write_text(told.text() + "\n", encoding="utf-8")
    print(told.text() if as_json else _text(info, place.path, shrinking), flush=True)
    return info.exit_code


def read_scenario(path: Path) -> Scenario:
    """The scenario of a YAML file, or of an evidence folder; raises ``UsageError``."""
    file = path / SCENARIO if path.is_dir() else path
    try:
        return Scenario.from_yaml(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError:
        raise UsageError(f"{path} has no {SCENARIO}: name a scenario, or the evidence folder of one case") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{file} cannot be read: {why}") from error


@dataclass
class _Shrinking:
    """What goes on, in this process."""

    scenario: Scenario
    options: RunOptions
    place: OutDir
    show: Progress
    origin: str
    runner: SessionRunner = field(init=False)
    results: list[CaseResult] = field(default_factory=list)
    findings: Findings | None = None
    found: Found | None = None
    smaller: CaseResult | None = None
    """Of the smallest one so far."""
    ended_by: tuple[Verdict, str] | None = None

    def run(self, seconds: float) -> None:
        """Run it, and smaller ones for ``seconds``; whatever ends it before its end is in ``ended_by``."""
        self.runner = make_runner(self.options, self.place.path, self.show.note)
        try:
            self._look(seconds)
        except KeyboardInterrupt:
            self.ended_by = Verdict.INTERRUPTED, f"interrupted{'' if self.found else ' before it showed anything'}"
            self._left("it was interrupted before it was the smallest")
        except (GmemError, OSError) as error:
            trouble = error if isinstance(error, GmemError) else InfraError(f"{error.filename}: {error.strerror}")
            if self.found is None:
                self.ended_by = verdict_of_error(trouble), str(trouble)
            self._left(str(trouble))
        finally:
            self._give_back()

    def _give_back(self) -> None:
        """End it: what a host does not get back is told beside what was found, not in its place."""
        try:
            self.runner.close()
        except GmemError as error:
            self._add(self.runner.session.not_given_back(error))
            if self.found is None and self.ended_by is not None and self.ended_by[0] is Verdict.PASS:
                self.ended_by = None  # then what the host did not get back is the verdict

    def _look(self, seconds: float) -> None:
        report = self._showing()
        if report.signature is None:
            if report.result.verdict is Verdict.PASS:
                why = f"{self.scenario.name} passes, {SHOWN_AGAIN} times of {SHOWN_AGAIN}: nothing to make smaller"
                self.ended_by = Verdict.PASS, why
            return
        session = self.runner.session
        kernel = kernel_text(session.info(()))
        self.findings = Findings(self.place.path, self.options, self.origin, kernel, session.design)
        self.found = self.findings.add(report)
        assert self.found is not None, "the first finding is a new one"
        self.show.note(f"shows {report.signature}; makes it smaller for {seconds:.0f} s at most")
        shrunk = shrink_case(self.runner, report, seconds=seconds, keep=self._keep, check=INTERRUPTION.check)
        self.found.shrunk(shrunk)
        self.findings.save(self.found)
        if shrunk.result is not None:
            self._add(shrunk.result)

    def _showing(self) -> CaseReport:
        """The scenario as it is; what passes is run again, since some faults show now and then."""
        for _ in range(SHOWN_AGAIN):
            INTERRUPTION.check()
            report = run_case(self.runner, self.scenario)
            if report.result.verdict is not Verdict.PASS:
                break
        self._add(report.result)
        return report

    def _add(self, result: CaseResult) -> None:
        """On disk first, then on the screen."""
        self.place.append(result)
        self.results.append(result)
        self.show.end(result)

    def _keep(self, report: ShrinkReport) -> None:
        """A smaller one: on disk at once."""
        assert self.found is not None, "what is made smaller was found"
        assert self.findings is not None, "and is kept"
        self.found.shrunk(report)
        self.findings.save(self.found)
        self.smaller = report.result
        pages = sum(part.count for step in report.smallest.steps for part in step.ranges())
        self.show.note(f"smaller: {len(report.smallest.steps)} steps, {pages} pages in all")

    def _left(self, why: str) -> None:
        """Shrinking ended before its end: what there is stays."""
        if self.found is not None and self.findings is not None:
            self.found.left(None, why)
            self.findings.save(self.found)
        if self.smaller is not None:
            self._add(self.smaller)

    def info(self, command: tuple[str, ...]) -> RunInfo:
        """The record of the run: what was found, by its kind, unless the user ended it."""
        ended = self.ended_by
        if ended is None and self.found is not None:
            ended = Verdict(self.found.signature.kind), self.found.sentence
        session = self.runner.session
        session.cases[:] = self.results
        return session.info(command, ended_by=ended)


def make_runner(options: RunOptions, out: Path, note: Callable[[str], None]) -> SessionRunner:
    """What runs scenarios on the kernel under test."""
    runner = SessionRunner(options, out, note, NAME)
    runner.session.progress = Building(note)
    return runner


def _text(info: RunInfo, out: Path, shrinking: _Shrinking) -> str:
    """The end, for people."""
    lines = [""]
    if shrinking.found is not None and shrinking.findings is not None:
        lines += found_text(shrinking.found, shrinking.findings)
    facts = {
        "verdict": f"{info.verdict.value} (exit code {info.exit_code}): {one_line(info.sentence)}",
        "kernel": kernel_text(info),
        "design": one_line(info.design),
        "report": str(out / "report.html"),
    }
    return "\n".join(lines + [f"{name + ':':<9}{value}" for name, value in facts.items() if value])
