# SPDX-License-Identifier: GPL-2.0-only
"""How KVM maps each shared backing, what memory it occupies for nothing, and what the guest finds in it."""

from __future__ import annotations

import pytest
from backing_walk import Operation, Walk

from harness.model.overhead import extra_pages, shared_frames

# How KVM maps: (backing, operations, leaves moved by the last one, without zeroes).
LEAVES: dict[str, tuple[str, list[Operation], dict[str, int]]] = {
    "a touched huge folio is one leaf": ("anon-thp", [("write", 0, 512)], {"pages_2m": 1}),
    "and so is one of shmem": ("shmem-thp", [("write", 9, 1)], {"pages_2m": 1}),
    "and of hugetlb": ("hugetlb", [("read", 9, 1)], {"pages_2m": 1}),
    "in a mixed window it is a leaf per page": (
        "anon-thp", [("to_private", 0, 1), ("write", 0, 512)], {"pages_4k": 511},
    ),
    "hugetlb in a mixed window, too": ("hugetlb", [("to_private", 0, 1), ("write", 0, 512)], {"pages_4k": 511}),
    "a conversion of one page takes the leaf of 2 MiB": (
        "anon-thp", [("write", 0, 512), ("to_private", 3, 1)], {"pages_2m": -1},
    ),
    "coming back does not bring it again: QEMU maps by 4 KiB": (
        "anon-thp",
        [("write", 0, 512), ("to_private", 3, 1), ("to_shared", 3, 1), ("write", 0, 512)],
        {"pages_4k": 512},
    ),
    "with hugetlb it does": (
        "hugetlb",
        [("write", 0, 512), ("to_private", 3, 1), ("to_shared", 3, 1), ("write", 0, 512)],
        {"pages_2m": 1},
    ),
    "the huge zero folio is a leaf of 2 MiB": ("anon-thp", [("read", 0, 512)], {"pages_2m": 1}),
    "the write that replaces it zaps the leaf and installs another": (
        "anon-thp", [("read", 0, 512), ("write", 0, 1)], {},
    ),
    "in a mixed window the write zaps what the zero folio mapped around it": (
        "anon-thp", [("to_private", 9, 1), ("read", 0, 5), ("write", 0, 1)], {"pages_4k": -4},
    ),
    "a page of an order-0 backing is a leaf": ("memfd-4k", [("read", 0, 5)], {"pages_4k": 5}),
    "the split of a huge mapping zaps private neighbours, too": (
        # 8 shared and 504 private pages are mapped; the discard of one page splits the mapping of the whole window
        "anon-thp",
        [("to_private", 8, 504), ("write", 0, 8), ("map_private", 8, 504), ("to_private", 3, 1)],
        {"pages_4k": -512},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVES)
def test_how_kvm_maps(name):
    backing, operations, wanted = LEAVES[name]
    walk = Walk(backing)
    moved: dict[str, int] = {}
    for operation in operations:
        moved = walk.do(operation)
    assert {c.removeprefix("kvm/g0/"): by for c, by in moved.items() if c.startswith("kvm/")} == wanted


# (backing, operations, pages occupied, of them for nothing).
OVERHEAD: dict[str, tuple[str, list[Operation], int, int]] = {
    "4 KiB pages cost what they hold": ("anon-4k", [("write", 0, 512), ("to_private", 0, 511)], 1, 0),
    "one shared page of a THP costs 512": ("anon-thp", [("write", 0, 512), ("to_private", 1, 511)], 512, 511),
    "its hole refaulted costs 513": (
        "anon-thp", [("write", 0, 512), ("to_private", 5, 1), ("to_shared", 5, 1), ("write", 5, 1)], 513, 1,
    ),
    "a touch among private pages takes a whole THP": (
        "anon-thp", [("to_private", 0, 511), ("write", 511, 1)], 512, 511,
    ),
    "and keeps it when that page goes, too: the others were discarded before the touch": (
        "anon-thp", [("to_private", 0, 511), ("write", 511, 1), ("to_private", 511, 1)], 512, 512,
    ),
    "hugetlb pays for private chunks": ("hugetlb", [("write", 0, 1024), ("to_private", 0, 512)], 1024, 512),
    "shmem gives back what a hole takes": ("shmem-thp", [("write", 0, 512), ("to_private", 5, 9)], 503, 0),
    "a pin keeps what was discarded": ("memfd-4k", [("write", 0, 9), ("pin", 0, 9), ("to_private", 0, 9)], 9, 9),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERHEAD)
def test_what_is_held_for_nothing(name):
    backing, operations, frames, extra = OVERHEAD[name]
    walk = Walk(backing)
    for operation in operations:
        walk.do(operation)
    assert (shared_frames(walk.region), extra_pages(walk.region)) == (frames, extra)


def test_hugetlb_shows_again_what_it_held():
    walk = Walk("hugetlb")
    for operation in [("write", 0, 4), ("to_private", 0, 4), ("to_shared", 0, 4)]:
        walk.do(operation)
    assert walk.region.contents(0b1111) == [(1, 0b1111)]


@pytest.mark.parametrize("backing", ["anon-4k", "anon-thp", "memfd-4k", "shmem-thp"])
def test_what_is_discarded_comes_back_as_zero(backing):
    walk = Walk(backing)
    for operation in [("write", 0, 4), ("to_private", 0, 4), ("to_shared", 0, 4)]:
        walk.do(operation)
    assert walk.region.contents(0b1111) == [(None, 0b1111)]


@pytest.mark.parametrize("backing", ["anon-thp", "shmem-thp", "hugetlb"])
def test_a_folio_is_kept_until_its_last_reference_goes(backing):
    walk = Walk(backing)
    given_up = "punch" if backing == "hugetlb" else "discard"
    for operation in [("write", 512, 512), ("pin", 512, 1), ("pin", 517, 1), ("pin", 1023, 1), (given_up, 512, 512)]:
        walk.do(operation)
    assert shared_frames(walk.region) == extra_pages(walk.region) == 512
    assert walk.region.shared_parked.queued() == 0, "it was never partly mapped"
    for operation in [("unpin", 517, 1), ("unpin", 1023, 1), ("unpin", 0, 512)]:
        assert walk.do(operation) == {}
    walk.do(("unpin", 512, 1))
    assert shared_frames(walk.region) == 0


def test_a_partly_mapped_folio_that_is_kept_waits_in_the_queue():
    walk = Walk("anon-thp")
    for operation in [("write", 512, 512), ("pin", 600, 1), ("discard", 512, 8), ("discard", 512, 512)]:
        walk.do(operation)
    assert walk.region.shared_parked.queued() == 1
