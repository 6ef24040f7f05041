# SPDX-License-Identifier: GPL-2.0-only
"""C11: under pressure or with a full page cache huge allocation is unreliable; in-place does not make it worse.

Each case puts the host under one kind of pressure, which has to show in the host's counters first, and then lets the
guest populate 8 windows of 2 MiB.  How many of them get a huge folio follows from the free blocks that are left, where
compaction and reclaim cannot make others; the table of claims draws the rate of fallback against the pressure.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import Tell
from harness.scenario.region import G0
from harness.scenario.steps import Convert, Place, Populate, Pressure, Side, Step

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED
HUGE = "nr_file_hugepages"
WINDOWS = 8
ALL = G0[0 : WINDOWS * 512]

pytestmark = pytest.mark.gmem(claim="C11", designs=["thp-discard", "thp-2m-truncate-noop", "inplace-thp-noop"])


def huge_under(gmem: Case, pressure: Pressure, level: int, axis: str) -> None:
    """Populate all windows under pressure, and record the share of them that fell back to single pages."""
    done = gmem.run(
        Place("g0", 1),
        Convert(ALL, PRIVATE),
        pressure,
        Populate(ALL),
        tells=[
            Tell(
                3, HUGE, f"{pressure.text()}: huge folios {{observed}} of {WINDOWS} ({{predicted}})", x=level, axis=axis
            )
        ],
    )
    if done.tells and done.tells[0].observed is not None:
        told = done.tells[0]
        low, high = (WINDOWS if bound is None else bound for bound in (told.low, told.high))
        rate, best, worst = (100 * (WINDOWS - huge) / WINDOWS for huge in (told.observed or 0, high, low))
        gmem.record_series("windows that fell back, in %", [level], [rate], [(best, worst)], axis=axis)


@pytest.mark.parametrize("leave", [0, 2, 4, 6, 8, 12])
def test_pieces_that_nobody_can_move(gmem: Case, leave: int) -> None:
    """Between pages that nobody can move a window gets a huge folio as long as a whole block is left, and no longer."""
    huge_under(gmem, Pressure("pinned", leave=leave), leave, "whole blocks left, pinned pieces besides")


@pytest.mark.gmem(brief=False)
@pytest.mark.parametrize("leave", [0, 2, 4, 8, 12])
def test_pieces_that_compaction_may_mend(gmem: Case, leave: int) -> None:
    """Between pages that can be moved the host may make the blocks that it lacks."""
    huge_under(gmem, Pressure("fragment", leave=leave), leave, "whole blocks left, movable pieces besides")


@pytest.mark.gmem(brief=False)
@pytest.mark.parametrize("percent", [10, 50, 80, 95])
def test_memory_in_pieces(gmem: Case, percent: int) -> None:
    """What share of the free memory is in pieces does not matter while whole blocks are left."""
    huge_under(gmem, Pressure("fragment", percent=percent), percent, "% of the free memory in pieces")


@pytest.mark.gmem(brief=False)
@pytest.mark.parametrize("percent", [50, 95])
def test_memory_taken(gmem: Case, percent: int) -> None:
    """Memory that a process took is no reason to fall back while whole blocks are left."""
    huge_under(gmem, Pressure("anon", percent=percent), percent, "% of the memory taken by a process")


@pytest.mark.gmem(brief=False)
@pytest.mark.parametrize("percent", [50, 95, 99])
def test_page_cache(gmem: Case, percent: int) -> None:
    """With a full page cache the host has to reclaim and compact first, and may fail."""
    huge_under(gmem, Pressure("cache", percent=percent), percent, "% of the memory filled with page cache")


def held_down() -> tuple[Step, ...]:
    """Eight huge folios, and all that the host has besides: half as many blocks, and pieces that nobody can move."""
    return Place("g0", 1), Convert(ALL, PRIVATE), Pressure("pinned", leave=3 * WINDOWS // 2), Populate(ALL)


@pytest.mark.gmem(claim="C11", designs=["inplace-thp-noop", "thp-2m-truncate-noop"])
def test_conversions_do_not_make_it_worse(gmem: Case) -> None:
    """Where a conversion gives no page back, every window goes to shared and comes back huge, and takes no block."""
    pages = [window * 512 + 61 * window for window in range(WINDOWS)]
    rounds = [Convert(G0[page], side) for page in pages for side in (SHARED, PRIVATE)]
    steps = (*held_down(), *rounds)
    last = len(steps) - 1
    gmem.run(
        *steps,
        tells=[
            Tell(3, HUGE, f"huge folios {{observed}} of {WINDOWS} ({{predicted}})"),
            Tell(
                last,
                HUGE,
                f"after {len(rounds)} conversions {{observed}} ({{predicted}})",
                first=4,
            ),
        ],
    )


@pytest.mark.gmem(claim="C11", designs=["thp-discard"])
def test_conversions_by_discard_make_it_worse(gmem: Case) -> None:
    """Where a conversion gives a page back, every window is lost, and none comes back although blocks are left."""
    pages = [window * 512 + 61 * window for window in range(WINDOWS)]
    rounds = [Convert(G0[page], side) for page in pages for side in (SHARED, PRIVATE)]
    steps = (*held_down(), *rounds, Populate(ALL))
    last = len(steps) - 1
    gmem.run(
        *steps,
        tells=[
            Tell(3, HUGE, f"huge folios {{observed}} of {WINDOWS} ({{predicted}})"),
            Tell(
                last,
                HUGE,
                f"after {len(rounds)} conversions {{observed}} ({{predicted}})",
                first=4,
            ),
        ],
    )
