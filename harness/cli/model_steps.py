# SPDX-License-Identifier: GPL-2.0-only
"""Predictions of scenarios of steps for ``gmem model``, and the reasons of one counter."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import UsageError
from harness.model.curves.designs import design_named as curve_design
from harness.model.designs import backing_named, design_named
from harness.model.explain import explain
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.report.model_terms import Predicted
from harness.scenario.scenario import Scenario

SYNTHETIC_START: Mapping[str, int] = {
    "pcp": 0, "free/Unmovable": 0, "free/Reclaimable": 0, "free_order/10": 4096, "thp_split_page": 0,
    "thp_split_page_failed": 0, "thp_fault_alloc": 0, "thp_file_alloc": 0, "thp_split_pmd": 0,
}  # fmt: skip
"""First sample of a made-up host: plenty of free order-10 blocks, all Movable; names of counters are what matters."""


def predicted(
    scenario: Scenario, design: str, backing: str, sample: Mapping[str, int] | None, label: str = ""
) -> Predicted:
    """The prediction for ``design``, seeded from a sample's counters or a synthetic start."""
    scenario.check()
    record = curve_design(design)
    facts = HostFacts(
        ncpu=2, regions={name: scenario.chunks for name in scenario.regions}, uniform_split=record.uniform
    )
    start = dict(SYNTHETIC_START if sample is None else sample)
    start |= {f"gmem/{guest}": 0 for guest in facts.guests}
    order = record.order if ":" in design else None
    try:
        rules = design_named(record.steps or record.name, order)
        steps = predict(scenario, rules, start, facts, backing=backing_named(backing))
    except UsageError as error:
        return Predicted(label or design, missing=str(error))
    return Predicted(label or design, tuple(steps))


def explanation(found: Predicted, counter: str, index: int) -> str:
    """Why a counter moves in a step, as lines; raises UsageError for what is not there."""
    if found.missing:
        return f"design {found.label}: no prediction: {found.missing}"
    return f"design {found.label}\n{explain(found.steps, counter, index)}"


def plain(found: Predicted) -> dict[str, object]:
    """For ``--json``."""
    steps = [
        {
            "index": step.index,
            "step": step.step.text(),
            "counters": {
                name: {"low": p.low, "high": p.high, "reasons": [str(reason) for reason in p.reasons]}
                for name, p in sorted(step.predictions.items())
            },
            "unpredicted": dict(sorted(step.unpredicted.items())),
        }
        for step in found.steps
    ]
    return {"label": found.label, "missing": found.missing, "steps": steps}
