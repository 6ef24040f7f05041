# SPDX-License-Identifier: GPL-2.0-only
"""What is asked of every candidate, and what the results of one run answer.  Pure.

Three questions: does the case show this deviation or crash; is this counter beyond this bound; does this kind of step
take that many times as long as at the good end.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from harness.bisect.decide import UNDECIDED, Word
from harness.errors import UsageError
from harness.explore.signature import Signature, signature
from harness.report.compare import compare, kind_of
from harness.run.result import CaseResult, StepResult
from harness.run.verdict import Verdict

_WORDS = {
    Verdict.PASS: Word.PASS,
    Verdict.XFAIL: Word.PASS,
    Verdict.INFRA: Word.INFRA,
    Verdict.INCONCLUSIVE: Word.INCONCLUSIVE,
    Verdict.NO_BOOT: Word.NO_BOOT,
    Verdict.SKIP: Word.ABSENT,
}
NO_BOOT_KIND = "no-boot"


class Answer(msgspec.Struct, frozen=True):
    """What one attempt showed, and in which words."""

    word: Word
    said: str


def counted(seen: Sequence[Answer]) -> list[Answer]:
    """The answers of one run as they count: what it did not decide counts once, since that fails together."""
    decided = [answer for answer in seen if answer.word not in UNDECIDED]
    return decided + [answer for answer in seen if answer.word in UNDECIDED][:1]


class CaseName(msgspec.Struct, frozen=True):
    """A case of a suite."""

    suite: str
    case: str

    def __str__(self) -> str:
        return f"{self.suite}/{self.case}"


class Deviation(msgspec.Struct, frozen=True, tag="deviation"):
    """Does the case show this?  Without a signature: anything (only until the bad end was seen)."""

    shown: Signature | None = None

    @property
    def text(self) -> str:
        """What is looked for."""
        return str(self.shown) if self.shown else "a deviation or a crash"


class CounterBound(msgspec.Struct, frozen=True, tag="counter"):
    """Does the counter move by more than ``above``, or by less than ``below``, over a step?"""

    counter: str
    step: int | None = None
    """Index of the step; None is any."""
    above: int | None = None
    below: int | None = None

    @property
    def text(self) -> str:
        """What is looked for."""
        bound = f"above {self.above:+d}" if self.above is not None else f"below {self.below:+d}"
        return f"{self.counter} {bound} over {'a step' if self.step is None else f'step {self.step}'}"

    def crossed(self, value: int) -> bool:
        """Whether a value is beyond the bound."""
        over = self.above is not None and value > self.above
        return over or (self.below is not None and value < self.below)


class CostRatio(msgspec.Struct, frozen=True, tag="cost"):
    """Do steps of this kind surely take more than ``above`` times as long as at the good end?"""

    kind: str
    above: float

    @property
    def text(self) -> str:
        """What is looked for."""
        return f"{self.kind} taking more than {self.above:g} times as long"


Question = Deviation | CounterBound | CostRatio


def answers(
    question: Question, case: CaseName | None, results: Sequence[CaseResult], baseline: Sequence[CaseResult] = ()
) -> list[Answer]:
    """What the results of one run answer: one answer for each attempt at the case, or one for a cost.

    ``case``: None is every case of the run.  ``baseline``: results of the good end, for a cost.
    """
    if isinstance(question, CostRatio):
        return [_cost_answer(question, results, baseline)]
    asked = [result for result in results if case is None or CaseName(result.suite, result.case) == case]
    found = [_answer(question, result) for result in asked]
    if any(answer.word in (Word.INFRA, Word.NO_BOOT) for answer in found):  # the others only refer to that one
        found = [answer for answer in found if answer.word is not Word.ABSENT]
    return found


def _answer(question: Deviation | CounterBound, result: CaseResult) -> Answer:
    if isinstance(question, Deviation):
        return Answer(deviation_word(question, result), result.sentence)
    return _counter_answer(question, result)


def shown_by(result: CaseResult) -> Signature | None:
    """What a case showed of the kernel; a kernel that does not come up shows something too."""
    if result.verdict is Verdict.NO_BOOT:
        return Signature(NO_BOOT_KIND, "the kernel does not come up")
    return signature(result)


def deviation_word(question: Deviation, result: CaseResult) -> Word:
    """Whether a case showed what is looked for."""
    if question.shown is not None and shown_by(result) == question.shown:
        return Word.FAULT
    if result.verdict in (Verdict.DEVIATES, Verdict.CRASH):
        return Word.FAULT if question.shown is None else Word.OTHER
    return _WORDS.get(result.verdict, Word.INFRA)


def _counter_answer(question: CounterBound, result: CaseResult) -> Answer:
    """A value counts whatever the verdict of its case, if the walk came to its step."""
    if result.verdict not in (Verdict.PASS, Verdict.DEVIATES, Verdict.XFAIL):
        return Answer(_WORDS.get(result.verdict, Word.OTHER), result.sentence)
    steps = [step for step in result.steps if question.step in (None, step.index)]
    seen = [(step, observed(step, question.counter)) for step in steps]
    values = [(step, value) for step, value in seen if value is not None]
    crossed = [(step, value) for step, value in values if question.crossed(value)]
    if crossed:
        step, value = crossed[0]
        return Answer(Word.FAULT, f"{question.counter} {value:+d} over step {step.index} ({step.text})")
    cut_off = result.verdict is Verdict.DEVIATES  # the walk stopped there: what comes behind is not known
    if cut_off and (question.step is None or not values):
        return Answer(Word.OTHER, result.sentence)
    if not values:
        return Answer(Word.ABSENT, f"{question.counter} is not among what was observed")
    most = max(values, key=lambda item: abs(item[1]))
    return Answer(Word.PASS, f"{question.counter} {most[1]:+d} over step {most[0].index} ({most[0].text})")


def observed(step: StepResult, counter: str) -> int | None:
    """How far a counter moved over a step; None if it was not observed."""
    for finding in (*step.findings, *step.stayed):
        if finding.counter == counter:
            return finding.observed
    return step.recorded.get(counter)


def _cost_answer(question: CostRatio, results: Sequence[CaseResult], baseline: Sequence[CaseResult]) -> Answer:
    trouble = next((r for r in results if r.verdict in (Verdict.INFRA, Verdict.NO_BOOT, Verdict.CRASH)), None)
    if trouble is not None or not results:
        sentence = trouble.sentence if trouble else "no case ran"
        return Answer(_WORDS.get(trouble.verdict, Word.OTHER) if trouble else Word.ABSENT, sentence)
    costs = {cost.kind: cost for cost in compare("", baseline, "", results).costs}
    cost = costs.get(question.kind)
    if cost is None:
        return Answer(Word.ABSENT, f"too few steps of the kind {question.kind} in both runs")
    said = f"{question.kind}: {cost.ratio:.2f} times as long ({cost.low:.2f} to {cost.high:.2f}, {cost.pairs} steps)"
    if cost.low > question.above:
        return Answer(Word.FAULT, said)
    return Answer(Word.PASS if cost.high <= question.above else Word.INCONCLUSIVE, said)


def kinds_of(results: Sequence[CaseResult]) -> list[str]:
    """Kinds of steps that the results have, for a message."""
    return sorted({kind_of(step.text) for result in results for step in result.steps})


def narrowest(question: Question, results: Sequence[CaseResult]) -> tuple[Question, CaseName, CaseResult] | None:
    """From what the bad end showed: what to look for from now on, and the shortest case that shows it.

    The signature is that of the first case that shows anything.  None if no case does.
    """
    shows = [result for result in results if _shows(question, result)]
    if not shows:
        return None
    if isinstance(question, Deviation):
        question = Deviation(shown_by(shows[0]))
        shows = [result for result in shows if shown_by(result) == question.shown]
    least = min(shows, key=lambda result: (len(result.steps), result.seconds))
    return question, CaseName(least.suite, least.case), least


def _shows(question: Question, result: CaseResult) -> bool:
    if isinstance(question, Deviation):
        return shown_by(result) is not None if question.shown is None else shown_by(result) == question.shown
    if isinstance(question, CounterBound):
        return _counter_answer(question, result).word is Word.FAULT
    raise UsageError("a cost is asked of all cases together")
