# SPDX-License-Identifier: GPL-2.0-only
"""What the model says: bounds with reasons, per counter and step; the conversions and contents that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.model.state import RegionState
from harness.scenario.steps import Side, Step


@dataclass(frozen=True)
class Reason:
    """Why a bound is what it is."""

    rule: str
    """Identifier of the rule, a heading of ``docs/model.md``."""
    text: str
    """One sentence with numbers: ``512 present private pages of g0.r0[0:512] leave the page cache``."""
    pages: int | None = None
    """What this rule alone contributes; None when it makes an interval."""

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@dataclass(frozen=True)
class Prediction:
    """The difference of one counter over one step: between ``low`` and ``high``, both included.

    Raises ValueError without a reason: a number nobody can derive is not a prediction.
    """

    low: int
    high: int
    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        if not self.reasons:
            raise ValueError(f"a prediction of {self.low}..{self.high} without a reason")
        if self.low > self.high:
            raise ValueError(f"a prediction of {self.low}..{self.high}, low above high ({self.reasons[0]})")

    @property
    def exact(self) -> bool:
        """Whether only one value fits."""
        return self.low == self.high

    def __contains__(self, value: int) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class ExpectedConversion:
    """One hypercall the guest must make, and one conversion QEMU must carry out."""

    start_page: int
    """First page, in the region."""
    pages: int
    to: Side
    region: str


@dataclass(frozen=True)
class ExpectedContents:
    """What a run of pages must hold on the side the guest sees."""

    region: str
    start: int
    count: int
    generation: int | None
    """Of the pattern last written; None: every byte is zero."""

    @property
    def kind(self) -> str:
        """``pattern`` or ``zero``."""
        return "zero" if self.generation is None else "pattern"


@dataclass(frozen=True)
class StepPrediction:
    """All that the model says about one step."""

    index: int
    step: Step
    predictions: Mapping[str, Prediction]
    """Counter to its difference over the step.  An absent counter is not predicted."""
    conversions: tuple[ExpectedConversion, ...] = ()
    contents: tuple[ExpectedContents, ...] = ()
    """For Check: what every page of its range must hold, as runs in rising order."""
    generation: int | None = None
    """For Populate and writing Touch: generation of the pattern the guest has to write."""
    unpredicted: Mapping[str, str] = field(default_factory=dict)
    """Counters that this step moves and that no rule can bound, with the reason."""
    regions: Mapping[str, RegionState] = field(default_factory=dict)
    """State of every region after the step; a closed guest's regions are absent."""
