# SPDX-License-Identifier: GPL-2.0-only
"""What answers of ``gmem model`` are made of, for the terminal and for the page alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from harness.model.curves.simulate import Curves
from harness.model.prediction import Prediction, StepPrediction


@dataclass(frozen=True)
class Line:
    """One curve of the comparison, under its label."""

    label: str
    curves: Curves


@dataclass(frozen=True)
class Plot:
    """A quantity that is shown: a column of the curves, its title and how its values are written."""

    column: str
    title: str
    says: str
    mib: bool = False
    """Pages are shown as MiB."""

    def scaled(self, curves: Curves) -> npt.NDArray[Any]:
        """The values in the unit that is shown."""
        return curves[self.column] / 256 if self.mib else curves[self.column]


PLOTS: Final = (
    Plot(
        "unusable", "free memory unusable at order 9 (MiB)",
        "Free pages in 2 MiB blocks that are not free as a whole, because of what the guest converted.", mib=True,
    ),
    Plot(
        "unusable_part", "part of all free memory unusable at order 9",
        "The kernel's unusable index of order 9 (debugfs extfrag/unusable_index), with what was in pieces before.",
    ),
    Plot("pinned", "pageblocks pinned", "Unmovable blocks in part free: compaction cannot empty them."),
    Plot("huge", "huge folios left", "Large folios of the guest_memfd: only they can be mapped by 2 MiB."),
    Plot(
        "extra", "extra pages held (MiB)",
        "What both sides hold together beyond the size of the guest.", mib=True,
    ),
    Plot("splits", "folios split", "Splits of folios of any order so far."),
    Plot("reused", "frames reused", "Private allocations that got a frame which a conversion had freed."),
)  # fmt: skip
"""What a comparison shows, in this order; the rest is in the JSON."""


@dataclass(frozen=True)
class Predicted:
    """What one design does in the steps of a scenario; ``missing`` says why there is no prediction."""

    label: str
    """The design, and its backing where several are compared."""
    steps: tuple[StepPrediction, ...] = ()
    missing: str = ""


def moved(step: StepPrediction) -> dict[str, Prediction]:
    """The counters that a step may move."""
    return {name: found for name, found in step.predictions.items() if (found.low, found.high) != (0, 0)}


def bounds(prediction: Prediction) -> str:
    """``+512``, or ``0..+4`` for an interval."""
    low, high = (f"{bound:+d}" if bound else "0" for bound in (prediction.low, prediction.high))
    return low if prediction.exact else f"{low}..{high}"


def number(value: float) -> str:
    """A value for people.

    >>> number(1048576), number(0.01234), number(12.5)
    ('1048576', '0.0123', '12.5')
    """
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
