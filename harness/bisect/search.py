# SPDX-License-Identifier: GPL-2.0-only
"""The driver: confirms the bad end, then has judged what the decision asks for until it has the answer.

A commit that is good says what the good end would say, which is spared then.  As long as there is none, the good end
may show what is looked for too, and it is asked before many commits are built in vain.

It has no memory of its own: everything is in the state.  Run again with a state it goes on where that stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from harness.bisect.ahead import ahead
from harness.bisect.confidence import halvings, miss, passes_needed
from harness.bisect.decide import Found, Judgement, Mark, Suspects, Try, Word, decide
from harness.bisect.judging import Judging, last_of, tried
from harness.bisect.question import CostRatio, kinds_of, narrowest
from harness.bisect.state import Step
from harness.errors import InfraError, NoBootError, UsageError
from harness.interruption import INTERRUPTION

BADS_ON_TRUST = 2
"""So many commits may be bad in a row before the good end is judged: one time in four they are, whatever it is."""
MORE_TRIALS = 4
"""A fault that does not always show is tried that many times as often, so that its rate is known better."""


@dataclass
class Search:
    """One bisection."""

    one: Judging
    """What each candidate is judged with."""
    jobs: int = 1
    """Candidates that are judged side by side."""

    def __post_init__(self) -> None:
        self.state, self.line = self.one.state, self.one.line

    def run(self) -> Found | Suspects:
        """To its end; raises :class:`UsageError` for an end that is not what it should be, and what its parts raise."""
        state = self.state
        if isinstance(state.question, CostRatio):
            self._baseline()
        self._bad_end()
        while True:
            decision = self._decision()
            if self._doubtful(decision):
                self._good_end()
                continue
            if not isinstance(decision, Try):
                return decision
            self._together(self._ahead() if self.jobs > 1 else [decision.name])

    def _doubtful(self, decision: Try | Found | Suspects) -> bool:
        """Whether the good end is to be judged now: nothing was good so far, and some were not, or all were not."""
        marks = {name: mark for name, mark in self._marks().items() if name != self.state.bad}
        if Mark.GOOD in marks.values():
            return False
        return len(marks) - list(marks.values()).count(Mark.OPEN) >= BADS_ON_TRUST or not isinstance(decision, Try)

    def _decision(self) -> Try | Found | Suspects:
        bad = self.one.bad
        return decide(self.line.candidates(bad, self.one.goods), bad, self._marks())

    def _ahead(self) -> list[str]:
        return ahead(self.line.candidates, self.one.bad, self.one.goods, self._marks(), self.jobs)

    def _marks(self) -> dict[str, Mark]:
        return {step.name: step.mark for step in self.state.steps}

    def _together(self, names: Sequence[str]) -> None:
        """Judges candidates side by side; they are built one after the other, in the one tree."""
        steps = [self.one.begin(name) for name in names]
        if len(steps) == 1:
            self.one.judged(steps[0])
            return
        with ThreadPoolExecutor(len(steps)) as pool:
            futures = [pool.submit(self.one.judged, step) for step in steps]
            try:
                for future in futures:
                    future.result()
            except KeyboardInterrupt:  # the runs of the other threads look at this
                INTERRUPTION.asked = True
                raise

    # -- both ends

    def _baseline(self) -> None:
        """A cost is one in comparison with the good end's."""
        step = self._end(self.state.good, "--good")
        asked = self.state.question
        assert isinstance(asked, CostRatio)
        while asked.kind not in kinds_of(self.one.baseline()):
            ended = self.one.attempt(step, whole=True, repeat=1)
            known = kinds_of(ended.results)
            if not known and len(step.attempts) < self.one.policy.undecided:
                continue  # its testbed did not come up
            if asked.kind not in known:
                said = f"only {', '.join(known)}" if known else f"none at all: {ended.said}"
                raise UsageError(f"--cost {asked.kind}: the good end has no such steps in these cases, {said}")

    def _bad_end(self) -> None:
        state, step = self.state, self._end(self.state.bad, "--bad")
        while not state.narrowed:
            if isinstance(state.question, CostRatio):
                state.narrowed = True
            else:
                self._narrow(step)
            state.save(self.one.out.path)
        if not state.passes:
            self._rate(step)
        if step.mark is Mark.OPEN:
            self.one.settle(step, Judgement(Mark.BAD, f"the fault showed in {state.shown} of {state.trials}"))

    def _narrow(self, step: Step) -> None:
        """All that was selected, until it shows something or decides that there is nothing."""
        ended = self.one.attempt(step, whole=True, repeat=1)
        found = narrowest(self.state.question, ended.results)
        if found is not None:
            self.state.question, self.state.case, least = found
            self.state.narrowed = True
            self.one.note(f"looking for {self.state.question.text}")
            self.one.note(f"in {self.state.case}, the shortest case that shows it: {least.sentence}")
            return
        whole = [attempt for attempt in step.attempts if attempt.whole]
        seen = {answer.word for answer in whole[-1].answers}
        if not seen & {Word.INFRA, Word.INCONCLUSIVE} or len(whole) >= self.one.policy.undecided:
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
            if step.words.count(Word.INFRA) + step.words.count(Word.INCONCLUSIVE) >= self.one.policy.undecided:
                raise InfraError(f"the bad end could not be judged: {last_of(step).said}")
            raise UsageError(
                f"--bad {state.asked.bad} showed {state.question.text} once, and not again in {len(step.words)}"
                f" attempts at {state.case or 'all cases'} alone: try with more --trials"
            )
        if shown < tried(step):
            self._try(step, MORE_TRIALS * state.asked.trials)
        state.shown, state.trials = step.words.count(Word.FAULT), tried(step)
        count = len(self.line.candidates(state.bad, [state.good]))
        state.passes = passes_needed(state.shown, state.trials, candidates=count, confidence=state.asked.confidence)
        state.save(self.one.out.path)
        risk = miss(state.shown, state.trials, state.passes)
        self.one.note(
            f"it showed in {state.shown} of {state.trials} attempts there: {state.passes} passes make a commit good,"
            f" a bad one passes as often with probability {risk:.2g}"
        )
        self.one.note(f"{count} candidates, about {halvings(count)} steps")

    def _try(self, step: Step, trials: int) -> None:
        """Attempts at the case until that many decided something, or too many decided nothing."""
        while tried(step) < trials:
            undecided = len(step.words) - tried(step)
            if undecided >= self.one.policy.undecided:
                return
            self.one.attempt(step, whole=False, repeat=trials - tried(step))

    def _good_end(self) -> None:
        step = self._end(self.state.good, "--good")
        mark = self.one.judged(step)
        asked = self.state.asked
        if mark is Mark.BAD:
            raise UsageError(f"--good {asked.good} shows it too, {self.state.question.text}: {last_of(step).said}")
        if mark is Mark.SKIP:
            kind = NoBootError if Word.NO_BOOT in step.words else InfraError
            raise kind(f"the good end {asked.good} cannot be judged, {step.why}: {last_of(step).said}")

    def _end(self, name: str, option: str) -> Step:
        """The step of an end; an end that does not build ends the bisection."""
        step = self.one.begin(name)
        self.one.build(step)
        if step.not_built:
            raise InfraError(f"the {option.strip('-')} end does not build: {step.not_built}")
        return step
