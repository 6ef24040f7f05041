# SPDX-License-Identifier: GPL-2.0-only
"""What a worker of an exploration does: runs scenarios on a kernel, and shrinks one on it.

A *runner* runs one scenario, judged by ``Session.run`` like a case of ``gmem run``; a test puts another in its place.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import msgspec

from harness.errors import InfraError
from harness.explore.coverage import rules_met
from harness.explore.shrink import OutOfBudget, shrink
from harness.explore.signature import Signature, signature
from harness.report.store import OutDir
from harness.run.options import RunOptions
from harness.run.outcome import outcome
from harness.run.result import CaseResult
from harness.run.runner import CaseName
from harness.run.session import Session
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Empty

RANDOM = CaseName("explore", "", "a random scenario moves every counter as the model says")
ATTEMPTS = 2
"""Times that a case is run whose testbed failed; what is measured is never repeated here for its verdict."""
SHOWN_AGAIN = 3
"""Times that a finding is run again before it is said not to show again."""
TROUBLE_MOST = 8
"""Tries in a row that say nothing of the kernel: then no further one will."""
_SAYS = (Verdict.PASS, Verdict.DEVIATES, Verdict.CRASH)
"""Verdicts that say something of the kernel."""


class Behind(msgspec.Struct, frozen=True):
    """What a scenario showed behind others on their testbed, and not by itself."""

    scenario: Scenario
    """All of them in one, up to the step that showed it."""
    result: CaseResult
    signature: Signature


class CaseReport(msgspec.Struct, frozen=True):
    """One scenario that was run."""

    scenario: Scenario
    result: CaseResult
    rules: tuple[str, ...]
    signature: Signature | None
    runs: int
    """Times it was run: more than once where the testbed failed."""
    again: bool = False
    """Whether it was measured again, or what shared its testbed: not only its steps moved counters at first."""
    behind: Behind | None = None


_GOES_ON = "it is being made smaller"


class ShrinkReport(msgspec.Struct, frozen=True):
    """What became of a finding."""

    signature: Signature
    smallest: Scenario
    result: CaseResult | None
    """Of the smallest scenario; None where it never showed again."""
    tries: int
    ended: str = ""
    """Why it may not be the smallest; '' when no smaller one shows it."""


Met = tuple[frozenset[str], ...]
"""The rules of the model that a case met, step by step."""


class Runner(Protocol):
    """Runs scenarios."""

    def run(self, scenario: Scenario, *, chained: bool = False) -> tuple[CaseResult, Met]:
        """The result of a scenario, with the rules that its predictions had for each step that was walked.

        ``chained``: cheaper for one that passes (``Session.run``).
        """

    def drop(self, result: CaseResult) -> None:
        """The evidence of a result is not needed."""

    def close(self) -> None:
        """Give everything back."""


@dataclass
class SessionRunner:
    """Runs scenarios by a session; of a case that passes no evidence stays."""

    options: RunOptions
    out: Path
    notice: Callable[[str], None]
    name: CaseName = RANDOM
    """Of its cases, but for the scenario's name."""
    session: Session = field(init=False)
    folders: list[Path] = field(default_factory=list)
    """Evidence of the case in hand: one for each time that it is measured."""
    others: list[Path] = field(default_factory=list)
    """Of what came before it: testbeds that were saved, or did not come up, and what is known of the host."""

    def __post_init__(self) -> None:
        place = OutDir(self.out)

        def evidence(case: str) -> Path:
            folder = place.evidence(case)
            (self.folders if case.startswith(f"{self.name.suite}-") else self.others).append(folder)
            return folder

        self.session = Session(self.options, evidence=evidence, relative=place.relative, notice=self.notice)

    def run(self, scenario: Scenario, *, chained: bool = False) -> tuple[CaseResult, Met]:
        """Run it; raises nothing for what happens to the testbed or the kernel."""
        self.folders.clear()
        plain = msgspec.structs.replace(scenario, seed=None)  # its seed is one of explore's, not of the suite model's
        name = replace(self.name, case=scenario.name)
        result = self.session.run(plain, name, chained=chained)
        self.session.cases.clear()
        rules = rules_met(self.out / result.evidence, len(result.steps)) if result.evidence else ()
        for folder in self.folders:
            if result.verdict is Verdict.PASS or folder != self.out / result.evidence:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self.others:
            with suppress(OSError):
                folder.rmdir()  # of a testbed that was saved before nothing is kept
        self.others.clear()
        return (msgspec.structs.replace(result, evidence="") if result.verdict is Verdict.PASS else result), rules

    def drop(self, result: CaseResult) -> None:
        """Remove what a result left."""
        if result.evidence:
            shutil.rmtree(self.out / result.evidence, ignore_errors=True)

    def close(self) -> None:
        """Give the host back."""
        self.session.close()


@dataclass(frozen=True)
class SessionRunners:
    """Makes the runner of a worker, in the worker's process."""

    options: RunOptions
    out: Path

    def __call__(self, notice: Callable[[str], None]) -> Runner:
        return SessionRunner(self.options, self.out, notice)


def run_case(runner: Runner, scenario: Scenario, *, chained: bool = False) -> CaseReport:
    """Run a scenario; one whose testbed failed is run once more, and is no finding in any case."""
    for attempt in range(1, ATTEMPTS + 1):
        result, met = runner.run(scenario, chained=chained)
        if result.verdict is not Verdict.INFRA or attempt == ATTEMPTS:
            break
        runner.drop(result)
    return CaseReport(scenario, result, all_of(met), signature(result), attempt, again=result.again)


def all_of(met: Met) -> tuple[str, ...]:
    """The rules of some steps, sorted."""
    return tuple(sorted(frozenset().union(*met)))


@dataclass
class _Trial:
    """Asks the kernel about ever smaller scenarios."""

    runner: Runner
    wanted: Signature
    until: float
    clock: Callable[[], float]
    name: str
    check: Callable[[], None]
    tries: int = 0
    last: CaseResult | None = None
    """Of the smallest one that showed it."""
    trouble: int = 0
    """Tries that said nothing of the kernel, behind the last one that did."""
    why: str = ""
    """What the last one of them said."""

    def __call__(self, scenario: Scenario) -> bool:
        self.check()
        if self.clock() >= self.until or self.trouble >= TROUBLE_MOST:
            raise OutOfBudget
        self.tries += 1
        report = run_case(self.runner, msgspec.structs.replace(scenario, name=self.name, seed=None))
        self.trouble = 0 if report.result.verdict in _SAYS else self.trouble + 1
        if self.trouble:
            self.why = report.result.sentence
        if report.signature != self.wanted:
            self.runner.drop(report.result)
            return False
        if self.last is not None:
            self.runner.drop(self.last)
        self.last = report.result
        return True


def shrink_case(
    runner: Runner,
    found: CaseReport,
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    keep: Callable[[ShrinkReport], None] = lambda report: None,
    check: Callable[[], None] = lambda: None,
) -> ShrinkReport:
    """The smallest scenario that shows what ``found`` shows, on the same kernel, within ``seconds``.

    First the scenario itself without the steps behind the one that deviates: what does not show again within
    ``SHOWN_AGAIN`` runs is left as it is, and the report says so.  What shows without any step is not the steps' doing,
    and ends there.  ``keep`` gets each smaller one that shows it; ``check`` is called before each try and may raise.
    Raises ``InfraError`` for a case that shows nothing.
    """
    if found.signature is None:
        raise InfraError(f"{found.scenario.name} shows nothing that could be made smaller")
    wanted, scenario = found.signature, found.scenario
    trial = _Trial(runner, wanted, clock() + seconds, clock, f"{scenario.name}-smaller", check)

    def report(smallest: Scenario, ended: str) -> ShrinkReport:
        return ShrinkReport(wanted, smallest, trial.last, trial.tries, ended)

    nothing = msgspec.structs.replace(scenario, steps=(Empty(),))
    begin = msgspec.structs.replace(scenario, steps=scenario.steps[: _walked(found)])
    try:
        if not found.result.steps and trial(nothing):
            return report(nothing, "it shows before the first step: no step is to blame")
        if not any(trial(begin) for _ in range(SHOWN_AGAIN)):
            if trial.trouble:
                return report(scenario, f"it could not be run again: {trial.why}")
            return report(scenario, f"it did not show again in {SHOWN_AGAIN} runs")
    except OutOfBudget:
        return report(scenario, "there was no time to run it again")
    keep(report(begin, _GOES_ON))
    smallest = shrink(begin, trial, keep=lambda smaller: keep(report(smaller, _GOES_ON)))
    ended = f"the {seconds:.0f} s for it were over" if clock() >= trial.until else ""
    if trial.trouble >= TROUBLE_MOST:
        ended = f"{trial.trouble} tries in a row came to nothing; the last one: {trial.why}"
    return report(smallest, ended)


def _walked(found: CaseReport) -> int:
    """Steps that are needed to show it: up to one that is off.

    A step in which the kernel crashed, or never came to its end, may not be in the result.
    """
    steps = found.result.steps
    if steps and outcome(list(steps))[0] is Verdict.DEVIATES:
        return len(steps)
    return len(found.scenario.steps)
