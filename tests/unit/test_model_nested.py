# SPDX-License-Identifier: GPL-2.0-only
"""KVM's page tables and the cache they come from, by hand; designs; what a reference on part of a folio keeps."""

from __future__ import annotations

import pytest
from model_tables import FILL, PRIVATE, Case

from harness.model.designs import DESIGNS, design_named
from harness.model.nested import refills


@pytest.mark.parametrize(
    ("before", "now", "vcpus", "bounds"),
    [
        (0, 0, 1, (0, 0)),
        (0, 1, 1, (0, 1)),  # the cache was about to be filled up, or full
        (1, 0, 1, (0, 1)),  # filled up by a fault that came after the link
        (0, 36, 1, (0, 1)),
        (0, 37, 1, (1, 2)),
        (0, 73, 1, (2, 3)),
        (36, 1, 1, (0, 1)),
        (36, 36, 1, (0, 2)),
        (36, 37, 1, (1, 2)),
        (0, 1, 2, (0, 1)),  # one link is of one vCPU
        (0, 2, 2, (0, 2)),
        (5, 0, 2, (0, 2)),
        (0, 72, 2, (0, 4)),
    ],
)
def test_refills_of_the_cache_of_tables(before, now, vcpus, bounds):
    assert refills(before, now, vcpus) == bounds


def test_refills_by_trying_every_level_of_the_cache():
    """A cache of 4 to 40 pages; a fault that finds fewer than 5 fills it up; then it takes a page, or none."""
    for first in range(1, 37):
        for before in range(80):
            for now in (0, 1, 35, 36, 37, 72, 73):
                left, count = first, 0
                for link in range(before + now):
                    if left == 0:
                        left, count = 36, count + (link >= before)
                    left -= 1
                low, high = refills(before, now, 1)
                assert low <= count <= high
                if left == 0 and before + now and now:  # the next fault may still belong to the step
                    assert count + 1 <= high + 1


ONE = "{do: convert, range: 'g0.r0[7:8]', to: shared}"

CASES = {
    "the first table brings what a refill brings": Case(
        "thp-discard",
        [PRIVATE, FILL, ONE, "{do: populate, range: 'g0.r0[8:9]'}", "{do: populate, range: 'g0.r0[9:10]'}"],
        [
            {},
            {},
            {},
            {
                "nr_sec_page_table_pages": 1, "unaccounted": (-1, 35), "F": (-36 - 4, 0), "pgalloc": (0, 36 + 4),
                "nr_slab_unreclaimable": (0, 4), "pgfree": 0,
            },
            # filled up by the first fault after the link
            {"nr_sec_page_table_pages": 0, "unaccounted": (0, 36), "F": (-40, 0), "pgalloc": (0, 40)},
        ],
    ),
    "a step without a fault fills nothing up": Case(
        "thp-discard",
        [PRIVATE, FILL, ONE, "{do: populate, range: 'g0.r0[8:9]'}", "{do: populate, range: 'g0.r0[8:9]'}", ONE],
        [{}, {}, {}, {}, {"unaccounted": 0, "F": 0, "pgalloc": 0}, {"unaccounted": 0, "F": 0, "pgalloc": 0}],
    ),
    "eight tables at once": Case(
        "thp-discard:9",
        ["{do: populate, range: 'g0.r0[0:4096]'}"],
        [{"nr_sec_page_table_pages": 8, "unaccounted": (-8, 28), "nr_anon_pages": 4096, "F": (-4096 - 36 - 4, -4096)}],
    ),
    "tables that are freed give back their headers' slabs": Case(
        "thp-discard",
        [
            "{do: populate, range: 'g0.r0[0:4096]'}",
            "{do: convert, range: 'g0.r0[0:4096]', to: private}",
            "{do: populate, range: 'g0.r0[0:4096]'}",
        ],
        [
            {"nr_sec_page_table_pages": 8},
            {"nr_sec_page_table_pages": 0, "kvm/g0/pages_4k": -4096},
            {"nr_sec_page_table_pages": -8, "nr_slab_unreclaimable": (-2 - 1, 2 + 4), "kvm/g0/pages_2m": 8},
        ],
    ),
    "a reference on a part of a folio keeps all of it until that part is let go": Case(
        "thp-discard",
        [PRIVATE, FILL, "{do: pin, range: 'g0.r0[10:20]'}", "{do: punch, range: 'g0.r0[0:512]'}",
         "{do: unpin, range: 'g0.r0[20:512]'}", "{do: unpin, range: 'g0.r0[0:20]'}"],
        [
            {}, {}, {},
            {"nr_file_pages": -512, "nr_unevictable": 0, "nr_file_hugepages": -1, "unaccounted": 512},
            {"F": 0, "unaccounted": 0, "pgfree": 0},
            {"F": 512, "pgfree": 512, "nr_unevictable": -512, "unaccounted": -512},
        ],
    ),
    "a touch makes its own folio dirty and no other": Case(
        "thp-discard",
        ["{do: fallocate, range: 'g0.r0[0:512]'}", "{do: convert, range: 'g0.r0[0:1024]', to: private}",
         "{do: touch, range: 'g0.r0[600:601]', write: false}", "{do: pin, range: 'g0.r0[0:1024]'}",
         "{do: punch, range: 'g0.r0[5:6]'}", "{do: punch, range: 'g0.r0[605:606]'}"],
        [
            {}, {}, {}, {},
            {"nr_file_pages": -512, "nr_file_hugepages": -1},
            {"nr_file_pages": 0, "nr_file_hugepages": 0},
        ],
    ),
    "closing a guest with pages that somebody holds": Case(
        "order0",
        [PRIVATE, FILL, "{do: pin, range: 'g0.r0[0:2]'}", "{do: punch, range: 'g0.r0[0:1]'}", "{do: close, guest: g0}"],
        [
            {}, {}, {},
            {"nr_file_pages": -1, "nr_unevictable": 0},
            {"nr_file_pages": -518, "nr_unevictable": (-519, -517)},
        ],
    ),
    "a huge page refuses where its first held page is": Case(
        "hugetlb",
        ["{do: convert, range: 'g0.r0[0:1024]', to: private}", "{do: populate, range: 'g0.r0[0:1024]'}",
         "{do: pin, range: 'g0.r0[600:700]'}", "{do: convert, range: 'g0.r0[520:540]', to: shared}",
         "{do: punch, range: 'g0.r0[512:1024]'}"],
        [{}, {}, {}, {}, {}],
        refused={3: ("hang", 520), 4: ("EAGAIN", 600)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_entry_of_the_table_holds(name):
    assert CASES[name].wrong() == []
    assert CASES[name].unreadable() == []


def test_which_folios_a_design_allocates():
    orders = {name: design.folio_orders for name, design in DESIGNS.items()}
    assert orders == {
        "order0": (0,), "inplace": (0,), "thp-discard": (0, 9), "thp-2m-truncate": (0, 9),
        "thp-2m-truncate-noop": (0, 9), "inplace-thp": (0, 9), "inplace-thp-noop": (0, 9), "hugetlb": (9,),
        "hugetlb-no-hvo": (9,),
    }  # fmt: skip
    assert {name for name, design in DESIGNS.items() if design.falls_back} == {
        "thp-discard", "thp-2m-truncate", "thp-2m-truncate-noop", "inplace-thp", "inplace-thp-noop",
    }  # fmt: skip
    assert design_named("hugetlb:18").folio_orders == (18,)
