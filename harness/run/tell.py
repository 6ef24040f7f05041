# SPDX-License-Identifier: GPL-2.0-only
"""What a case says in the table of claims: the few numbers that are its headline.

>>> Tell(step=3, counter="nr_file_hugepages", format="huge folios {observed} (predicted {predicted})").step
3
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from harness.errors import UsageError
from harness.run.result import CaseResult, StepResult, Told

MESSAGES = "messages"
"""In place of a counter: findings of a step that are none (contents, conversions, witnesses); 0 is predicted."""

_FIELDS = {"observed", "predicted", "step"}


@dataclass(frozen=True)
class Tell:
    """One headline number of a case.  Raises ``UsageError`` for a format that names something unknown."""

    step: int
    """Index of the step; negative ones count from the end."""
    counter: str
    """A counter, or ``messages``."""
    format: str = ""
    """A sentence with ``{observed}``, ``{predicted}`` and ``{step}``; default: ``COUNTER +1 (predicted +1)``."""
    first: int | None = None
    """With it, the sum over the steps from this one to ``step``."""
    x: float | None = None
    axis: str = ""
    """Makes the case a point of a curve: where it stands (e.g. 30) on which axis (e.g. ``% of memory in pieces``)."""

    def __post_init__(self) -> None:
        try:
            used = {name for _, name, _, _ in string.Formatter().parse(self.format) if name is not None}
        except ValueError as error:
            raise UsageError(f"Tell of {self.counter}: the format {self.format!r} cannot be read: {error}") from None
        if used - _FIELDS:
            known = ", ".join(f"{{{name}}}" for name in sorted(_FIELDS))
            raise UsageError(f"Tell of {self.counter}: the format {self.format!r} may use {known} and nothing else")
        if (self.x is None) != (not self.axis):
            raise UsageError(f"Tell of {self.counter}: x and axis (what x counts) go together")


def with_tells(tells: Sequence[Tell], steps: int, result: CaseResult) -> CaseResult:
    """The result with what it tells; ``steps`` is the number of steps of its scenario."""
    return msgspec.structs.replace(result, tells=tuple(_told(tell, steps, result.steps) for tell in tells))


def check_tells(tells: Sequence[Tell], steps: int) -> None:
    """Raises ``UsageError`` for a tell about a step that the scenario has not."""
    for tell in tells:
        for index in (tell.step, tell.step if tell.first is None else tell.first):
            if not -steps <= index < steps:
                raise UsageError(f"Tell of {tell.counter}: there is no step {index}, the scenario has {steps} steps")
        first, last = _span(tell, steps)
        if first > last:
            raise UsageError(f"Tell of {tell.counter}: its first step {first} comes after its last, {last}")


def value(step: StepResult, counter: str) -> tuple[int | None, int | None, int | None]:
    """Lowest and highest predicted value and the observed one; None for what nobody predicted or observed.

    A counter of which a step says nothing was not predicted and did not move, or the kernel does not have it.
    """
    if counter == MESSAGES:
        return 0, 0, len(step.messages)
    for finding in step.findings:
        if finding.counter == counter:
            return finding.low, finding.high, finding.observed
    if any(counter in names for names in step.still.values()):
        return 0, 0, 0
    return None, None, step.recorded.get(counter)


def _span(tell: Tell, steps: int) -> tuple[int, int]:
    first = tell.step if tell.first is None else tell.first
    return first % steps, tell.step % steps


def _told(tell: Tell, steps: int, walked: Sequence[StepResult]) -> Told:
    first, last = _span(tell, steps)
    wanted = [step for step in walked if first <= step.index <= last]
    values = [value(step, tell.counter) for step in wanted]
    complete = len(wanted) == last - first + 1
    low = high = observed = None
    if complete and all(row[0] is not None for row in values):
        low, high = (sum(row[place] or 0 for row in values) for place in (0, 1))
    if complete and any(row[2] is not None for row in values):  # a step that does not name it did not move it
        observed = sum(row[2] or 0 for row in values)
    made = Told(
        counter=tell.counter, first=first, step=last, low=low, high=high, observed=observed, text="",
        x=tell.x, axis=tell.axis,
    )  # fmt: skip
    seen = "?" if observed is None else f"{observed:+d}"
    text = tell.format or f"{tell.counter.replace('{', '{{').replace('}', '}}')} {{observed}} (predicted {{predicted}})"
    said = text.format(observed=seen if complete else "not reached", predicted=made.predicted, step=last)
    return msgspec.structs.replace(made, text=said)
