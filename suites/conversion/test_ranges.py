# SPDX-License-Identifier: GPL-2.0-only
"""Conversion, ranges: every page of the range asked for changes its side, and no other page does."""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.scenario.region import G0
from harness.scenario.steps import Check, Convert, Populate, Side, Touch

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED

pytestmark = pytest.mark.gmem(designs=["order0"])


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (511, 512), (3, 200), (256, 768), (1, 1023), (0, 4096)],
    ids=["first", "last", "unaligned", "across", "odd", "region"],
)
def test_there_and_back(gmem: Case, start: int, end: int) -> None:
    """A range of any place and size, made private, written and made shared, returns exactly its own pages."""
    there = G0[start:end]
    gmem.run(Convert(there, PRIVATE), Populate(there), Check(there, "pattern"), Convert(there, SHARED))


def test_neighbours_survive(gmem: Case) -> None:
    """Pages beside a converted range keep their contents and their place."""
    chunk = G0[0:512]
    gmem.run(
        Convert(chunk, PRIVATE),
        Populate(chunk),
        Convert(G0[100:101], SHARED),
        Check(G0[0:100], "pattern"),
        Check(G0[101:512], "pattern"),
        Check(G0[100:101], "zero"),
    )


def test_overlapping(gmem: Case) -> None:
    """Overlapping requests give the side of the last one, page by page."""
    gmem.run(
        Convert(G0[0:300], PRIVATE),
        Populate(G0[0:512]),
        Convert(G0[200:400], PRIVATE),
        Convert(G0[100:250], SHARED),
        Populate(G0[0:512]),
        Check(G0[0:512], "pattern"),
    )


def test_every_other_page(gmem: Case) -> None:
    """Single pages punched out of a chunk return one page each and leave the rest."""
    chunk = G0[512:1024]
    gmem.run(
        Convert(chunk, PRIVATE),
        Populate(chunk),
        *(Convert(G0[page], SHARED) for page in range(512, 528, 2)),
        Check(G0[528:1024], "pattern"),
        Convert(chunk, SHARED),
    )


def test_sparse_touch(gmem: Case) -> None:
    """Only the pages that the guest touches are taken from the host."""
    gmem.run(
        Convert(G0[0:1024], PRIVATE),
        Touch(G0[0:1024], stride=7),
        Touch(G0[0:1024], stride=7),
        Touch(G0[0:1024], stride=5, write=False),
        Convert(G0[0:1024], SHARED),
    )


def test_far_apart(gmem: Case) -> None:
    """Ranges in different chunks do not disturb each other."""
    gmem.run(
        Convert(G0[10:20], PRIVATE),
        Convert(G0[4000:4096], PRIVATE),
        Populate(G0[0:512]),
        Populate(G0[3584:4096]),
        Convert(G0[10:20], SHARED),
        Check(G0[3584:4096], "pattern"),
    )
