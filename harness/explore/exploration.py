# SPDX-License-Identifier: GPL-2.0-only
"""One exploration: which case runs next, and what its report means.

corpus, then seeds -> workers -> passed: coverage, corpus
                         ^   \\-> shows something new: saved, shrunk by a worker, saved again
                         |   \\-> testbed or window to blame: counted, never a finding
                         \\----- until the budget is spent
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

import msgspec

from harness.errors import InfraError
from harness.explore.budget import Budget
from harness.explore.case import CaseReport, ShrinkReport
from harness.explore.corpus import Corpus
from harness.explore.coverage import Coverage
from harness.explore.draw import Shape, draw_scenario
from harness.explore.findings import Findings, Found
from harness.explore.together import fits
from harness.explore.workers import Cases, Lost, Over, Report, Shrink, Task, Worker, Workers
from harness.report.store import OutDir
from harness.run.result import CaseResult
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario

SHRINK_SECONDS = 120.0
"""How long one finding may be made smaller, beyond the budget if need be; each try takes about a second."""
TROUBLE_MOST = 8
"""Cases in a row that end in trouble of the testbed: then the machine cannot do it."""
SAY_SECONDS = 30.0
WAITING_MOST = 16
"""Scenarios that may wait for others which they fit to."""
_WAIT_SECONDS = 1.0
_WALKED = (Verdict.PASS, Verdict.DEVIATES)


@dataclass
class Exploration:
    """What goes on; :meth:`run` until the budget is spent."""

    shape: Shape
    budget: Budget
    seed: int
    out: OutDir
    corpus: Corpus
    coverage: Coverage
    findings: Findings
    together: int = 1
    """Scenarios on one restored testbed at most."""
    ended: Callable[[CaseResult], None] = lambda result: None
    """Is told of each case that did not pass."""
    note: Callable[[str], None] = lambda line: None
    counts: Counter[Verdict] = field(default_factory=Counter)
    lost: int = 0
    """Cases whose worker died, or could not run them."""
    retried: int = 0
    """Cases that were run again because their testbed failed."""
    again: int = 0
    """Testbeds on which something else moved counters too, so that what ran there was measured again."""
    given: int = 0
    drawn: int = 0
    """Seeds that were used, from ``seed`` on."""
    done: int = 0
    seconds: float = 0.0
    """From the first case to the last, without what shrinking took behind it."""
    case_seconds: float = 0.0
    """What the cases took, added up."""
    waiting: list[Scenario] = field(default_factory=list)
    """Drawn, and not given to a worker yet, or given back by one: they did not fit to the others."""
    seeds_run: set[int] = field(default_factory=set)
    """Seeds of the scenarios that were run."""
    _said: float = 0.0
    _trouble: int = 0
    _to_shrink: deque[tuple[Found, CaseReport]] = field(default_factory=deque)
    _shrinking: dict[int, Found] = field(default_factory=dict)
    """By the identity of the task."""

    def run(self, workers: Workers) -> None:
        """Raises ``InfraError`` where the testbeds fail case after case; ``KeyboardInterrupt`` passes."""
        earlier = list(self.corpus.scenarios())
        Random(self.seed).shuffle(earlier)
        source = self._scenarios(earlier)
        self.budget.start()
        try:
            while self._hand_out(workers, source) or workers.busy:
                for worker, task, report in workers.reports(_WAIT_SECONDS):
                    self._take(worker, task, report)
                self._say()
        finally:
            self._leave(workers)

    def _scenarios(self, earlier: list[Scenario]) -> Iterator[Scenario]:
        """The corpus, for half of the budget at most, then ever further seeds."""
        for number, scenario in enumerate(earlier):
            if self.budget.half_spent(number):
                break
            yield scenario
        while True:
            self.drawn += 1
            yield draw_scenario(self.seed + self.drawn - 1, self.shape)

    def _hand_out(self, workers: Workers, source: Iterator[Scenario]) -> bool:
        """Give every idle worker something to do, what was found first; whether there was anything."""
        any_given = False
        for worker in workers.idle():
            task: Task
            if self._to_shrink:
                found, report = self._to_shrink.popleft()
                task = Shrink(report, SHRINK_SECONDS)
                self._shrinking[id(task)] = found
            elif not self.budget.spent(self.given, len(self.findings.all)):
                task = Cases(self._batch(source), self.together, self.budget.until)
                self.given += len(task.scenarios)
            else:
                break
            workers.give(worker, task)
            any_given = True
        return any_given

    def _batch(self, source: Iterator[Scenario]) -> tuple[Scenario, ...]:
        """Scenarios that can share a testbed, those that wait first; as many as may still begin."""
        most = self.together if self.budget.cases is None else min(self.together, self.budget.cases - self.given)
        batch: list[Scenario] = []
        for scenario in list(self.waiting):
            if len(batch) < most and fits(scenario, batch):
                batch.append(scenario)
                self.waiting.remove(scenario)
        while len(batch) < most and len(self.waiting) < WAITING_MOST:
            if self.budget.cases is not None and self.given + len(batch) + len(self.waiting) >= self.budget.cases:
                break
            scenario = next(source)
            (batch if fits(scenario, batch) else self.waiting).append(scenario)
        return tuple(batch)

    def _take(self, worker: Worker, task: Task, report: Report) -> None:
        """What a worker reports about its task."""
        if isinstance(report, CaseReport):
            self._case(report)
        elif isinstance(report, Over):
            self.waiting[:0] = worker.left
            self.given -= len(worker.left)
        elif isinstance(report, ShrinkReport):
            found = self._shrinking.pop(id(task))
            found.shrunk(report)
            self.findings.save(found)
            if report.result is not None:
                self._keep(report.result)
        elif isinstance(task, Shrink):
            assert isinstance(report, Lost), "a shrinking ends with its report, or not at all"
            found = self._shrinking.pop(id(task))
            found.left(worker.smaller, f"{report.why} while it was made smaller")
            self.findings.save(found)
        else:
            lost = len(worker.left)
            self.lost += lost
            self.note(f"{f'{lost} cases were' if lost != 1 else 'a case was'} lost: {report.why}")
            self._cases_are_over(lost)
            self._count_trouble(report.why)

    def _case(self, report: CaseReport) -> None:
        """A case is over."""
        result, behind = report.result, report.behind
        counted = behind.result if behind and report.signature is None else result
        self.counts[counted.verdict] += 1
        self.case_seconds += result.seconds
        self.retried += report.runs - 1
        self.again += report.again
        self._cases_are_over(1)
        if report.scenario.seed is not None:
            self.seeds_run.add(report.scenario.seed)
        if result.verdict in _WALKED and self.coverage.add(report.rules) and counted.verdict is Verdict.PASS:
            self.corpus.add(report.scenario, report.rules)
        if report.signature is not None:
            self._found(report)
        elif counted.verdict is not Verdict.PASS and not behind:
            self._keep(result)
        if behind:
            self._found(CaseReport(behind.scenario, behind.result, report.rules, behind.signature, report.runs))
        if counted.verdict is Verdict.INFRA:
            self._count_trouble(result.sentence)
        else:
            self._trouble = 0

    def _found(self, report: CaseReport) -> None:
        """A case showed something: it is kept, and made smaller where it is new."""
        found = self.findings.add(report)
        if found is not None:
            self._to_shrink.append((found, report))
        self._keep(report.result if found is not None else self._forget(report.result))

    def _cases_are_over(self, number: int) -> None:
        self.done += number
        self.seconds = self.budget.passed

    def _count_trouble(self, why: str) -> None:
        self._trouble += 1
        if self._trouble >= TROUBLE_MOST:
            raise InfraError(f"{self._trouble} cases in a row came to nothing; the last one: {why}")

    def _keep(self, result: CaseResult) -> None:
        """On disk first, then on the screen."""
        self.out.append(result)
        self.ended(result)

    def _forget(self, result: CaseResult) -> CaseResult:
        """Without the evidence of what is known already: a kernel that is wrong everywhere would fill the disk."""
        if result.evidence:
            shutil.rmtree(self.out.path / result.evidence, ignore_errors=True)
        return msgspec.structs.replace(result, evidence="")

    def _say(self) -> None:
        """How far it is, now and then."""
        if self.budget.passed - self._said >= SAY_SECONDS:
            self._said = self.budget.passed
            shrinking = f", {len(self._shrinking)} being made smaller" if self._shrinking else ""
            self.note(f"{self.done} cases after {self._said:.0f} s, {len(self.findings.all)} found{shrinking}")

    def _leave(self, workers: Workers) -> None:
        """What was found and is not shrunk yet stays as far as it came."""
        for worker in workers.busy:
            if (found := self._shrinking.pop(id(worker.task), None)) is not None:
                found.left(worker.smaller, "the exploration ended before it was the smallest")
                self.findings.save(found)

    def verdict(self) -> tuple[Verdict, str]:
        """What the exploration amounts to: trouble of the testbed only where nothing else was seen."""
        found = list(self.findings.all.values())
        if found:
            crash = next((one for one in found if one.signature.kind == "crash"), None)
            first = crash or found[0]
            kind = Verdict.CRASH if crash else Verdict.DEVIATES
            many = f"{len(found)} different things" if len(found) > 1 else "one thing"
            return kind, f"{many} found; {first.name}: {first.sentence}"
        passed = self.counts[Verdict.PASS]
        if passed:
            return Verdict.PASS, f"nothing found in {passed} cases"
        for kind in (Verdict.USAGE, Verdict.INFRA, Verdict.INCONCLUSIVE):
            if self.counts[kind]:
                return kind, f"no case passed, {self.counts[kind]} ended with {kind.value}"
        return (Verdict.INFRA, "every worker died") if self.lost else (Verdict.NOTHING_RAN, "no case was run")
