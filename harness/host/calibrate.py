# SPDX-License-Identifier: GPL-2.0-only
"""The noise of a testbed: what its counters do in windows like those of a step, in which nothing is done.

A saved testbed is restored once for it and the result kept in its description; every case then measures one more window
of its own, because the machine may be busier by then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from harness.counters.sample import Sample, difference

WINDOWS = 16
"""About a second.  On quiet and on busy machines all of 160 windows of 7.3 moved nothing."""


class Sampled(Protocol):
    """What is needed of a testbed."""

    def settle(self, *, rcu: bool = True) -> None:
        """Bring the kernel's counters to rest."""

    def sample(self, slot: int) -> None:
        """Read all counters into a slot."""

    def fetch(self, slot: int) -> Sample:
        """The counters of a slot."""


def largest_moves(windows: Iterable[tuple[Sample, Sample]]) -> dict[str, int]:
    """The largest absolute movement of each counter in one of the windows; counters that never moved are left out."""
    largest: dict[str, int] = {}
    for before, after in windows:
        for counter, moved in difference(before, after).items():
            if abs(moved) > largest.get(counter, 0):
                largest[counter] = abs(moved)
    return largest


def idle_noise(testbed: Sampled, windows: int = WINDOWS) -> dict[str, int]:
    """Observe ``windows`` windows as a step is observed, with nothing in them."""

    def window() -> tuple[Sample, Sample]:
        testbed.settle(rcu=False)
        testbed.sample(0)
        testbed.settle()
        testbed.sample(1)
        return testbed.fetch(0), testbed.fetch(1)

    return largest_moves(window() for _ in range(windows))
