# SPDX-License-Identifier: GPL-2.0-only
"""The run of a pytest process: its session, its output directory, and whoever wants to know how it goes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from harness.errors import GmemError
from harness.interruption import INTERRUPTION
from harness.report.store import OutDir
from harness.run.options import RunOptions, check_options
from harness.run.outcome import verdict_of_error
from harness.run.result import CaseResult
from harness.run.session import Session
from harness.run.verdict import Verdict, worst

LISTENER = "gmem-listener"
"""Name of a plugin that wants to know how the run goes; see :class:`Listener`."""


class Listener(Protocol):
    """What ``gmem run`` registers to show progress."""

    def begin(self, case: str) -> None:
        """A case begins."""

    def end(self, case: CaseResult) -> None:
        """A case has its verdict."""

    def note(self, line: str) -> None:
        """Something the user should know."""

    def building(self, phase: str, done: int, total: int | None) -> None:
        """A kernel is being fetched or built."""


@dataclass
class GmemRun:
    """The run of this pytest process; made when the first case asks for it."""

    config: pytest.Config
    out: OutDir | None = None
    session: Session | None = None
    ended_by: tuple[Verdict, str] | None = None
    early: list[CaseResult] = field(default_factory=list)
    """Trouble of cases before there was a session."""
    pytest_session: pytest.Session | None = None

    def option(self, name: str) -> Any:
        """The value of ``--gmem-NAME``."""
        return self.config.getoption(f"gmem_{name}")

    @property
    def listener(self) -> Listener | None:
        """Whoever wants to know how the run goes."""
        found: Listener | None = self.config.pluginmanager.get_plugin(LISTENER)
        return found

    def note(self, line: str) -> None:
        """Show a line to the user."""
        if self.listener:
            self.listener.note(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def begin(self) -> Session:
        """The session, with its output directory."""
        if self.session is None:
            options = RunOptions(
                kernel=self.option("kernel"),
                patches=tuple(Path(path) for path in self.option("patch") or ()),
                host=self.option("host"),
                design=self.option("design"),
                guest=self.option("guest"),
                command_line=self.option("cmdline"),
                seed=self.option("seed"),
                deadline=self.option("deadline"),
                keep=self.option("keep"),
                require=self.option("require"),
            )
            check_options(options)  # before there is an output directory with nothing to put in
            out_option = self.option("out")
            self.out = out = OutDir.create(Path(out_option) if out_option else None)
            self.session = Session(options, evidence=out.evidence, relative=out.relative, notice=self.note)
            if self.listener:
                self.session.progress = self.listener.building
            early, self.early = self.early, []
            for result in early:
                self.add_outside(result)
        return self.session

    def add(self, result: CaseResult) -> None:
        """A case is done: on disk first, then on the screen.  A result that cannot be kept ends the run."""
        assert self.out is not None
        try:
            self.out.append(result)
        except GmemError as error:
            self.ended_by = self.ended_by or (verdict_of_error(error), str(error))
            if self.pytest_session is not None:
                self.pytest_session.shouldstop = str(error)
        if self.listener:
            self.listener.end(result)

    def add_outside(self, result: CaseResult) -> None:
        """A case that came to nothing by itself; it waits for the first case that needs a session."""
        if self.session is None:
            self.early.append(result)
        else:
            self.session.cases.append(result)
            self.add(result)

    def finish(self, exitstatus: int) -> int | None:
        """Write the reports; returns the exit code, None for a run without cases."""
        if self.session is None or self.out is None:
            if self.early and self.ended_by is None:
                kind = worst(result.verdict for result in self.early)
                self.ended_by = kind, next(result.sentence for result in self.early if result.verdict is kind)
            return self.ended_by[0].exit_code if self.ended_by else None
        done = f"after {len(self.session.cases)} cases"
        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED or INTERRUPTION.asked
        if interrupted and self.ended_by is None:
            self.ended_by = (Verdict.INTERRUPTED, f"interrupted {done}")
        elif exitstatus == pytest.ExitCode.INTERNAL_ERROR and self.ended_by is None:
            self.ended_by = (Verdict.INFRA, f"pytest failed {done}; its traceback is on standard error")
        try:
            self.session.close()
        except GmemError as error:  # beside what the cases say, not in its place
            self.add_outside(self.session.not_given_back(error))
        info = self.session.info(tuple(sys.argv), ended_by=self.ended_by)
        try:
            self.out.finish(info)
        except GmemError as error:
            self.ended_by = (verdict_of_error(error), str(error))
            return error.exit_code
        return info.exit_code
