# SPDX-License-Identifier: GPL-2.0-only
"""What a walk leaves in the evidence of its case: samples and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.counters.sample import Sample
from harness.model.prediction import Prediction, StepPrediction

SAMPLES = "samples"
PREDICTION = "prediction.json"
_OF_STEPS = "step*.json"


def keep_sample(evidence: Path, name: str, sample: Sample) -> None:
    """The kernel's own texts of a sample, and the values made from them."""
    folder = evidence / SAMPLES
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_bytes(
        msgspec.json.encode({"raw": dict(sample.raw), "time_ns": sample.time_ns, "values": dict(sample.values)})
    )


def thin_out(evidence: Path) -> None:
    """Of a case that passes only the first sample stays.

    Every difference is in its result, and 33 kB for each sample would be most of what hundreds of cases leave behind.
    """
    for file in (evidence / SAMPLES).glob(_OF_STEPS):
        file.unlink()


def keep_predictions(evidence: Path, predictions: Sequence[StepPrediction]) -> None:
    """The prediction of every step with its reasons; the counters that stay by their reason, one for hundreds."""
    plain = [
        {
            "index": step.index,
            "step": step.step.text(),
            "counters": {
                name: {"low": p.low, "high": p.high, "reasons": [str(reason) for reason in p.reasons]}
                for name, p in sorted(step.predictions.items())
                if not _stays(p)
            },
            "still": _still(step),
            "unpredicted": dict(sorted(step.unpredicted.items())),
            **({"refused": str(step.refused.reason)} if step.refused else {}),
        }
        for step in predictions
    ]
    lines = b",\n".join(msgspec.json.encode(step) for step in plain)  # a step a line: indented it is twice as large
    (evidence / PREDICTION).write_bytes(b"[\n" + lines + b"\n]\n")


def _stays(bound: Prediction) -> bool:
    """Whether a counter is predicted to stay because nothing moves it."""
    return bound.low == bound.high == 0 and len(bound.reasons) == 1


def _still(step: StepPrediction) -> dict[str, list[str]]:
    """Reason to the counters that stay for it."""
    still: dict[str, list[str]] = {}
    for name, bound in sorted(step.predictions.items()):
        if _stays(bound):
            still.setdefault(str(bound.reasons[0]), []).append(name)
    return still
