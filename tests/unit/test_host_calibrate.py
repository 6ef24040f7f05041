# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.counters.sample import Sample
from harness.host.calibrate import idle_noise, largest_moves


def sample(**values: int) -> Sample:
    return Sample(values, {}, 1)


@dataclass
class Restless:
    """Moves by what ``moves`` says between the samples of a window, and by a lot between windows."""

    moves: Iterator[int]
    world: int = 0
    slots: dict[int, Sample] = field(default_factory=dict)

    def settle(self, *, rcu: bool = True) -> None:
        self.world += next(self.moves) if rcu else 1000

    def sample(self, slot: int) -> None:
        self.slots[slot] = sample(F=self.world, still=7)

    def fetch(self, slot: int) -> Sample:
        return self.slots[slot]


def test_the_largest_movement_within_a_window_counts() -> None:
    assert idle_noise(Restless(iter([1, -4, 0, 2])), 4) == {"F": 4}


def test_a_testbed_at_rest_has_no_noise() -> None:
    assert idle_noise(Restless(iter([0, 0])), 2) == {}


def test_counters_that_one_sample_lacks_say_nothing() -> None:
    assert largest_moves([(sample(a=1, b=2), sample(a=1))]) == {}
