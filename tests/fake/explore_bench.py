# SPDX-License-Identifier: GPL-2.0-only
"""Explorations without machines: runners that say what a kernel of paper does, for real worker processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness.cli.explore as command
import harness.cli.shrink as shrink_command
from harness.cli.main import main
from harness.errors import InfraError
from harness.explore.case import Met, Runner
from harness.run.options import RunOptions
from harness.run.result import AGAIN, CaseResult, Finding, StepResult
from harness.run.session import Session
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import PunchHole, Step

REASON = "punch: 1 present page of g0.r0[0:1] leaves the page cache"


def shows(step: Step) -> bool:
    """What the kernel of paper does wrong: it punches small holes badly."""
    return isinstance(step, PunchHole) and step.range.count < 100


@dataclass
class PaperRunner:
    """Runs scenarios on paper; what it was asked is in ``folder/asked``, a line for each."""

    paper: Paper
    notice: Callable[[str], None]

    def run(self, scenario: Scenario, *, chained: bool = False) -> tuple[CaseResult, Met]:
        paper = self.paper
        if paper.log:
            with (paper.folder / "asked").open("a") as log:
                log.write(f"{os.getpid()} {scenario.name} {len(scenario.steps)}\n")
        time.sleep(paper.seconds)
        self._trouble(scenario)
        verdict, steps = Verdict.PASS, []
        for index, step in enumerate(() if paper.every_case else scenario.steps):
            bad = paper.bad and shows(step)
            finding = Finding(
                counter="gmem/g0", low=-1, high=-1, observed=0 if bad else -1, noise=0,
                verdict=Verdict.DEVIATES if bad else Verdict.PASS, reasons=(REASON,),
            )  # fmt: skip
            steps.append(StepResult(index=index, text=step.text(), seconds=0.0, findings=(finding,), recorded={}))
            if bad:
                verdict = Verdict.DEVIATES
                break
        verdict = self._other(scenario, verdict)
        said = f"sentence of {scenario.name}" + f" {AGAIN}2 times; before: F)" * (paper.again and chained)
        result = CaseResult(
            suite="explore", case=scenario.name, claim="", verdict=verdict, sentence=said,
            seconds=paper.seconds, steps=tuple(steps), evidence="",
        )  # fmt: skip
        return result, tuple(frozenset(("punch", type(step).__name__)) for step in scenario.steps[: len(steps)])

    def _trouble(self, scenario: Scenario) -> None:
        """The process dies: once, or at that case whoever runs it."""
        if self.paper.dies_at in scenario.name.split("+") and self._first("died"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.paper.always_dies:
            os._exit(3)

    def _other(self, scenario: Scenario, verdict: Verdict) -> Verdict:
        """Verdicts that blame the testbed."""
        if self.paper.infra_at in scenario.name.split("+") and self._first("failed"):
            return Verdict.INFRA
        return Verdict(self.paper.every_case) if self.paper.every_case else verdict

    def _first(self, mark: str) -> bool:
        """Whether no process did that before."""
        try:
            (self.paper.folder / mark).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def drop(self, result: CaseResult) -> None:
        assert not result.evidence

    def close(self) -> None:
        (self.paper.folder / f"closed-{os.getpid()}").touch()
        if self.paper.not_given_back:
            raise InfraError(self.paper.not_given_back)


@dataclass(frozen=True)
class Paper:
    """Makes runners; it goes to worker processes."""

    folder: Path
    bad: bool = True
    seconds: float = 0.0
    dies_at: str = ""
    infra_at: str = ""
    every_case: str = ""
    always_dies: bool = False
    again: bool = False
    """What is chained is measured twice."""
    log: bool = True
    not_given_back: str = ""
    """What a host that is closed does not get back."""

    def __call__(self, notice: Callable[[str], None]) -> Runner:
        return PaperRunner(self, notice)


class PaperSession(Session):
    """A session whose testbed is ready at once."""

    def ready(self, spec: Any) -> Any:
        self.design = "order0"
        machine, state = SimpleNamespace(cpus=2), SimpleNamespace(kernel_facts={})
        return SimpleNamespace(spec=SimpleNamespace(machine=machine), state=state)


def explore(paper: Paper, *words: str) -> int:
    """``gmem explore WORDS`` on paper, in this process."""
    command.Session = PaperSession  # type: ignore[misc]
    command.SessionRunners = lambda options, out: paper  # type: ignore[misc, assignment]
    return main(["explore", *words])


@dataclass
class PaperShrinker(PaperRunner):
    """A runner with the session that ``gmem shrink`` asks for the kernel's name."""

    session: Session


def shrink(paper: Paper, *words: str) -> int:
    """``gmem shrink WORDS`` on paper, in this process."""

    def made(options: RunOptions, out: Path, note: Callable[[str], None]) -> Any:
        session = Session(options, evidence=lambda case: out / case, relative=str, notice=note)
        session.design = "order0"
        return PaperShrinker(paper, note, session)

    shrink_command.make_runner = made
    return main(["shrink", *words])


if __name__ == "__main__":
    folder, pause, *words = sys.argv[1:]
    if words[0] == "shrink":
        sys.exit(shrink(Paper(Path(folder), seconds=float(pause)), *words[1:]))
    sys.exit(explore(Paper(Path(folder), seconds=float(pause), bad=False), *words))
