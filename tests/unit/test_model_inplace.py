# SPDX-License-Identifier: GPL-2.0-only
"""Designs thp-2m-truncate, inplace, inplace-thp and hugetlb by hand; see docs/model.md for the rules."""

from __future__ import annotations

import pytest
from model_tables import FILL, PRIVATE, SHARED, START, STILL, Case
from test_model_contents import scenario_of

from harness.errors import UsageError
from harness.model.designs import DESIGNS, design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict

CHECK = "{do: check, range: 'g0.r0[0:512]', expect: either}"
ONE_OUT = "{do: convert, range: 'g0.r0[100:101]', to: shared}"
ONE_BACK = "{do: convert, range: 'g0.r0[100:101]', to: private}"
TOUCH_ONE = "{do: touch, range: 'g0.r0[100:101]'}"
PIN_ONE = "{do: pin, range: 'g0.r0[100:101]'}"

TRUNCATE = {
    "a part of a window: refused, after the attributes changed": Case(
        "thp-2m-truncate",
        [PRIVATE, FILL, ONE_OUT],
        [{}, {"nr_file_hugepages": 1, "kvm/g0/pages_2m": 1}, STILL | {"kvm/g0/pages_2m": -1, "F": 0, "pgfree": 0}],
        refused={2: ("EINVAL", 100)},
    ),
    "a punch of the host is refused before anything is done": Case(
        "thp-2m-truncate",
        [PRIVATE, FILL, "{do: punch, range: 'g0.r0[0:513]'}"],
        # chunk by chunk: the first is whole
        [{}, {}, {"nr_file_pages": -512, "nr_file_hugepages": -1}],
        refused={2: ("EINVAL", 512)},
    ),
    "a part of a window without effect: the shared page is pure extra, the huge mapping comes back": Case(
        "thp-2m-truncate-noop",
        [PRIVATE, FILL, ONE_OUT, TOUCH_ONE, ONE_BACK, CHECK, "{do: punch, range: 'g0.r0[1:512]'}"],
        [
            {},
            {"nr_file_hugepages": 1, "kvm/g0/pages_2m": 1},
            STILL | {"kvm/g0/pages_2m": -1, "F": 0, "pgfree": 0},
            {"nr_anon_pages": 1, "nr_file_pages": 0, "kvm/g0/pages_4k": 1, "nr_sec_page_table_pages": 1},
            {"nr_anon_pages": -1, "nr_file_pages": 0, "kvm/g0/pages_4k": -1},
            # a table was linked before: the cache of tables may be filled up by any fault from then on
            STILL | {"kvm/g0/pages_2m": 1, "kvm/g0/pages_4k": 0, "nr_sec_page_table_pages": -1, "unaccounted": (0, 36)},
            STILL | {"kvm/g0/pages_2m": 0},
        ],
        contents={5: [(0, 512, 1)]},
    ),
    "whole windows go": Case(
        "thp-2m-truncate",
        [
            "{do: convert, range: 'g0.r0[0:1024]', to: private}",
            "{do: populate, range: 'g0.r0[0:1024]'}",
            "{do: convert, range: 'g0.r0[0:512]', to: shared}",
            "{do: punch, range: 'g0.r0[512:1024]'}",
        ],
        [
            {},
            {"nr_file_hugepages": 2},
            {"nr_file_pages": -512, "nr_file_hugepages": -1, "thp_split_page": 0, "kvm/g0/pages_2m": -1},
            {"nr_file_pages": -512, "nr_file_hugepages": -1, "kvm/g0/pages_2m": -1},
        ],
    ),
}

INPLACE = {
    "a conversion moves leaves and nothing else": Case(
        "inplace",
        [FILL, PRIVATE, CHECK, ONE_OUT, TOUCH_ONE, ONE_BACK, CHECK],
        [
            {
                "nr_file_pages": 512, "nr_unevictable": 512, "gmem/g0": 512, "nr_anon_pages": 0, "kvm/g0/pages_4k": 512,
                "nr_page_table_pages": 0, "nr_file_hugepages": 0,
            },
            # 8 maple slab pages either way, no node of the attributes' xarray
            STILL | {"kvm/g0/pages_4k": -512, "F": (-8, 8), "nr_slab_unreclaimable": (-8, 8), "nr_slab_reclaimable": 0},
            STILL | {"kvm/g0/pages_4k": 512, "F": 0, "pgalloc": 0},
            STILL | {"kvm/g0/pages_4k": -1, "F": (-8, 8)},
            STILL | {"kvm/g0/pages_4k": 1, "F": 0, "pgalloc": 0, "pgfree": 0},
            STILL | {"kvm/g0/pages_4k": -1},
            STILL | {"kvm/g0/pages_4k": 1},
        ],
        contents={2: [(0, 512, 1)], 6: [(0, 100, 1), (100, 1, 2), (101, 411, 1)]},
    ),
    "a uniform range: no effect at all, not even a zap": Case(
        "inplace",
        [PRIVATE, FILL, PRIVATE],
        [{}, {"nr_file_pages": 512}, STILL | {"kvm/g0/pages_4k": 0, "F": 0, "nr_slab_unreclaimable": 0}],
    ),
    "a held page is not converted to private, nor is any other of the call": Case(
        "inplace",
        [
            FILL,
            PIN_ONE,
            "{do: convert, range: 'g0.r0[0:600]', to: private}",
            "{do: unpin, range: 'g0.r0[0:512]'}",
            PRIVATE,
        ],
        # its leaves are zapped all the same: the range is unmapped from user space before the pages are looked at
        [{}, {}, STILL | {"kvm/g0/pages_4k": -512, "F": 0}, {"F": 0}, STILL | {"kvm/g0/pages_4k": 0}],
        refused={2: ("EAGAIN", 100)},
    ),
    "a held private page becomes shared": Case(
        "inplace",
        [PRIVATE, FILL, PIN_ONE, SHARED],
        [{}, {}, {}, STILL | {"kvm/g0/pages_4k": -512}],
    ),
    "calls before the refused one stand": Case(
        "inplace",
        [
            "{do: populate, range: 'g0.r0[0:1024]'}",
            "{do: pin, range: 'g0.r0[700:701]'}",
            "{do: convert, range: 'g0.r0[0:1024]', to: private}",
            "{do: check, range: 'g0.r0[0:1024]', expect: pattern}",
        ],
        [{}, {}, STILL | {"kvm/g0/pages_4k": -1024}, {"kvm/g0/pages_4k": 1024}],
        refused={2: ("EAGAIN", 700)},
    ),
    "shared memory that is read is allocated": Case(
        "inplace",
        ["{do: touch, range: 'g0.r0[0:8]', write: false}"],
        [{"nr_file_pages": 8, "nr_anon_pages": 0, "kvm/g0/pages_4k": 8}],
    ),
    "a punch frees shared pages too and keeps the attributes": Case(
        "inplace",
        [FILL, "{do: punch, range: 'g0.r0[0:100]'}", CHECK],
        [{}, {"nr_file_pages": -100, "pgfree": (100, 110), "kvm/g0/pages_4k": -100}, {"nr_file_pages": 100}],
        contents={2: [(0, 100, None), (100, 412, 1)]},
    ),
    "a punched page that somebody holds comes free later": Case(
        "inplace",
        [FILL, PIN_ONE, "{do: punch, range: 'g0.r0[100:102]'}", "{do: unpin, range: 'g0.r0[100:101]'}"],
        [
            {},
            {},
            {"nr_file_pages": -2, "nr_unevictable": -1, "F": 1, "pgfree": 1, "unaccounted": 1},
            {"nr_file_pages": 0, "nr_unevictable": -1, "F": 1, "pgfree": 1, "unaccounted": -1},
        ],
    ),
}  # fmt: skip

IN_PLACE_THP = {
    "split and put together in place": Case(
        "inplace-thp",
        [PRIVATE, FILL, ONE_OUT, TOUCH_ONE, ONE_BACK, "{do: touch, range: 'g0.r0[0:100]'}", TOUCH_ONE, CHECK],
        [
            {"nr_file_pages": 0},
            {"nr_file_pages": 512, "nr_file_hugepages": 1, "kvm/g0/pages_2m": 1, "kvm/g0/pages_4k": 0},
            # eight nodes for the pieces: up to (1 + 1) * 4 slab pages, 2 of metadata, 8 of the maple tree
            STILL | {
                "nr_file_hugepages": -1, "thp_split_page": 1, "mthp/2048kB/split": 1, "kvm/g0/pages_2m": -1,
                "kvm/g0/pages_4k": 0, "F": (-8 - 2 - 8, 2 + 8), "pgfree": (0, 10),
            },
            STILL | {"kvm/g0/pages_4k": 1, "nr_sec_page_table_pages": 1, "unaccounted": (-1, 35)},
            STILL | {"nr_file_hugepages": 1, "kvm/g0/pages_4k": -1, "kvm/g0/pages_2m": 0},
            # the first fault takes the large leaf again, and the table under it goes
            STILL | {"kvm/g0/pages_2m": 1, "kvm/g0/pages_4k": 0, "nr_sec_page_table_pages": -1, "unaccounted": (0, 36)},
            STILL | {"kvm/g0/pages_2m": 0, "kvm/g0/pages_4k": 0, "F": 0},
            STILL,
        ],
        contents={7: [(0, 100, 3), (100, 1, 4), (101, 411, 1)]},
    ),
    "a window that is not all private is split as soon as it is made": Case(
        "inplace-thp",
        ["{do: touch, range: 'g0.r0[0:1]'}", PRIVATE, FILL],
        [
            {
                "nr_file_pages": 512, "nr_unevictable": 512, "nr_file_hugepages": 0, "thp_split_page": 1,
                "mthp/2048kB/split": 1, "kvm/g0/pages_4k": 1, "kvm/g0/pages_2m": 0,
            },
            STILL | {"nr_file_hugepages": 1, "kvm/g0/pages_4k": -1},
            STILL | {"kvm/g0/pages_2m": 1, "nr_sec_page_table_pages": -1, "unaccounted": (0, 36)},
        ],
    ),
    "a held folio is not split, and its pages stay private": Case(
        "inplace-thp",
        [PRIVATE, FILL, "{do: pin, range: 'g0.r0[7:8]'}", ONE_OUT, "{do: unpin, range: 'g0.r0[7:8]'}", ONE_OUT],
        [
            {},
            {},
            {},
            # the leaves of the range are zapped before the split is tried
            STILL | {"kvm/g0/pages_2m": -1, "F": 0, "thp_split_page_failed": 1, "mthp/2048kB/split_failed": 1},
            {},
            STILL | {"nr_file_hugepages": -1, "thp_split_page": 1, "mthp/2048kB/split": 1},
        ],
        refused={3: ("EAGAIN", 100)},
    ),
    "a held piece elsewhere keeps the window small": Case(
        "inplace-thp",
        [PRIVATE, FILL, ONE_OUT, "{do: pin, range: 'g0.r0[7:8]'}", ONE_BACK],
        [{}, {}, {}, {}, STILL],
    ),
    "folios that came one by one are never put together": Case(
        "inplace-thp",
        [FILL, PRIVATE, CHECK],
        [{"nr_file_pages": 512, "thp_split_page": 0}, STILL, STILL | {"kvm/g0/pages_4k": 512, "kvm/g0/pages_2m": 0}],
        facts={"large_folios": False},
    ),
    "memory is given up by windows": Case(
        "inplace-thp",
        [PRIVATE, FILL, ONE_OUT, "{do: punch, range: 'g0.r0[0:512]'}", ONE_BACK, FILL],
        [
            {},
            {},
            {},
            {"nr_file_pages": -512, "nr_file_hugepages": 0, "thp_split_page": 0},
            {"nr_file_pages": 0, "nr_file_hugepages": 0},
            {"nr_file_pages": 512, "nr_file_hugepages": 1, "thp_split_page": 0},
        ],
    ),
    "a punch of a part is refused": Case(
        "inplace-thp", [PRIVATE, FILL, "{do: punch, range: 'g0.r0[1:2]'}"], [{}, {}, STILL], refused={2: ("EINVAL", 1)}
    ),
    "or without effect": Case(
        "inplace-thp-noop",
        [PRIVATE, FILL, "{do: punch, range: 'g0.r0[1:600]'}", CHECK],
        [{}, {}, STILL | {"kvm/g0/pages_2m": 0}, STILL],
        contents={3: [(0, 512, 1)]},
    ),
}  # fmt: skip

NOT_ON_LRU = {
    "nr_file_pages": 0, "nr_unevictable": 0, "nr_zone_unevictable": 0, "unevictable_pgs_culled": 0,
    "nr_file_hugepages": 0, "thp_split_page": 0, "mthp/2048kB/split": 0, "nr_anon_pages": 0,
}  # fmt: skip
POOL = "hugetlb/2048kB"

HUGETLB = {
    "memory comes from the pool and is on no list": Case(
        "hugetlb",
        [PRIVATE, FILL, "{do: punch, range: 'g0.r0[0:512]'}"],
        [
            {},
            NOT_ON_LRU | {
                "nr_hugetlb": 512, f"{POOL}/free_hugepages": -1, f"{POOL}/resv_hugepages": -1, "gmem/g0": 512,
                f"{POOL}/surplus_hugepages": 0, "kvm/g0/pages_2m": 1, "F": (-8 - 2, 2), "unaccounted": 0,
            },
            NOT_ON_LRU | {
                "nr_hugetlb": -512, f"{POOL}/free_hugepages": 1, f"{POOL}/resv_hugepages": 1, "gmem/g0": -512,
                "kvm/g0/pages_2m": -1, "unaccounted": 0,
            },
        ],
    ),
    "a split takes seven pages of page structures, a merge returns them": Case(
        "hugetlb",
        [PRIVATE, FILL, ONE_OUT, TOUCH_ONE, ONE_BACK],
        [
            {},
            {},
            NOT_ON_LRU | {"nr_hugetlb": 0, "gmem/g0": 0, "F": (-7 - 8 - 2 - 8, -7 + 2 + 8), "unaccounted": 7},
            {"nr_hugetlb": 0, "kvm/g0/pages_4k": 1},
            NOT_ON_LRU | {"nr_hugetlb": 0, "unaccounted": -7, "kvm/g0/pages_4k": -1},
        ],
    ),
    "without HVO it takes none": Case(
        "hugetlb-no-hvo", [PRIVATE, FILL, ONE_OUT, ONE_BACK], [{}, {}, {"unaccounted": 0}, {"unaccounted": 0}]
    ),
    "a window that is shared in part is split at once": Case(
        "hugetlb",
        ["{do: touch, range: 'g0.r0[0:1]'}", PRIVATE],
        # one table of KVM is linked, out of a cache that may be filled up
        [
            {"nr_hugetlb": 512, "unaccounted": (7 - 1, 7 - 1 + 36), "kvm/g0/pages_4k": 1, "kvm/g0/pages_2m": 0},
            {"unaccounted": -7},
        ],
    ),
    "offset and length are huge pages": Case(
        "hugetlb",
        [
            "{do: fallocate, range: 'g0.r0[0:511]'}",
            "{do: punch, range: 'g0.r0[1:512]'}",
            "{do: fallocate, range: 'g0.r0[512:1024]'}",
        ],
        [{"nr_hugetlb": 0}, {"nr_hugetlb": 0}, {"nr_hugetlb": 512}],
        refused={0: ("EINVAL", 0), 1: ("EINVAL", 1)},
    ),
    "a held page stops a punch and a conversion to private, huge page by huge page": Case(
        "hugetlb",
        [
            "{do: populate, range: 'g0.r0[0:1024]'}",
            "{do: pin, range: 'g0.r0[700:701]'}",
            "{do: convert, range: 'g0.r0[0:1024]', to: private}",
            "{do: punch, range: 'g0.r0[512:1024]'}",
        ],
        [
            {"nr_hugetlb": 1024, "unaccounted": (14 - 2, 14 - 2 + 36)},
            {},
            {"nr_hugetlb": 0, "unaccounted": -7, "kvm/g0/pages_4k": -512},
            {"nr_hugetlb": 0},
        ],
        refused={2: ("EAGAIN", 700), 3: ("EAGAIN", 700)},
    ),
    "a held page makes a split hang": Case(
        "hugetlb",
        [PRIVATE, FILL, "{do: pin, range: 'g0.r0[7:8]'}", ONE_OUT],
        [{}, {}, {}, {"nr_hugetlb": 0, "unaccounted": 0}],
        refused={3: ("hang", 100)},
    ),
    "closing gives the pool its pages back": Case(
        "hugetlb",
        [PRIVATE, FILL, "{do: close, guest: g0}"],
        [{}, {}, {"nr_file_pages": 0, "nr_unevictable": 0, "nr_hugetlb": -519}],
    ),
    "1 GiB: 4095 pages of page structures": Case(
        "hugetlb:18",
        [PRIVATE, "{do: touch, range: 'g0.r0[0:1]'}"],
        [{}, {"nr_hugetlb": 1 << 18, "unaccounted": (4095 - 2, 4095 - 2 + 36), "kvm/g0/pages_4k": 1}],
        facts={"regions": {"g0.r0": 512, "g1.r0": 8}},
    ),
}  # fmt: skip

CASES = {
    f"{table}: {name}": case
    for table, cases in (("truncate", TRUNCATE), ("inplace", INPLACE), ("thp", IN_PLACE_THP), ("hugetlb", HUGETLB))
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_every_entry_of_the_tables_holds(name):
    assert CASES[name].wrong() == []


@pytest.mark.parametrize("name", CASES)
def test_every_bound_has_a_reason_that_reads_and_adds_up(name):
    assert CASES[name].unreadable() == []


def test_a_refusal_says_what_where_and_why():
    (refused,) = [s.refused for s in INPLACE["calls before the refused one stand"].predicted() if s.refused]
    assert str(refused) == (
        "convert fails with EAGAIN at page 700 of g0.r0 (references: somebody holds a reference on page 700 of"
        " g0.r0[512:1024]: nothing of the range is converted)"
    )


def test_the_guest_asks_no_further_after_a_refusal():
    refused = next(s for s in INPLACE["calls before the refused one stand"].predicted() if s.refused)
    assert [(call.start_page, call.pages) for call in refused.conversions] == [(0, 512), (512, 512)]


def test_a_region_without_a_whole_huge_page_is_refused_in_a_sentence():
    with pytest.raises(UsageError, match="takes memory by 262144 pages"):
        predict(
            scenario_of([FILL]), design_named("hugetlb:18"), START, HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
        )


def test_every_design_says_what_it_is():
    for name, design in DESIGNS.items():
        assert design.name == name
        assert len(design.claim.split()) > 5
