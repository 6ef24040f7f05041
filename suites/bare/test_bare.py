# SPDX-License-Identifier: GPL-2.0-only
"""Bare guest_memfds on the machine's own kernel: what allocates a page, what gives it back, and what it holds.

No guest runs, so that nothing converts: ``gmem run --host local --guest bare bare`` (docs/howto-bare.md).
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.scenario.region import G0, G1
from harness.scenario.steps import Check, Close, Empty, Fallocate, Populate, PunchHole, Settle, Touch

pytestmark = pytest.mark.gmem(designs=["order0"], guests=["bare"])

ALL = G0[0:4096]


def test_rest(gmem: Case) -> None:
    """A guest_memfd that nobody touches holds no page, and its cgroup is charged for none."""
    gmem.run(Empty(), Settle(), Empty())


def test_one_page(gmem: Case) -> None:
    """The first touch of a page allocates that page and no other; the second allocates nothing."""
    gmem.run(Populate(G0[7]), Populate(G0[7]), Check(G0[7], "pattern"))


def test_one_chunk(gmem: Case) -> None:
    """2 MiB that are touched cost 512 pages, and a hole of 2 MiB gives them back."""
    chunk = G0[512:1024]
    gmem.run(Populate(chunk), Check(chunk, "pattern"), PunchHole(chunk), Check(chunk, "zero"))


def test_whole_file(gmem: Case) -> None:
    """Every page of the file is touched, read back, and given back by one hole over the whole file."""
    gmem.run(Populate(ALL), Check(ALL, "pattern"), PunchHole(ALL), Empty())


def test_sparse_touch(gmem: Case) -> None:
    """Each eighth page is touched: nothing between them is allocated, for reads as for writes."""
    gmem.run(Touch(G0[0:1024], stride=8), Touch(G0[1024:2048], stride=8, write=False), Touch(G0[0:1024], stride=8))


def test_read_allocates(gmem: Case) -> None:
    """Reading a page that is absent allocates it, and it reads as zeroes."""
    gmem.run(Check(G0[100:200], "zero"), Check(G0[100:200], "zero"))


def test_hole_of_holes(gmem: Case) -> None:
    """A hole where nothing is gives nothing back, and what lies beside it stays."""
    gmem.run(Populate(G0[0:10]), PunchHole(G0[10:2048]), PunchHole(G0[10:2048]), Check(G0[0:10], "pattern"))


def test_hole_across_chunks(gmem: Case) -> None:
    """A hole that begins and ends inside of chunks frees exactly its own present pages; its neighbours keep theirs."""
    gmem.run(
        Populate(G0[300:1500]),
        PunchHole(G0[509:1027]),
        Check(G0[300:509], "pattern"),
        Check(G0[1027:1500], "pattern"),
        Check(G0[509:1027], "zero"),
    )


def test_single_holes(gmem: Case) -> None:
    """Holes of a single page: the first, one in the middle, and the last of a file."""
    gmem.run(Populate(ALL), PunchHole(G0[0]), PunchHole(G0[2047]), PunchHole(G0[4095]), Check(G0[1:2047], "pattern"))


def test_fallocate_then_populate(gmem: Case) -> None:
    """fallocate() allocates without mapping; a touch maps what is there and allocates nothing."""
    gmem.run(Fallocate(G0[0:600]), Check(G0[0:100], "zero"), Populate(G0[0:600]), Check(G0[0:600], "pattern"))


def test_fallocate_fills_up(gmem: Case) -> None:
    """fallocate() over a range that is partly there allocates the rest, and keeps what the pages hold."""
    gmem.run(Populate(G0[100:200]), Fallocate(G0[0:512]), Check(G0[100:200], "pattern"), Fallocate(G0[0:512]))


def test_refill(gmem: Case) -> None:
    """What a hole took comes back as new pages: zero where they are read, as many as are touched again."""
    gmem.run(
        Populate(G0[0:512]),
        PunchHole(G0[128:384]),
        Check(G0[128:256], "zero"),
        Populate(G0[256:384]),
        Check(G0[256:384], "pattern"),
        PunchHole(G0[0:512]),
    )


def test_two_files(gmem: Case) -> None:
    """What one guest_memfd takes or gives up is not seen in another, neither in its pages nor in its contents."""
    gmem.run(
        Populate(G0[0:512]),
        Populate(G1[0:512]),
        PunchHole(G0[0:512]),
        Check(G1[0:512], "pattern"),
        Populate(G0[100:200]),
        PunchHole(G1[50:60]),
        Check(G0[100:200], "pattern"),
        guests=2,
    )


def test_close(gmem: Case) -> None:
    """When its process ends, every page of a guest_memfd is given back; one that lives on keeps its own."""
    gmem.run(Populate(G0[0:1024]), Populate(G1[0:100]), Close("g0"), Check(G1[0:100], "pattern"), guests=2)
