# SPDX-License-Identifier: GPL-2.0-only
"""C4: a guest that splits its mapping does not get the huge one back, unless the design keeps the folio or collapses.

One page of a window goes from private to shared and back, and the guest touches all of the window again.  ``pages_2m``
and ``pages_4k`` are KVM's own counts of what it maps.  Where the conversion discarded, the window is mapped by 512
leaves for good; where the folio stayed, or was put together again, one leaf of 2 MiB takes their place.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import Tell
from harness.scenario.region import G0
from harness.scenario.steps import Convert, Populate, Side

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED
LARGE, SMALL = "kvm/g0/pages_2m", "kvm/g0/pages_4k"

pytestmark = pytest.mark.gmem(claim="C4", designs=["thp-discard", "thp-2m-truncate-noop", "inplace-thp-noop"])


@pytest.mark.parametrize("page", [0, 300, 511], ids=["first", "middle", "last"])
def test_round_trip_of_one_page(gmem: Case, page: int) -> None:
    """After one page went to shared and came back, the window is mapped as large as its folio is, and no larger."""
    window = G0[0:512]
    gmem.run(
        Convert(window, PRIVATE),
        Populate(window),
        Convert(G0[page], SHARED),
        Populate(window),
        Convert(G0[page], PRIVATE),
        Populate(window),
        tells=[
            Tell(step=1, counter=LARGE, format="2 MiB mappings: at first {observed} ({predicted})"),
            Tell(step=3, first=2, counter=LARGE, format="one page shared {observed} ({predicted})"),
            Tell(step=5, first=4, counter=LARGE, format="private again {observed} ({predicted})"),
        ],
    )


@pytest.mark.gmem(brief=False)
def test_neighbouring_window(gmem: Case) -> None:
    """The window beside it stays mapped by one leaf."""
    both = G0[0:1024]
    gmem.run(
        Convert(both, PRIVATE),
        Populate(both),
        Convert(G0[511], SHARED),
        Populate(both),
        Convert(G0[511], PRIVATE),
        Populate(both),
    )


def test_whole_window(gmem: Case) -> None:
    """A window that goes to shared and back as a whole is mapped by one leaf again."""
    window = G0[0:512]
    gmem.run(
        Convert(window, PRIVATE),
        Populate(window),
        Convert(window, SHARED),
        Convert(window, PRIVATE),
        Populate(window),
        tells=[Tell(step=4, counter=LARGE, format="2 MiB mappings: whole window {observed} ({predicted})")],
    )
