# SPDX-License-Identifier: GPL-2.0-only
"""Integrity, guests side by side: what one guest gives up never shows in another one's pages."""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import MESSAGES, Tell
from harness.scenario.region import G0, G1
from harness.scenario.steps import Check, Close, Convert, Place, Populate, Side

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED

ALL = ["order0", "thp-discard", "thp-2m-truncate-noop", "inplace", "inplace-thp-noop"]

pytestmark = pytest.mark.gmem(claim="Integrity", designs=ALL)

WRONG = [Tell(step=-1, first=0, counter=MESSAGES, format="wrong contents {observed} (predicted {predicted})")]


@pytest.mark.parametrize("count", [1, 512])
def test_pages_of_one_go_to_the_other(gmem: Case, count: int) -> None:
    """On one CPU, where freed frames come back first, a guest finds zeroes in the pages that it gets new."""
    mine, yours = G0[0:count], G1[0:count]
    gmem.run(
        Place("g0", 0),
        Place("g1", 0),
        Convert(G0[0:512], PRIVATE),
        Populate(G0[0:512]),
        Convert(G1[0:512], PRIVATE),
        Convert(mine, SHARED),
        Check(yours, "zero"),
        Populate(yours),
        Check(yours, "pattern"),
        guests=2,
        tells=WRONG,
    )


@pytest.mark.gmem(brief=False)
def test_same_places(gmem: Case) -> None:
    """Two guests that write and convert the same pages at the same time each keep their own."""
    gmem.run(
        Convert(G0[0:512], PRIVATE),
        Convert(G1[0:512], PRIVATE),
        Populate(G0[0:512]),
        Populate(G1[0:512]),
        Convert(G0[33], SHARED),
        Convert(G1[34], SHARED),
        Check(G0[34:512], "pattern"),
        Check(G1[35:512], "pattern"),
        Check(G1[0:34], "pattern"),
        guests=2,
        tells=WRONG,
    )


@pytest.mark.gmem(brief=False)
def test_after_another_guest_ended(gmem: Case) -> None:
    """The memory of a guest that ended shows in no page that another one gets."""
    gmem.run(
        Convert(G0[0:512], PRIVATE),
        Populate(G0[0:512]),
        Convert(G1[0:1024], PRIVATE),
        Populate(G1[0:512]),
        Close("g0"),
        Check(G1[512:1024], "zero"),
        Check(G1[0:512], "pattern"),
        guests=2,
        tells=WRONG,
    )
