# SPDX-License-Identifier: GPL-2.0-only
"""C1: one 4 KiB page of a private 2 MiB folio converted to shared breaks the folio, and compaction cannot mend it.

The page goes back to the host, into the middle of a block of memory whose 511 other pages stay where they are: they
are unmovable.  Each case that compacts shows that compaction scanned (``compact_migrate_scanned``), and in the frames
of the guest_memfd that it moved none of them.
"""

from __future__ import annotations

import pytest

from harness.errors import InfraError
from harness.pytest_plugin import Case
from harness.run.result import CaseResult
from harness.run.tell import Tell
from harness.scenario.region import G0
from harness.scenario.steps import Check, Compact, Convert, Place, Populate, Side, Step

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED

pytestmark = pytest.mark.gmem(claim="C1", designs=["thp-discard"])


def huge(windows: int) -> tuple[Step, ...]:
    """The first ``windows`` of the guest's memory, private and present: a folio of 2 MiB each."""
    there = G0[0 : windows * 512]
    return Place("g0", 0), Convert(there, PRIVATE), Populate(there)


def compacted(done: CaseResult, step: int) -> None:
    """The host did compact when it was told to: otherwise the case says nothing."""
    if done.steps[step].recorded.get("compact_migrate_scanned", 0) <= 0:
        raise InfraError(f"{done.case}: the host was told to compact in step {step} and scanned no page")


@pytest.mark.parametrize("page", [0, 200, 511], ids=["first", "middle", "last"])
def test_one_page(gmem: Case, page: int) -> None:
    """One page of a 2 MiB folio goes back to the host; its folio is split, and the 511 other pages stay."""
    gmem.run(
        *huge(1),
        Convert(G0[page], SHARED),
        tells=[
            Tell(step=3, counter="nr_file_pages", format="pages given back {observed} (predicted {predicted})"),
            Tell(step=3, counter="nr_file_hugepages", format="huge folios {observed} (predicted {predicted})"),
        ],
    )


def test_compaction_does_not_mend_it(gmem: Case) -> None:
    """Asked to compact, the host moves no page of the broken window and nothing becomes huge again."""
    done = gmem.run(
        *huge(1),
        Convert(G0[200], SHARED),
        Compact(),
        Compact(),
        Check(G0[0:200], "pattern"),
        Check(G0[201:512], "pattern"),
        frames=True,
        tells=[
            Tell(step=4, counter="compact_migrate_scanned", format="compaction scanned {observed} pages"),
            Tell(step=5, first=4, counter="nr_file_hugepages", format="huge folios {observed} (predicted {predicted})"),
            Tell(step=5, first=4, counter="gmem/g0", format="private pages {observed} (predicted {predicted})"),
        ],
    )
    compacted(done, 4)
    compacted(done, 5)


@pytest.mark.gmem(brief=False)
def test_eight_broken_windows(gmem: Case) -> None:
    """Eight pages, one of each window, break eight folios: compaction brings none of them back."""
    done = gmem.run(
        *huge(8),
        *(Convert(G0[window * 512 + 64 * window], SHARED) for window in range(8)),
        Compact(),
        frames=True,
        tells=[
            Tell(step=10, first=3, counter="nr_file_pages", format="pages given back {observed} ({predicted})"),
            Tell(step=10, first=3, counter="nr_file_hugepages", format="huge folios {observed} ({predicted})"),
            Tell(step=11, counter="nr_file_hugepages", format="after compaction {observed} ({predicted})"),
        ],
    )
    compacted(done, 11)
