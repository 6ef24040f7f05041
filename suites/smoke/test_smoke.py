# SPDX-License-Identifier: GPL-2.0-only
"""Smoke: the shortest proof that the kernel under test gives out guest_memfd pages and takes them back."""

from __future__ import annotations

from harness.pytest_plugin import Case
from harness.scenario.region import G0
from harness.scenario.steps import Check, Close, Convert, Empty, Populate, Side

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED


def test_rest(gmem: Case) -> None:
    """A testbed at rest moves no counter."""
    gmem.run(Empty(), Empty(), Empty())


def test_one_page(gmem: Case) -> None:
    """One 4 KiB page made private and touched costs the host one page, and gives it back when it is shared again.

    Unless the kernel converts in place: then page and contents stay, which the model says too.
    """
    page = G0[7]
    gmem.run(
        Convert(page, PRIVATE), Populate(page), Check(page, "pattern"), Convert(page, SHARED), Check(page, "either")
    )


def test_one_chunk(gmem: Case) -> None:
    """2 MiB made private and touched cost the host 512 pages, and give them back when they are shared again."""
    chunk = G0[0:512]
    gmem.run(
        Convert(chunk, PRIVATE),
        Populate(chunk),
        Check(chunk, "pattern"),
        Convert(chunk, SHARED),
        Check(chunk, "either"),
    )


def test_attributes_alone(gmem: Case) -> None:
    """Converting pages that nobody touched moves no page of the host."""
    gmem.run(Convert(G0[0:2048], PRIVATE), Convert(G0[0:2048], SHARED))


def test_close(gmem: Case) -> None:
    """When a guest ends, all its guest_memfd pages go back to the host."""
    gmem.run(Convert(G0[0:1024], PRIVATE), Populate(G0[0:1024]), Close("g0"))
