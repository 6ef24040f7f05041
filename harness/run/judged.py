# SPDX-License-Identifier: GPL-2.0-only
"""Which predictions a verdict may rest on: on a host that others use too, only those on counters of our own objects.

Noise is no way around that: the machine-wide counters of such a host move at any time and by any amount, so that what
its empty windows showed bounds nothing of what the next window will.  Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.model.prediction import StepPrediction
from harness.model.quiet import matches

NOT_OURS = "the host under test is not ours alone: whatever else runs on it moves this counter"


NO_GUEST_MEMFD = "an ordinary guest has no guest_memfd: neither it nor KVM's tables are watched"
MACHINE_WIDE = ("[!gk]*",)
"""All but gmem/GUEST and kvm/GUEST/*."""


def judged_only(prediction: StepPrediction, patterns: Sequence[str], why: str = NOT_OURS) -> StepPrediction:
    """The prediction for the counters that match; the others are unpredicted, with the reason."""
    wanted = tuple(patterns)
    kept = {name: bound for name, bound in prediction.predictions.items() if matches(name, wanted)}
    if len(kept) == len(prediction.predictions):
        return prediction
    dropped = {name: why for name in prediction.predictions.keys() - kept.keys()}
    return replace(prediction, predictions=kept, unpredicted={**prediction.unpredicted, **dropped})
