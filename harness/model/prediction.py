# SPDX-License-Identifier: GPL-2.0-only
"""What the model says: bounds with reasons, per counter and step; the conversions and contents that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.model.demand import Demand
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
class ExpectedView:
    """What a run of pages must look like to the host, where QEMU has the guest's RAM."""

    region: str
    start: int
    count: int
    generation: int | None
    """Of the pattern that may be read there; None: nothing that the guest wrote."""
    refused: bool = False
    """The kernel refuses to show the pages: they are private pages of the very file that is mapped."""
    mapped: bool = False
    """The pages are mapped, so that not to see them is wrong too."""


@dataclass(frozen=True)
class ExpectedError:
    """A call that the kernel must refuse, and what it may say of how far it came.

    What the call did before it was refused is in the counters and regions of the step, like everything else.
    """

    errno: str
    """Name of the error, e.g. ``EAGAIN``."""
    call: str
    """What is refused: ``convert``, ``punch`` or ``allocate``."""
    region: str
    page: int
    """First page of the region that the kernel did not do: where its ``error_offset`` points, if the call has one."""
    reason: Reason

    def __str__(self) -> str:
        return f"{self.call} fails with {self.errno} at page {self.page} of {self.region} ({self.reason})"


@dataclass(frozen=True)
class Flow:
    """Pages of one migratetype that a step takes from and gives back to the free lists on one CPU."""

    allocated: int = 0
    freed: int = 0


@dataclass(frozen=True)
class StepPrediction:
    """All that the model says about one step."""

    index: int
    step: Step
    predictions: Mapping[str, Prediction]
    """Counter to its difference over the step.  An absent counter is not predicted."""
    conversions: tuple[ExpectedConversion, ...] = ()
    """In order; where ``refused`` speaks of a conversion, the last one is the one that the kernel refuses."""
    contents: tuple[ExpectedContents, ...] = ()
    """For Check: what every page of its range must hold, as runs in rising order."""
    views: tuple[ExpectedView, ...] = ()
    """For Peek: what the host may see of every page of its range, as runs in rising order."""
    last_vm: bool = False
    """The last VM of the host goes, and KVM's page tables with it."""
    generation: int | None = None
    """For Populate and writing Touch: generation of the pattern the guest has to write."""
    unpredicted: Mapping[str, str] = field(default_factory=dict)
    """Counters that this step moves and that no rule can bound, with the reason."""
    regions: Mapping[str, RegionState] = field(default_factory=dict)
    """State of every region after the step; a closed guest's regions are absent.

    Where large allocations may have failed it is the state in which none did.
    """
    refused: ExpectedError | None = None
    """The error that the step must end with; None: it must succeed."""
    traffic_by_cpu: Mapping[int | None, Mapping[str, Flow]] = field(default_factory=dict)
    """CPU to migratetype to pages: whose per-CPU list the step draws on and refills, slabs left out.

    None: the guest was never placed, so that any CPU may have done it.
    """
    demand: Demand | None = None
    """What the step asks of the free lists; None where that is not known."""
