# SPDX-License-Identifier: GPL-2.0-only
"""C12: repeated partial conversions make it monotonically worse: the course of huge folios and pages, per design.

A guest of 16 MiB, all private, converts single pages to shared and back, as a driver with bounce buffers does.  What
each conversion does to the number of huge folios is predicted and measured, one by one; the table of claims draws the
course.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import Tell
from harness.scenario.region import G0
from harness.scenario.steps import Convert, Place, Populate, Side, Step

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED
HUGE = "nr_file_hugepages"

pytestmark = pytest.mark.gmem(
    claim="C12", designs=["order0", "thp-discard", "thp-2m-truncate-noop", "inplace", "inplace-thp-noop"]
)

ALL = G0[0:4096]
BEGIN = (Place("g0", 0), Convert(ALL, PRIVATE), Populate(ALL))
ROUNDS = 48
"""To shared and back: 96 conversions.  Drawn evenly, 48 pages meet each of 8 windows with a probability of 99 %."""
BRIEF = 12
TOUCHED_EVERY = 12
"""Rounds after which the guest touches all of its memory."""
RUN = 125
"""Pages that go to shared and back one by one in a round of the long case: 40 rounds are 10,000 conversions."""


def rounds(firsts: Sequence[int], count: int = 1) -> tuple[Step, ...]:
    """``count`` pages from each of ``firsts`` go to shared and come back; now and then the guest touches everything."""
    steps: list[Step] = []
    for number, first in enumerate(firsts, 1):
        there = G0[first : first + count]
        steps += Convert(there, SHARED, by=1), Convert(there, PRIVATE, by=1)
        if number % TOUCHED_EVERY == 0:
            steps.append(Populate(ALL))
    return tuple(steps)


def told(steps: Sequence[Step]) -> tuple[Tell, ...]:
    """Huge folios and pages lost over all conversions."""
    last = len(BEGIN) + len(steps) - 1
    made = sum(len(step.calls()) for step in steps if isinstance(step, Convert))
    return (
        Tell(step=2, counter=HUGE, format="huge folios at first {observed} ({predicted})"),
        Tell(step=last, first=3, counter=HUGE, format=f"after {made} conversions {{observed}} ({{predicted}})"),
    )


@pytest.mark.parametrize(("number", "count"), [(BRIEF, 1), (ROUNDS, 1), (40, RUN)], ids=["24", "96", "10000"])
def test_anywhere(gmem: Case, number: int, count: int) -> None:
    """Pages anywhere: each window that a conversion meets loses its huge folio, and none comes back."""
    firsts = random.Random("anywhere").sample(range(4096 - count), number)  # the same ones in every run
    steps = rounds(firsts, count)
    gmem.run(*BEGIN, *steps, tells=told(steps))


@pytest.mark.gmem(brief=False)
def test_one_window(gmem: Case) -> None:
    """Pages of one window: it costs one huge folio, however often."""
    steps = rounds([1024 + number * 37 % 512 for number in range(ROUNDS)])
    gmem.run(*BEGIN, *steps, tells=told(steps))
