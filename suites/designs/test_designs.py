# SPDX-License-Identifier: GPL-2.0-only
"""Designs: one story that every gmem design tells in another way, so that a kernel of one cannot pass as another.

A window of 2 MiB goes private and is filled; one page in its middle goes to shared, is written there, and comes back;
the whole window is filled again, and the host punches a hole of one page.  Single pages or one folio, freed or kept,
split or whole, put together again or not, shows in the pages of the guest_memfd, in its huge folios, or in what the
shared side takes.
"""

from __future__ import annotations

from harness.pytest_plugin import Case
from harness.run.tell import Tell
from harness.scenario.region import G0
from harness.scenario.steps import Check, Convert, Populate, PunchHole, Side, Step

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED
WINDOW, PAGE = G0[0:512], G0[200]

STORY: tuple[Step, ...] = (
    Convert(WINDOW, PRIVATE),
    Populate(WINDOW),
    Convert(PAGE, SHARED),
    Populate(PAGE),
    Convert(PAGE, PRIVATE),
    Check(PAGE, "either"),
    Populate(WINDOW),
    PunchHole(G0[300]),
)


def test_one_page_out_and_back(gmem: Case) -> None:
    """One page of a private window goes out and comes back; the kernel does to it what the named design does."""
    gmem.run(
        *STORY,
        tells=[
            Tell(step=1, counter="nr_file_hugepages", format="huge folios {observed} ({predicted})"),
            Tell(step=2, counter="nr_file_pages", format="one page shared: private pages {observed} ({predicted})"),
            Tell(
                step=6, first=2, counter="nr_file_hugepages", format="huge folios afterwards {observed} ({predicted})"
            ),
        ],
    )
