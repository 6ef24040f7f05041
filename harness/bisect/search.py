# SPDX-License-Identifier: GPL-2.0-only
"""The driver: confirms both ends, then builds, boots and judges what the decision asks for until it has the answer.

It has no memory of its own: everything is in the state, and is on disk before the next thing is begun.  Run again with
a state it goes on where that stands.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from harness.bisect.ahead import ahead, earliest
from harness.bisect.confidence import halvings, miss, passes_needed
from harness.bisect.decide import Found, Judgement, Mark, Policy, Suspects, Try, Word, decide, judge
from harness.bisect.line import Built, Line
from harness.bisect.question import Answer, CaseName, CostRatio, answers, kinds_of, narrowest
from harness.bisect.runner import Ended, Runner
from harness.bisect.select import narrow, wanted
from harness.bisect.state import Attempt, State, Step
from harness.errors import InfraError, NoBootError, UsageError
from harness.interruption import INTERRUPTION
from harness.kernel.config import SourceError
from harness.report.store import OutDir, load
from harness.run.result import CaseResult
from harness.run.verdict import Verdict

RUNS = "runs"
MORE_TRIALS = 4
"""A fault that does not always show is tried that many times as often, so that its rate is known better."""
Note = Callable[[str], None]


@dataclass
class Search:
    """One bisection."""

    state: State
    line: Line
    runner: Runner
    out: OutDir
    note: Note
    jobs: int = 1
    """Candidates that are judged side by side."""
    policy: Policy = field(default_factory=Policy)
    clock: Callable[[], float] = time.monotonic
    _lock: threading.RLock = field(default_factory=threading.RLock)
    """Of the state, the output directory and the tree; not held while a run goes on."""

    def run(self) -> Found | Suspects:
        """To its end; raises :class:`UsageError` for an end that is not what it should be, and what its parts raise."""
        state = self.state
        if isinstance(state.question, CostRatio):
            self._baseline()
        self._bad_end()
        self._good_end()
        while True:
            decision = self._decision()
            if not isinstance(decision, Try):
                return decision
            self._together(self._ahead() if self.jobs > 1 else [decision.name])

    def _decision(self) -> Try | Found | Suspects:
        bad = self.bad
        return decide(self.line.candidates(bad, self.goods), bad, self._marks())

    def _ahead(self) -> list[str]:
        return ahead(self.line.candidates, self.bad, self.goods, self._marks(), self.jobs)

    def _marks(self) -> dict[str, Mark]:
        return {step.name: step.mark for step in self.state.steps}

    def _together(self, names: Sequence[str]) -> None:
        """Judges candidates side by side; they are built one after the other, in the one tree."""
        steps = [self._begin(name) for name in names]
        if len(steps) == 1:
            self._judged(steps[0])
            return
        with ThreadPoolExecutor(len(steps)) as pool:
            futures = [pool.submit(self._judged, step) for step in steps]
            try:
                for future in futures:
                    future.result()
            except KeyboardInterrupt:  # the runs of the other threads look at this
                INTERRUPTION.asked = True
                raise

    @property
    def goods(self) -> list[str]:
        """Candidates that are good."""
        return [step.name for step in self.state.steps if step.mark is Mark.GOOD]

    @property
    def bad(self) -> str:
        """The earliest that is bad."""
        bads = [step.name for step in self.state.steps if step.mark is Mark.BAD]
        return earliest(self.line.candidates, self.state.bad, bads, self.goods)

    def left(self) -> int:
        """Candidates that are neither ruled out nor known to be bad."""
        return len(self.line.candidates(self.bad, [self.state.good, *self.goods])) - 1

    # -- both ends

    def _baseline(self) -> None:
        """A cost is one in comparison with the good end's."""
        step = self._end(self.state.good, "--good")
        asked = self.state.question
        assert isinstance(asked, CostRatio)
        while not any(attempt.whole for attempt in step.attempts):
            ended = self._attempt(step, whole=True, repeat=1)
            if asked.kind not in kinds_of(ended.results):
                known = ", ".join(kinds_of(ended.results)) or "none"
                raise UsageError(f"--cost {asked.kind}: the good end has no such steps in these cases, only {known}")

    def _bad_end(self) -> None:
        state, step = self.state, self._end(self.state.bad, "--bad")
        while not state.narrowed:
            if isinstance(state.question, CostRatio):
                state.narrowed = True
            else:
                self._narrow(step)
            state.save(self.out.path)
        if not state.passes:
            self._rate(step)
        if step.mark is Mark.OPEN:
            self._settle(step, Judgement(Mark.BAD, f"the fault showed in {state.shown} of {state.trials}"))

    def _narrow(self, step: Step) -> None:
        """All that was selected, until it shows something or decides that there is nothing."""
        ended = self._attempt(step, whole=True, repeat=1)
        found = narrowest(self.state.question, ended.results)
        if found is not None:
            self.state.question, self.state.case, least = found
            self.state.narrowed = True
            self.note(f"looking for {self.state.question.text}")
            self.note(f"in {self.state.case}, the shortest case that shows it: {least.sentence}")
            return
        whole = [attempt for attempt in step.attempts if attempt.whole]
        seen = {answer.word for answer in whole[-1].answers}
        if not seen & {Word.INFRA, Word.INCONCLUSIVE} or len(whole) >= self.policy.undecided:
            cases = len(ended.results)
            said = f"{cases} cases, {ended.said}" if seen - {Word.PASS} else f"all {cases} cases pass"
            raise UsageError(
                f"--bad {self.state.asked.bad} does not show {self.state.question.text} ({said}): nothing to bisect"
            )

    def _rate(self, step: Step) -> None:
        """How often the fault shows there, and so how many passes make a commit good."""
        state = self.state
        self._try(step, state.asked.trials)
        shown = step.words.count(Word.FAULT)
        if shown == 0:
            if step.words.count(Word.INFRA) + step.words.count(Word.INCONCLUSIVE) >= self.policy.undecided:
                raise InfraError(f"the bad end could not be judged: {_last(step).said}")
            raise UsageError(
                f"--bad {state.asked.bad} showed {state.question.text} once, and not again in {len(step.words)}"
                f" attempts at {state.case or 'all cases'} alone: try with more --trials"
            )
        if shown < _tried(step):
            self._try(step, MORE_TRIALS * state.asked.trials)
        state.shown, state.trials = step.words.count(Word.FAULT), _tried(step)
        count = len(self.line.candidates(state.bad, [state.good]))
        state.passes = passes_needed(state.shown, state.trials, candidates=count, confidence=state.asked.confidence)
        state.save(self.out.path)
        risk = miss(state.shown, state.trials, state.passes)
        self.note(
            f"it showed in {state.shown} of {state.trials} attempts there: {state.passes} passes make a commit good,"
            f" a bad one passes as often with probability {risk:.2g}"
        )
        self.note(f"{count} candidates, about {halvings(count)} steps")

    def _try(self, step: Step, trials: int) -> None:
        """Attempts at the case until that many decided something, or too many decided nothing."""
        while _tried(step) < trials:
            undecided = len(step.words) - _tried(step)
            if undecided >= self.policy.undecided:
                return
            self._attempt(step, whole=False, repeat=trials - _tried(step))

    def _good_end(self) -> None:
        step = self._end(self.state.good, "--good")
        mark = self._judged(step)
        asked = self.state.asked
        if mark is Mark.BAD:
            raise UsageError(f"--good {asked.good} shows it too, {self.state.question.text}: {_last(step).said}")
        if mark is Mark.SKIP:
            kind = NoBootError if Word.NO_BOOT in step.words else InfraError
            raise kind(f"the good end {asked.good} cannot be judged, {step.why}: {_last(step).said}")

    def _end(self, name: str, option: str) -> Step:
        """The step of an end; an end that does not build ends the bisection."""
        step = self._begin(name)
        self._build(step)
        if step.not_built:
            raise InfraError(f"the {option.strip('-')} end does not build: {step.not_built}")
        return step

    # -- one candidate

    def _begin(self, name: str) -> Step:
        step = self.state.step(name)
        if step is None:
            step = Step(name=name, title=self.line.title(name))
            self.state.steps.append(step)
        return step

    def _judged(self, step: Step) -> Mark:
        """The verdict on a candidate, made if it is not there."""
        self._build(step)
        while step.mark is Mark.OPEN:
            judgement = judge(step.words, replace(self.policy, passes=self.state.passes))
            with self._lock:
                twin = self._twin(step)
                if twin is not None and not step.attempts:
                    step.same_as = twin.name
                    judgement = Judgement(twin.mark, f"the same binary as {twin.title}, not booted")
                if judgement.mark is not Mark.OPEN:
                    self._settle(step, judgement)
                    break
            self._attempt(step, whole=False, repeat=judgement.missing)
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

    def _settle(self, step: Step, judgement: Judgement) -> None:
        step.mark, step.why = judgement.mark, judgement.why
        self.state.save(self.out.path)
        number = [each.name for each in self.state.steps].index(step.name) + 1
        times = f"built in {step.build_seconds:.0f} s" + (f", run in {step.run_seconds:.0f} s" if step.attempts else "")
        left = self.left() if self.state.narrowed and step.name not in (self.state.bad, self.state.good) else None
        after = f"; {left} left" if left is not None else ""
        self.note(f"{number}. {step.title}: {step.mark.value}, {step.why} ({times}{after})")
        if step.mark is Mark.SKIP and (step.not_built or step.attempts):
            self.note(f"   {step.not_built or _last(step).said}")

    def _build(self, step: Step) -> None:
        with self._lock:
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

    def _attempt(self, step: Step, *, whole: bool, repeat: int) -> Ended:
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
        with self._lock:
            step.attempts = [*step.attempts, attempt]
            self._keep(step, ended.results, attempt.out)
            state.save(self.out.path)
        return ended

    def _is_base(self, step: Step) -> bool:
        return isinstance(self.state.question, CostRatio) and step.name == self.state.good

    def baseline(self) -> tuple[CaseResult, ...]:
        """Results of the good end that a cost is compared with; read again, so that a resumed bisection has them."""
        step = self.state.step(self.state.good)
        if not isinstance(self.state.question, CostRatio) or step is None:
            return ()
        return tuple(results_of(self.out.path, next(attempt for attempt in step.attempts if attempt.whole)))

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
    return load(folder / attempt.out, notify=lambda _: None)[1]


def nothing_answered(ended: Ended, case: CaseName | None) -> Answer:
    """A run that does not have the case in its results."""
    if ended.code in (Verdict.NOTHING_RAN.exit_code, Verdict.PASS.exit_code):
        return Answer(Word.ABSENT, f"{case or 'no case'} was not run: {ended.said}")
    how = f"ended by signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
    return Answer(Word.INFRA, f"{how}: {ended.said}")


def _tried(step: Step) -> int:
    return step.words.count(Word.FAULT) + step.words.count(Word.PASS)


def _last(step: Step) -> Answer:
    return next(
        (answer for attempt in reversed(step.attempts) for answer in reversed(attempt.answers)),
        Answer(Word.NO_BUILD, step.not_built or "nothing was seen"),
    )
