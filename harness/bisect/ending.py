# SPDX-License-Identifier: GPL-2.0-only
"""What a bisection says at its end: the commit, what changed with it, how sure that is, and how to see it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.bisect.confidence import confidence_of
from harness.bisect.decide import Found, Mark, Suspects, Word
from harness.bisect.judging import results_of
from harness.bisect.line import Line
from harness.bisect.question import CaseName, CounterBound, Deviation, deviation_word, observed
from harness.bisect.select import narrow
from harness.bisect.state import State, Step
from harness.run.outcome import telling_first
from harness.run.result import CaseResult, Finding
from harness.run.verdict import Verdict


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, as ``--json`` prints it."""

    found: str
    """Full name of the first bad commit; '' when only skipped ones are left."""
    suspects: tuple[str, ...]
    sentence: str
    confidence: float
    lines: tuple[str, ...]
    steps: int
    builds: int
    """Candidates that were built, both ends among them."""
    runs: int
    seconds: float
    exit_code: int


@dataclass(frozen=True)
class Ending:
    """What an answer is told with."""

    state: State
    line: Line
    folder: Path

    def told(self, answer: Found | Suspects) -> Told:
        """Everything about the answer."""
        steps = self.state.steps
        found = answer.name if isinstance(answer, Found) else ""
        verdict = Verdict.PASS if found else Verdict.INCONCLUSIVE
        sure = self._confidence()
        return Told(
            found=found,
            suspects=() if isinstance(answer, Found) else answer.names,
            sentence=self._sentence(answer),
            confidence=round(sure, 6),
            lines=tuple(self._lines(answer, sure)),
            steps=len(steps),
            builds=sum(step.build_seconds > 0 or bool(step.kernel) for step in steps),
            runs=sum(len(step.attempts) for step in steps),
            seconds=round(sum(step.build_seconds + step.run_seconds for step in steps), 1),
            exit_code=verdict.exit_code,
        )

    def _sentence(self, answer: Found | Suspects) -> str:
        if isinstance(answer, Found):
            return f"the first bad one is {self.line.title(answer.name)}"
        return f"the first bad one is among {len(answer.names)}: the others were skipped"

    def _confidence(self) -> float:
        state = self.state
        rests_on = [step.passes for step in state.steps if step.mark is Mark.GOOD and not step.same_as]
        return confidence_of(state.shown, state.trials, rests_on)

    def _lines(self, answer: Found | Suspects, sure: float) -> Iterator[str]:
        if isinstance(answer, Suspects):
            yield f"the first bad one is among these {len(answer.names)}, of which all but the last were skipped:"
            yield from (f"  {self._told_of(name)}" for name in reversed(answer.names))
            bad = answer.names[-1]
        else:
            yield from self.line.story(answer.name)
            bad = answer.name
        bad_step, good_step = self._judged_like(bad), self._good_before(bad)
        yield f"shows:  {self.state.question.text}, in {self.state.case or 'the cases together'}"
        yield from self._difference(good_step, bad_step)
        yield from self._others()
        yield (
            f"sure:   {sure:.1%}, if the harness can tell at all: the fault showed in {self.state.shown} of"
            f" {self.state.trials} attempts at the bad end, {self.state.passes} passes make one good"
        )
        yield f"again:  {self._again(bad_step)}"
        if good_step is not None:
            yield f"good:   {self._again(good_step)}"

    def _told_of(self, name: str) -> str:
        step = self.state.step(name)
        why = f" ({step.why})" if step is not None and step.why else ""
        return f"{self.line.title(name)}{why}"

    def _judged_like(self, name: str) -> Step | None:
        """The step that was run: its own, or that of the same binary."""
        step = self.state.step(name)
        return self.state.step(step.same_as) if step is not None and step.same_as else step

    def _good_before(self, bad: str) -> Step | None:
        """The good candidate right before it, where there is one; else the last that was called good."""
        for name in self.line.before(bad):
            step = self.state.step(name)
            if step is not None and step.mark is Mark.GOOD:
                return self._judged_like(name)
        goods = [step for step in self.state.steps if step.mark is Mark.GOOD]
        return self._judged_like(goods[-1].name) if goods else None

    def _difference(self, good: Step | None, bad: Step | None) -> Iterator[str]:
        """Predicted and observed of the counter that tells, on both sides."""
        before, after = self._result(good, fault=False), self._result(bad, fault=True)
        if after is None:
            return
        found = self._telling(after)
        if found is None:
            yield f"before: {before.sentence if before else 'not run'}"
            yield f"after:  {after.sentence}"
            return
        step, finding = found
        seen = _same(before, step, finding.counter) if before else None
        text = next(each.text for each in after.steps if each.index == step)
        yield f"step:   {step} ({text})"
        yield f"before: {finding.counter} {seen or 'not observed'}"
        yield f"after:  {finding.counter} {_numbers(finding)}: {finding.reasons[0] if finding.reasons else 'no reason'}"

    def _telling(self, result: CaseResult) -> tuple[int, Finding] | None:
        question = self.state.question
        for step in reversed(result.steps):
            for finding in telling_first(step):
                if isinstance(question, CounterBound):
                    wanted = finding.counter == question.counter and question.step in (None, step.index)
                    value = observed(step, question.counter)
                    if wanted and value is not None and question.crossed(value):
                        return step.index, finding
                elif finding.verdict is Verdict.DEVIATES and not step.messages:
                    return step.index, finding
        return None

    def _result(self, step: Step | None, *, fault: bool) -> CaseResult | None:
        """A result of the case on that candidate, which showed the fault or did not."""
        wanted = Word.FAULT if fault else Word.PASS
        for attempt in step.attempts if step else ():
            if attempt.whole or all(answer.word is not wanted for answer in attempt.answers):
                continue
            for result in results_of(self.folder, attempt):
                named = self.state.case in (None, CaseName(result.suite, result.case))
                if named and self._word(result, wanted) is wanted:
                    return result
        return None

    def _word(self, result: CaseResult, otherwise: Word) -> Word:
        question = self.state.question
        return deviation_word(question, result) if isinstance(question, Deviation) else otherwise

    def _others(self) -> Iterator[str]:
        """Deviations that are not the one that was looked for."""
        for step in self.state.steps:
            for attempt in step.attempts:
                for answer in attempt.answers:
                    if answer.word is Word.OTHER and not attempt.whole:
                        yield f"beside: {step.title}: {answer.said}"

    def _again(self, step: Step | None) -> str:
        if step is None or not step.kernel:
            return "no kernel of it was built"
        return narrow(self.state.asked, self.state.case, 1).text(Path(step.kernel))


def _numbers(finding: Finding) -> str:
    seen = "nothing" if finding.observed is None else f"{finding.observed:+d}"
    return f"predicted {finding.predicted}, observed {seen}"


def _same(result: CaseResult, step: int, counter: str) -> str:
    """The same counter over the same step of another result."""
    for each in result.steps:
        if each.index == step:
            for finding in (*each.findings, *each.stayed):
                if finding.counter == counter:
                    return _numbers(finding)
            if counter in each.recorded:
                return f"not predicted, observed {each.recorded[counter]:+d}"
    return ""


def log_lines(state: State) -> list[str]:
    """One line per candidate: verdict, times, why."""
    return [
        f"{number:3d}. {step.mark.value:4} {step.build_seconds:7.1f} s build {step.run_seconds:7.1f} s run"
        f" {len(step.attempts):2d} runs  {step.title}: {step.why or 'not decided'}"
        for number, step in enumerate(state.steps, 1)
    ]
