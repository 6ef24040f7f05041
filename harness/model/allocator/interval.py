# SPDX-License-Identifier: GPL-2.0-only
"""An answer of the allocator model: one number, or bounds, with the rule that derives them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``, both included; ``rule`` says in a sentence why.

    Raises ValueError without a rule: a bound that nobody can derive is not an answer.
    """

    low: int
    high: int
    rule: str

    def __post_init__(self) -> None:
        if not self.rule:
            raise ValueError(f"an interval {self.low}..{self.high} without a rule")
        if self.low > self.high:
            raise ValueError(f"an interval {self.low}..{self.high}, low above high ({self.rule})")

    @classmethod
    def exactly(cls, value: int, rule: str) -> Interval:
        return cls(value, value, rule)

    @property
    def exact(self) -> bool:
        return self.low == self.high

    def __contains__(self, value: int) -> bool:
        return self.low <= value <= self.high
