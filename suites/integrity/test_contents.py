# SPDX-License-Identifier: GPL-2.0-only
"""Integrity: pages that were not converted keep their contents, and pages that come back new are zeroed.

Every word of the pattern names guest, region, page, generation and place: a page of another guest, of another place, or
of a time before is found out, not only a page of zeroes.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import MESSAGES, Tell
from harness.scenario.region import G0
from harness.scenario.steps import Check, Convert, Populate, Side

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED

ALL = ["order0", "thp-discard", "thp-2m-truncate-noop", "inplace", "inplace-thp-noop"]
NEW = ["order0", "thp-discard"]
"""Designs in which a conversion of single pages discards: what comes back is a new page."""
KEPT = ["thp-2m-truncate-noop", "inplace", "inplace-thp-noop"]
"""Designs in which the private page stays: what comes back is the old page."""


def wrong(step: int = -1) -> list[Tell]:
    """Pages with wrong contents in all steps up to ``step``."""
    return [Tell(step=step, first=0, counter=MESSAGES, format="wrong contents {observed} (predicted {predicted})")]


@pytest.mark.gmem(claim="Integrity", designs=ALL)
@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (511, 512), (100, 101), (8, 72), (500, 530), (512, 1024)],
    ids=["first", "last", "one", "aligned", "across", "window"],
)
def test_neighbours(gmem: Case, start: int, end: int) -> None:
    """Pages beside a converted range keep their contents, on the other side of a window's border too."""
    both = G0[0:1024]
    beside = [G0[first:last] for first, last in ((0, start), (end, 1024)) if first < last]
    gmem.run(
        Convert(both, PRIVATE),
        Populate(both),
        Convert(G0[start:end], SHARED),
        Populate(G0[start:end]),
        *(Check(pages, "pattern") for pages in beside),
        Check(G0[start:end], "pattern"),
        tells=wrong(),
    )


@pytest.mark.gmem(claim="Integrity", designs=NEW)
@pytest.mark.parametrize("count", [1, 64, 512])
def test_new_pages_are_zeroed(gmem: Case, count: int) -> None:
    """Pages that went to shared and came back are new ones, zeroed; the others are the old ones."""
    window, there = G0[0:512], G0[0:count]
    gmem.run(
        Convert(window, PRIVATE),
        Populate(window),
        Convert(there, SHARED),
        Check(there, "zero"),
        Convert(there, PRIVATE),
        Check(there, "zero"),
        *([Check(G0[count:512], "pattern")] if count < 512 else []),
        tells=wrong(),
    )


@pytest.mark.gmem(claim="Integrity", designs=KEPT)
@pytest.mark.parametrize("count", [1, 64])
def test_kept_pages_are_the_old_ones(gmem: Case, count: int) -> None:
    """Pages that went to shared and came back without being touched there hold what the guest wrote before."""
    window, there = G0[0:512], G0[0:count]
    gmem.run(
        Convert(window, PRIVATE),
        Populate(window),
        Convert(there, SHARED),
        Convert(there, PRIVATE),
        Check(window, "pattern"),
        tells=wrong(),
    )


@pytest.mark.gmem(claim="Integrity", designs=ALL, brief=False)
def test_page_by_page(gmem: Case) -> None:
    """Every page of a window's half converted with a request of its own: the other half keeps its contents."""
    window, half = G0[0:512], G0[128:384]
    gmem.run(
        Convert(window, PRIVATE),
        Populate(window),
        Convert(half, SHARED, by=1),
        Populate(half),
        Convert(G0[130:140], PRIVATE, by=1),
        Check(G0[0:128], "pattern"),
        Check(G0[384:512], "pattern"),
        Check(G0[140:384], "pattern"),
        tells=wrong(),
    )
