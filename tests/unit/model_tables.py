# SPDX-License-Identifier: GPL-2.0-only
"""Tables of differences worked out on paper, per design, and how the model is held against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from test_model_contents import scenario_of

from harness.model.aligned import size_name
from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.prediction import StepPrediction

Bound = int | tuple[int, int]

START = {
    "gmem/g0": 7, "gmem/g1": 0, "thp_split_page": 3, "thp_split_page_failed": 0, "thp_file_alloc": 0,
    "thp_fault_alloc": 0, "hugetlb/2048kB/free_hugepages": 64, "hugetlb/2048kB/resv_hugepages": 64,
    "hugetlb/2048kB/surplus_hugepages": 0, "thp_split_pmd": 0, "thp_migration_success": 0, "thp_migration_fail": 0,
    "thp_migration_split": 0,
} | {
    f"mthp/{size_name(order)}/{what}": 0 for order in range(1, 10) for what in ("split", "split_failed")
}  # fmt: skip

PRIVATE = "{do: convert, range: 'g0.r0[0:512]', to: private}"
SHARED = "{do: convert, range: 'g0.r0[0:512]', to: shared}"
FILL = "{do: populate, range: 'g0.r0[0:512]'}"


@dataclass(frozen=True)
class Case:
    """Steps as lines of YAML; per step the counters' differences, exact or (low, high), with their wanted values.

    ``refused``: per step that must fail, its error and page.  ``contents``: per step that checks, its runs.
    """

    design: str
    steps: Sequence[str]
    wanted: Sequence[Mapping[str, Bound]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    contents: Mapping[int, list[tuple[int, int, int | None]]] = field(default_factory=dict)

    def predicted(self) -> list[StepPrediction]:
        facts = HostFacts(**({"ncpu": 2, "regions": {"g0.r0": 8, "g1.r0": 8}} | dict(self.facts)))
        return predict(scenario_of(self.steps), design_named(self.design), START, facts)

    def wrong(self) -> list[str]:
        """Sentences on every entry that the model gets wrong."""
        said = []
        for step, bounds in zip(self.predicted(), self.wanted, strict=True):
            for counter, bound in bounds.items():
                low, high = (bound, bound) if isinstance(bound, int) else bound
                got = step.predictions[counter]
                if (got.low, got.high) != (low, high):
                    said.append(f"step {step.index}: {counter} {got.low}..{got.high}, not {low}..{high}")
            refused = (step.refused.errno, step.refused.page) if step.refused else None
            if refused != self.refused.get(step.index):
                said.append(f"step {step.index}: refused {refused}, not {self.refused.get(step.index)}")
            if step.index in self.contents:
                runs = [(run.start, run.count, run.generation) for run in step.contents]
                if runs != self.contents[step.index]:
                    said.append(f"step {step.index}: contents {runs}, not {self.contents[step.index]}")
        return said

    def unreadable(self) -> list[str]:
        """Reasons that are no sentence, and exact bounds that their reasons do not add up to."""
        said = []
        for step in self.predicted():
            reasons = [reason for bound in step.predictions.values() for reason in bound.reasons]
            reasons += [step.refused.reason] if step.refused else []
            said += [r.text for r in reasons if len(r.text.split()) < 4 or "{" in r.text or not r.rule]
            for counter, bound in step.predictions.items():
                exact = [reason.pages for reason in bound.reasons]
                if None not in exact and not sum(exact) == bound.low == bound.high:
                    said.append(f"step {step.index}: {counter} {bound.low}..{bound.high} from {exact}")
        return said


STILL = {
    "nr_file_pages": 0, "nr_unevictable": 0, "nr_zone_unevictable": 0, "gmem/g0": 0, "nr_file_hugepages": 0,
    "thp_split_page": 0, "mthp/2048kB/split": 0, "unevictable_pgs_culled": 0, "unaccounted": 0, "nr_anon_pages": 0,
}  # fmt: skip
"""No page of the guest_memfd comes, goes or changes its size."""
