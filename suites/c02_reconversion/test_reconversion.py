# SPDX-License-Identifier: GPL-2.0-only
"""C2: converting a page back takes another frame than the one it gave up, unless the same CPU frees and takes.

A frame that leaves a guest_memfd goes to the head of a list of the CPU that frees it; the next allocation of that size
on that CPU takes the head, and no other CPU ever looks there.  ``pcp_room`` lets the lists keep what they are given, as
a host does that is not observed; the testbed's cap would hand frames on to the free lists, where positions decide.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.run.tell import Tell
from harness.scenario.region import G0
from harness.scenario.steps import Convert, Place, Populate, Side, Step

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED

BEHIND = 8
"""Where the pages that go and come begin: in a row of 64 of which some stay, so that no node of a tree moves too."""


def came_back(where: str, pages: int) -> list[Tell]:
    """What the last step, which touches pages again, says of the frames that they had."""
    return [Tell(-1, "frames/back", f"{where}: {{observed}} of {pages} frames came back (predicted {{predicted}})")]


def private_on_cpu0(pages: int) -> tuple[Step, ...]:
    """The guest on CPU 0, with its first pages private and present."""
    there = G0[0:pages]
    return Place("g0", 0), Convert(there, PRIVATE), Populate(there)


@pytest.mark.gmem(claim="C2", designs=["order0"], brief=False)
@pytest.mark.parametrize("count", [1, 48, 960])
def test_same_cpu(gmem: Case, count: int) -> None:
    """Pages given up and touched again on one CPU get their frames back."""
    there = G0[BEHIND : BEHIND + count]
    gmem.run(
        *private_on_cpu0(1024),
        Convert(there, SHARED),
        Convert(there, PRIVATE),
        Populate(there),
        frames=True,
        pcp_room=True,
        tells=came_back("same CPU", count),
    )


@pytest.mark.gmem(claim="C2", designs=["order0"], brief=False)
@pytest.mark.parametrize("count", [1, 48, 960])
def test_other_cpu(gmem: Case, count: int) -> None:
    """Pages given up on one CPU and touched again on another get other frames, each of them."""
    there = G0[BEHIND : BEHIND + count]
    gmem.run(
        *private_on_cpu0(1024),
        Convert(there, SHARED),
        Convert(there, PRIVATE),
        Place("g0", 1),
        Populate(there),
        frames=True,
        pcp_room=True,
        tells=came_back("other CPU", count),
    )


@pytest.mark.gmem(claim="C2", designs=["order0"], brief=False)
def test_frames_wait_for_their_cpu(gmem: Case) -> None:
    """What another CPU did not find is still there for the one that freed it."""
    there, late = G0[8:56], G0[72:120]
    gmem.run(
        *private_on_cpu0(64),
        Convert(G0[64:128], PRIVATE),
        Populate(G0[64]),
        Convert(there, SHARED),
        Convert(there, PRIVATE),
        Place("g0", 1),
        Populate(there),
        Place("g0", 0),
        Populate(late),
        frames=True,
        pcp_room=True,
        tells=came_back("first CPU, later", 48),
    )


@pytest.mark.gmem(claim="C2", designs=["order0"], brief=False)
def test_lists_that_overflow(gmem: Case) -> None:
    """Frames that a CPU's lists cannot keep go to the free lists: some come back, none is promised."""
    there = G0[0:1024]
    gmem.run(
        *private_on_cpu0(1024),
        Convert(there, SHARED),
        Convert(there, PRIVATE),
        Populate(there),
        frames=True,
        tells=came_back("same CPU, lists capped", 1024),
    )


@pytest.mark.gmem(claim="C2", designs=["order0", "thp-discard"], brief=False)
@pytest.mark.parametrize("windows", [1, 3])
def test_whole_windows_same_cpu(gmem: Case, windows: int) -> None:
    """Whole 2 MiB windows given up and touched again on one CPU get their frames back, large folios too."""
    there = G0[0 : windows * 512]
    gmem.run(
        *private_on_cpu0(windows * 512),
        Convert(there, SHARED),
        Convert(there, PRIVATE),
        Populate(there),
        frames=True,
        pcp_room=True,
        tells=came_back("whole windows, same CPU", windows * 512),
    )


@pytest.mark.gmem(claim="C2", designs=["order0", "thp-discard"])
@pytest.mark.parametrize("windows", [1, 3])
def test_whole_windows_other_cpu(gmem: Case, windows: int) -> None:
    """Whole 2 MiB windows given up on one CPU and touched again on another get other frames."""
    there = G0[0 : windows * 512]
    gmem.run(
        *private_on_cpu0(windows * 512),
        Convert(there, SHARED),
        Convert(there, PRIVATE),
        Place("g0", 1),
        Populate(there),
        frames=True,
        pcp_room=True,
        tells=came_back("whole windows, other CPU", windows * 512),
    )


@pytest.mark.gmem(claim="C2", designs=["thp-discard"], brief=False)
@pytest.mark.parametrize("cpu", [0, 1])
def test_pages_of_a_large_folio(gmem: Case, cpu: int) -> None:
    """Pages that leave a large folio one by one come back to the CPU that freed them, each as a folio of its own."""
    there = G0[8:448]
    gmem.run(
        *private_on_cpu0(512),
        Convert(there, SHARED, by=1),
        Convert(there, PRIVATE),
        Place("g0", cpu),
        Populate(there),
        frames=True,
        pcp_room=True,
        tells=came_back(f"pieces of a folio, freed on CPU 0, touched on {cpu}", 440),
    )
