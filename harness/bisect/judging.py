# SPDX-License-Identifier: GPL-2.0-only
"""One candidate of a bisection: built, run as often as it takes, judged; each thing on disk before the next begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from harness.bisect.ahead import earliest
from harness.bisect.decide import Judgement, Mark, Policy, Word, judge
from harness.bisect.line import Built, Line
from harness.bisect.question import Answer, CaseName, CostRatio, answers
from harness.bisect.runner import Ended, Runner
from harness.bisect.select import narrow, wanted
from harness.bisect.state import Attempt, State, Step
from harness.errors import InfraError
from harness.interruption import INTERRUPTION
from harness.kernel.config import SourceError
from harness.report.store import DamagedResult, OutDir, load
from harness.run.result import CaseResult
from harness.run.verdict import Verdict

RUNS = "runs"
"""Folder of the runs, below the output directory of the bisection."""


@dataclass
class Judging:
    """What candidates are judged with; may be used by several threads."""

    state: State
    line: Line
    runner: Runner
    out: OutDir
    note: Callable[[str], None]
    policy: Policy = field(default_factory=Policy)
    clock: Callable[[], float] = time.monotonic
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Of the state, the output directory and the tree; not held while a run goes on."""

    @property
    def goods(self) -> list[str]:
        """Candidates that are good; the good end is taken to be until it is judged."""
        found = [step.name for step in self.state.steps if step.mark is Mark.GOOD]
        return found if self.state.good in found else [self.state.good, *found]

    @property
    def bad(self) -> str:
        """The earliest that is bad."""
        bads = [step.name for step in self.state.steps if step.mark is Mark.BAD]
        return earliest(self.line.candidates, self.state.bad, bads, self.goods)

    def left(self) -> int:
        """Candidates that are neither ruled out nor known to be bad."""
        return len(self.line.candidates(self.bad, self.goods)) - 1

    def begin(self, name: str) -> Step:
        """The record of a candidate, made if it is not there."""
        step = self.state.step(name)
        if step is None:
            step = Step(name=name, title=self.line.title(name))
            self.state.steps.append(step)
        return step

    def judged(self, step: Step) -> Mark:
        """The verdict on a candidate, made if it is not there."""
        self.build(step)
        while step.mark is Mark.OPEN:
            judgement = judge(step.words, replace(self.policy, passes=self.state.passes))
            with self.lock:
                twin = self._twin(step)
                if twin is not None and not step.attempts:
                    step.same_as = twin.name
                    judgement = Judgement(twin.mark, f"the same binary as {twin.title}, not booted")
                if judgement.mark is not Mark.OPEN:
                    self.settle(step, judgement)
                    break
            self.attempt(step, whole=False, repeat=judgement.missing)
        return step.mark

    def _twin(self, step: Step) -> Step | None:
        """A candidate that was judged and has the same code."""
        return next(
            (
                other
                for other in self.state.steps
                if other is not step and step.identity and other.identity == step.identity
                and other.mark is not Mark.OPEN and not other.same_as
            ),
            None,
        )  # fmt: skip

    def settle(self, step: Step, judgement: Judgement) -> None:
        """Keep the verdict on a candidate, and say it."""
        step.mark, step.why = judgement.mark, judgement.why
        self.state.save(self.out.path)
        number = [each.name for each in self.state.steps].index(step.name) + 1
        times = f"built in {step.build_seconds:.0f} s" + (f", run in {step.run_seconds:.0f} s" if step.attempts else "")
        left = self.left() if self.state.narrowed and step.name not in (self.state.bad, self.state.good) else None
        after = f"; {left} left" if left is not None else ""
        self.note(f"{number}. {step.title}: {step.mark.value}, {step.why} ({times}{after})")
        if step.mark is Mark.SKIP and (step.not_built or step.attempts):
            self.note(f"   {step.not_built or last_of(step).said}")

    def build(self, step: Step) -> None:
        """Build a candidate, if its image is not there; that it does not compile is part of its record."""
        with self.lock:
            if not step.not_built and not (step.kernel and Path(step.kernel).is_file()):
                self._build_now(step)

    def _build_now(self, step: Step) -> None:
        INTERRUPTION.check()
        began = self.clock()
        try:
            built = self._built_at_last(step)
        except SourceError as error:
            step.not_built = str(error)
        else:
            step.kernel, step.identity = str(built.image), built.identity
        step.build_seconds += round(self.clock() - began, 1)
        self.state.save(self.out.path)

    def _built_at_last(self, step: Step) -> Built:
        """A build that fails for this machine's reasons is tried once more; then it would fail for every commit."""
        try:
            return self.line.build(step.name)
        except SourceError:
            raise
        except InfraError as error:
            self.note(f"{step.title}: {error}; building again")
            return self.line.build(step.name)

    def attempt(self, step: Step, *, whole: bool, repeat: int) -> Ended:
        """One run; its results and what they answer are on disk afterwards."""
        INTERRUPTION.check()
        state = self.state
        what = wanted(state.asked, repeat) if whole else narrow(state.asked, state.case, repeat)
        out = self._place(step)
        ended = self.runner(Path(step.kernel), what, out)
        case = None if whole else state.case
        seen = answers(state.question, case, ended.results, () if whole and self._is_base(step) else self.baseline())
        attempt = Attempt(
            whole=whole,
            out=self.out.relative(out),
            seconds=round(ended.seconds, 1),
            answers=tuple(seen) or (nothing_answered(ended, case),),
        )
        with self.lock:
            step.attempts = [*step.attempts, attempt]
            self._keep(step, ended.results, attempt.out)
            state.save(self.out.path)
        return ended

    def _is_base(self, step: Step) -> bool:
        return isinstance(self.state.question, CostRatio) and step.name == self.state.good

    def baseline(self) -> tuple[CaseResult, ...]:
        """Results of the good end that a cost is compared with; read again, so that a resumed bisection has them."""
        step = self.state.step(self.state.good)
        whole = [attempt for attempt in step.attempts if attempt.whole] if step else []
        if not isinstance(self.state.question, CostRatio) or not whole:
            return ()
        return tuple(results_of(self.out.path, whole[-1]))

    def _place(self, step: Step) -> Path:
        """A new directory: one that is there belongs to an attempt that was cut off."""
        stem = f"{[each.name for each in self.state.steps].index(step.name) + 1:02d}-{step.name[:12].replace('/', '_')}"
        for number in range(1, 10_000):
            place = self.out.path / RUNS / f"{stem}-{number}"
            if not place.exists():
                return place
        raise InfraError(f"{self.out.path / RUNS}: no free name for {stem}")

    def _keep(self, step: Step, results: tuple[CaseResult, ...], out: str) -> None:
        """The results of an attempt, as results of the bisection: told apart by the candidate."""
        for result in results:
            evidence = f"{out}/{result.evidence}" if result.evidence else ""
            suite = f"{step.title.split()[0]}:{result.suite}"
            self.out.append(msgspec.structs.replace(result, suite=suite, kernel=step.title, evidence=evidence))


def results_of(folder: Path, attempt: Attempt) -> list[CaseResult]:
    """Results of an attempt, from its own output directory."""
    try:
        return load(folder / attempt.out, notify=lambda _: None)[1]
    except DamagedResult:  # it died before it had any
        return []


def nothing_answered(ended: Ended, case: CaseName | None) -> Answer:
    """A run that does not have the case in its results."""
    if ended.code in (Verdict.NOTHING_RAN.exit_code, Verdict.PASS.exit_code):
        return Answer(Word.ABSENT, f"{case or 'no case'} was not run: {ended.said}")
    how = f"ended by signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
    return Answer(Word.INFRA, f"{how}: {ended.said}")


def tried(step: Step) -> int:
    return step.words.count(Word.FAULT) + step.words.count(Word.PASS)


def last_of(step: Step) -> Answer:
    return next(
        (answer for attempt in reversed(step.attempts) for answer in reversed(attempt.answers)),
        Answer(Word.NO_BUILD, step.not_built or "nothing was seen"),
    )
