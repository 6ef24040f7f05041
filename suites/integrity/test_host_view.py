# SPDX-License-Identifier: GPL-2.0-only
"""Integrity, from the host's side: what a guest has private shows nowhere in the RAM that its QEMU has mapped.

The host reads the memory of the QEMU process.  Where private pages are memory of their own, what shows is the shared
side, which the conversion discarded; where the guest_memfd itself is mapped, its private pages refuse to be read.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import MESSAGES, Tell
from harness.scenario.region import G0, G1
from harness.scenario.steps import Convert, Peek, Populate, Side

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED

ALL = ["order0", "thp-discard", "thp-2m-truncate-noop", "inplace", "inplace-thp-noop"]

pytestmark = pytest.mark.gmem(claim="Integrity", designs=ALL)

SEEN = [Tell(step=-1, first=0, counter=MESSAGES, format="views of the host that are wrong {observed} ({predicted})")]


def test_private_pages_do_not_show(gmem: Case) -> None:
    """The host sees what the guest shares, and nothing of it once it is private, nor what is written there then."""
    chunk, some = G0[0:512], G0[100:300]
    gmem.run(
        Populate(chunk),
        Peek(chunk),
        Convert(some, PRIVATE),
        Peek(chunk),
        Populate(some),
        Peek(chunk),
        Convert(G0[150], SHARED),
        Populate(G0[150]),
        Peek(chunk),
        tells=SEEN,
    )


@pytest.mark.gmem(brief=False)
def test_another_guest_shares_beside_it(gmem: Case) -> None:
    """What one guest shares shows, what another one has private at the same places does not."""
    gmem.run(
        Convert(G0[0:512], PRIVATE),
        Populate(G0[0:512]),
        Populate(G1[0:512]),
        Peek(G0[0:512]),
        Peek(G1[0:512]),
        guests=2,
        tells=SEEN,
    )
