# SPDX-License-Identifier: GPL-2.0-only
"""Which rules of the model the cases of an exploration put to the test, and which they never met.

A rule is met where a step that was walked has it among the reasons of a bound, or of an error that had to come.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.explore.signature import rule_of
from harness.model.rules import rules_of
from harness.run.evidence import PREDICTION


@dataclass
class Coverage:
    """Rules and combinations of rules, with the number of cases that met them."""

    design: str
    cases: Counter[str] = field(default_factory=Counter)
    combinations: Counter[frozenset[str]] = field(default_factory=Counter)

    def add(self, rules: Iterable[str]) -> bool:
        """Count a case; whether its combination of rules is a new one."""
        met = frozenset(rules)
        self.cases.update(met)
        self.combinations[met] += 1
        return self.combinations[met] == 1 and bool(met)

    @property
    def met(self) -> Mapping[str, int]:
        """Rules of the design with the cases that met them, the rarest last."""
        known = rules_of(self.design)
        return {rule: count for rule, count in self.cases.most_common() if rule in known}

    @property
    def never(self) -> Mapping[str, str]:
        """Rules of the design that no case met, with what a scenario needs for them ('' for nothing in particular)."""
        return {rule: needs for rule, needs in rules_of(self.design).items() if not self.cases[rule]}


def rules_met(evidence: Path, steps: int) -> tuple[frozenset[str], ...]:
    """The rules in the predictions that a case left in its evidence, one set for each of its first ``steps`` steps.

    Empty where the case came to no prediction.
    """
    try:
        predictions: list[dict[str, Any]] = json.loads((evidence / PREDICTION).read_bytes())
    except (OSError, ValueError):
        return ()
    met: list[frozenset[str]] = []
    for step in predictions[:steps]:
        found = {rule_of(reason) for bound in step["counters"].values() for reason in bound["reasons"]}
        found |= {rule_of(reason) for reason in step["still"]}
        found |= {rule_of(step["refused"])} if "refused" in step else set()
        met.append(frozenset(found))
    return tuple(met)
