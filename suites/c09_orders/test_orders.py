# SPDX-License-Identifier: GPL-2.0-only
"""C9: nothing is special about 2 MiB: the order of folios is a parameter, and windows are as large as folios are.

An empty window of 64 KiB, 256 KiB or 1 MiB gets a folio of that size; a partial conversion splits it, and it comes back
only when its whole window was given up.  For one order after the other:

    gmem run c09_orders --kernel 7.3-thp-orders --cmdline kvm.gmem_order=4 --design thp-discard:4
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import Tell
from harness.scenario.region import G0
from harness.scenario.steps import Check, Convert, Populate, Side, Touch

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED
PAGES, FREE = "nr_file_pages", "F"

pytestmark = pytest.mark.gmem(claim="C9", designs=["thp-discard", *(f"thp-discard:{order}" for order in (2, 4, 6, 8))])

CHUNK = G0[0:512]


def test_first_touch(gmem: Case) -> None:
    """The touch of one page brings its window and no more, whatever the order is."""
    gmem.run(
        Convert(CHUNK, PRIVATE),
        Touch(G0[300]),
        tells=[Tell(step=1, counter=PAGES, format="pages at the touch of one {observed} ({predicted})")],
    )


def test_partial_conversion(gmem: Case) -> None:
    """One page given up and taken again, then its whole chunk: pages come and go in windows of the folios' size."""
    gmem.run(
        Convert(CHUNK, PRIVATE),
        Populate(CHUNK),
        Convert(G0[301], SHARED),
        Convert(G0[301], PRIVATE),
        Touch(G0[301]),
        Check(G0[0:301], "pattern"),
        Convert(CHUNK, SHARED),
        Convert(CHUNK, PRIVATE),
        Touch(G0[301]),
        tells=[
            Tell(step=2, counter=PAGES, format="one page to shared {observed} ({predicted})"),
            Tell(step=4, counter=PAGES, format="taken again {observed} ({predicted})"),
            Tell(step=8, counter=PAGES, format="in an empty window {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
def test_window_given_up(gmem: Case) -> None:
    """Four pages of a window, aligned as folios of order 2 are, then the rest of their chunk."""
    gmem.run(Convert(CHUNK, PRIVATE), Populate(CHUNK), Convert(G0[256:260], SHARED), Convert(CHUNK, SHARED))
