# SPDX-License-Identifier: GPL-2.0-only
"""What a running kernel did to its counters, operation by operation, held against the rules of each backing.

The recordings in golden/backings were made in the emulated host by the program beside them: it holds memory of each
kind, does what a line says, and reads the counters after draining LRU batches and folding per-CPU differences.  They
are inputs: what a line should say is the model's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from backing_walk import FACTS, Operation, Walk

RECORDINGS = Path(__file__).parent / "golden" / "backings"
RECORDED_SIZES = ("mthp/2048kB/", "mthp/1024kB/", "mthp/64kB/")
KERNELS = {
    "7.3.4": FACTS,
    "6.12.117": replace(
        FACTS, pt_reclaim=False, huge_zero_replaced=False, whole_folio_around=False, uniform_split=True
    ),
}
UNKNOWN = {"7.3.4": (), "6.12.117": ("nr_hugetlb",)}
"""What a kernel does not count."""


def recorded(kernel: str) -> dict[str, list[tuple[list[Operation], dict[str, int]]]]:
    """Per backing: operations, and by how much counters moved."""
    found: dict[str, list[tuple[list[Operation], dict[str, int]]]] = {}
    for line in (RECORDINGS / f"{kernel}.txt").read_text().splitlines():
        if line.startswith("# "):
            lines = found.setdefault(line[2:], [])
            continue
        said, _, moved = line.partition(":")
        words = moved.split()
        lines.append((list(operations(said)), dict(zip(words[::2], map(int, words[1::2]), strict=True))))
    return found


def operations(said: str) -> Iterator[Operation]:
    for one in said.split("; "):
        what, start, count = one.split()
        yield what, int(start), int(count)


def was_recorded(counter: str) -> bool:
    """The program reads no other sizes of folios, and cannot read what it cannot see."""
    return counter != "unaccounted" and (not counter.startswith("mthp/") or counter.startswith(RECORDED_SIZES))


@pytest.mark.parametrize("backing", ["anon-4k", "anon-thp", "memfd-4k", "shmem-thp", "hugetlb"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_what_a_kernel_did(kernel, backing):
    lines = recorded(kernel)[backing]
    assert len(lines) >= 5
    walk = Walk(backing, replace(KERNELS[kernel]), chunks=16)
    for asked, wanted in lines:
        moved: dict[str, int] = {}
        for operation in asked:
            for counter, by in walk.do(operation, kvm=False).items():
                moved[counter] = moved.get(counter, 0) + by
        for counter in (c for c in wanted if c.endswith("_failed")):
            # the shrinker tries a refused folio again while it finds other things to free
            assert wanted[counter] >= moved[counter] > 0
            wanted[counter] = moved[counter]
        if asked[0][0] == "shrink":
            # all other shrinkers of the host free what they can, too
            for counter in ("F", "pgfree", "nr_slab_reclaimable", "nr_slab_unreclaimable"):
                wanted[counter] = moved.get(counter, 0)
        seen = {
            counter: by for counter, by in moved.items() if was_recorded(counter) and counter not in UNKNOWN[kernel]
        }
        assert {c: by for c, by in seen.items() if by} == {c: by for c, by in wanted.items() if by}, asked
