# SPDX-License-Identifier: GPL-2.0-only
"""Adds contributions per counter and turns them into predictions, each with its reasons."""

from __future__ import annotations

from collections.abc import Iterable

from harness.model.events import Event
from harness.model.prediction import Prediction, Reason


class Ledger:
    """The contributions to one step.  A counter opened and never moved is predicted 0 for its opening reason."""

    def __init__(self) -> None:
        self._low: dict[str, int] = {}
        self._high: dict[str, int] = {}
        self._reasons: dict[str, list[Reason]] = {}
        self._opening: dict[str, Reason] = {}

    def open(self, counters: Iterable[str], rule: str, text: str) -> None:
        """These counters are predicted in this step: 0 because of ``text``, unless something moves them."""
        reason = Reason(rule, text, 0)
        for counter in counters:
            self._opening.setdefault(counter, reason)

    def opened(self) -> tuple[str, ...]:
        """Counters that are predicted in this step so far."""
        return tuple(sorted(self._opening.keys() | self._reasons.keys()))

    def post(self, events: Iterable[Event]) -> None:
        """Each event moves the counters of its kind."""
        for event in events:
            for counter, difference in event.moves():
                self.add(counter, difference, difference, event.reason(difference))

    def add(self, counter: str, low: int, high: int, reason: Reason) -> None:
        """One contribution between ``low`` and ``high``."""
        self._low[counter] = self._low.get(counter, 0) + low
        self._high[counter] = self._high.get(counter, 0) + high
        self._reasons.setdefault(counter, []).append(reason)

    def allow(self, counter: str, low: int, high: int, rule: str, text: str) -> None:
        """An interval; nothing when it is 0..0."""
        if (low, high) != (0, 0):
            self.add(counter, low, high, Reason(rule, text, low if low == high else None))

    def drop(self, counters: Iterable[str]) -> None:
        """These counters are not predicted after all."""
        for counter in counters:
            for kept in (self._low, self._high, self._reasons, self._opening):
                kept.pop(counter, None)

    def close(self) -> dict[str, Prediction]:
        """Predictions of all counters, sorted by name."""
        found = {}
        for counter in sorted(self._opening.keys() | self._reasons.keys()):
            reasons = tuple(self._reasons.get(counter, ())) or (self._opening[counter],)
            found[counter] = Prediction(self._low.get(counter, 0), self._high.get(counter, 0), reasons)
        return found
