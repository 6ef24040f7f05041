# SPDX-License-Identifier: GPL-2.0-only
"""Each rule by hand: small scenarios whose differences were worked out on paper from the rules in docs/model.md.

The table is also what mutated copies of the rules are held against (test_model_mutants.py).

Arithmetic of the intervals used throughout, for 2 CPUs and slabs of 28 nodes in 4 pages: n nodes allocated take up to
(ceil(n/28) + min(2, n) - 1) * 4 slab pages; n freed, m before them, give back up to (ceil((n+m)/28) + 1) * 4; either
moves up to 2 pages of metadata.  A tree that was empty may need a node per chunk and 3 above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_model_contents import scenario_of

from harness.model import designs, predict
from harness.model.facts import HostFacts

Bound = int | tuple[int, int]
FACTS = {"ncpu": 2, "regions": {"g0.r0": 8, "g1.r0": 8}}
START = {"gmem/g0": 7, "gmem/g1": 0, "thp_split_page": 3, "mthp/2048kB/split": 0}

# Per case: steps; differences per step, exact or (low, high); facts that differ from FACTS.
GOLDEN: dict[str, tuple[list[str], list[dict[str, Bound]], dict[str, Any]]] = {
    "a chunk to private frees QEMU's page table, its first write fills the guest_memfd": (
        ["{do: convert, range: 'g0.r0[0:512]', to: private}", "{do: populate, range: 'g0.r0[0:512]'}"],
        [
            {
                "nr_file_pages": 0, "nr_anon_pages": 0, "kvm/g0/pages_4k": 0, "gmem/g0": 0,
                "nr_page_table_pages": -1, "F": (1 - 8 - 2, 1 + 2), "pgfree": (2, 4), "pgalloc": (1, 1 + 8 + 2),
                "nr_slab_reclaimable": (0, 8), "nr_slab_unreclaimable": (-2, 2),
            },
            {
                "nr_file_pages": 512, "nr_unevictable": 512, "nr_zone_unevictable": 512, "gmem/g0": 512,
                "unevictable_pgs_culled": 512, "kvm/g0/pages_4k": 512, "F": (-522, -510), "pgalloc": (512, 522),
                "pgfree": (0, 2), "nr_anon_pages": 0, "nr_page_table_pages": 0, "unaccounted": 0,
                "gmem/g1": 0, "kvm/g1/pages_4k": 0, "kvm/g0/pages_2m": 0, "thp_split_page": 0, "mthp/2048kB/split": 0,
            },
        ],
        {},
    ),
    "without page table reclaim the table stays": (
        ["{do: convert, range: 'g0.r0[0:512]', to: private}"],
        [{"nr_page_table_pages": 0, "F": (-10, 2), "pgfree": (0, 2), "pgalloc": (0, 10)}],
        {"pt_reclaim": False},
    ),
    "a page table that is absent comes with the first shared touch, read or write": (
        ["{do: touch, range: 'g0.r0[510:514]', write: false}", "{do: populate, range: 'g0.r0[510:514]'}"],
        [
            {"nr_page_table_pages": 2, "F": -2, "pgalloc": 2, "nr_anon_pages": 0, "kvm/g0/pages_4k": 4},
            {"nr_page_table_pages": 0, "F": -4, "pgalloc": 4, "nr_anon_pages": 4, "kvm/g0/pages_4k": 0},
        ],
        {"tables_present": False},
    ),
    "one page of a private chunk goes to shared and comes back": (
        [
            "{do: convert, range: 'g0.r0[0:512]', to: private}",
            "{do: populate, range: 'g0.r0[0:512]'}",
            "{do: convert, range: 'g0.r0[5:6]', to: shared}",
            "{do: populate, range: 'g0.r0[5:6]'}",
            "{do: convert, range: 'g0.r0[5:6]', to: private}",
            "{do: populate, range: 'g0.r0[5:6]'}",
        ],
        [
            {},
            {},
            {
                "nr_file_pages": -1, "nr_unevictable": -1, "gmem/g0": -1, "F": 1, "pgfree": 1, "pgalloc": 0,
                "kvm/g0/pages_4k": -1, "nr_slab_reclaimable": 0, "unevictable_pgs_culled": 0,
            },
            {"nr_anon_pages": 1, "nr_page_table_pages": 1, "F": -2, "kvm/g0/pages_4k": 1, "nr_file_pages": 0},
            {"nr_anon_pages": -1, "nr_page_table_pages": 0, "F": 1, "pgfree": 1, "kvm/g0/pages_4k": -1},
            {"nr_file_pages": 1, "F": -1, "kvm/g0/pages_4k": 1, "unevictable_pgs_culled": 1, "pgalloc": 1},
        ],
        {},
    ),
    "100 shared pages are written and discarded": (
        ["{do: populate, range: 'g0.r0[0:100]'}", "{do: convert, range: 'g0.r0[0:100]', to: private}"],
        [
            {
                "nr_anon_pages": 100, "F": -100, "pgalloc": 100, "pgfree": 0, "kvm/g0/pages_4k": 100,
                "nr_slab_reclaimable": 0, "nr_file_pages": 0, "movable_balance": (-100 - 1008, -100 + 1008),
            },
            # two nodes of attributes and up to four above: up to (1 + 1) * 4 slab pages; one page to list the freed
            {
                "nr_anon_pages": -100, "F": (100 - 10, 100 + 2), "pgfree": (101, 103), "pgalloc": (1, 11),
                "kvm/g0/pages_4k": -100, "nr_page_table_pages": 0, "movable_balance": (100 - 1008, 100 + 1008),
            },
        ],
        {},
    ),
    "six discarded pages need no list of their own": (
        ["{do: populate, range: 'g0.r0[0:6]'}", "{do: convert, range: 'g0.r0[0:6]', to: private}"],
        [{}, {"pgfree": (6, 8), "pgalloc": (0, 10)}],
        {},
    ),
    "seven discarded pages need a page to list them": (
        ["{do: populate, range: 'g0.r0[0:7]'}", "{do: convert, range: 'g0.r0[0:7]', to: private}"],
        [{}, {"pgfree": (8, 10), "pgalloc": (1, 11), "nr_anon_pages": -7}],
        {},
    ),
    "reading absent shared pages maps the zero page, writing replaces it": (
        [
            "{do: touch, range: 'g0.r0[0:10]', write: false}",
            "{do: touch, range: 'g0.r0[0:10]', write: false}",
            "{do: populate, range: 'g0.r0[0:4]'}",
            "{do: check, range: 'g0.r0[0:12]', expect: either}",
        ],
        [
            {"nr_anon_pages": 0, "F": 0, "pgalloc": 0, "kvm/g0/pages_4k": 10},
            {"nr_anon_pages": 0, "F": 0, "kvm/g0/pages_4k": 0},
            {"nr_anon_pages": 4, "F": -4, "pgalloc": 4, "kvm/g0/pages_4k": 0},
            {"nr_anon_pages": 0, "F": 0, "kvm/g0/pages_4k": 2},
        ],
        {},
    ),
    "the host allocates, the guest converts, touches, the host punches": (
        [
            "{do: fallocate, range: 'g0.r0[0:64]'}",
            "{do: fallocate, range: 'g0.r0[0:64]'}",
            "{do: convert, range: 'g0.r0[0:64]', to: private}",
            "{do: touch, range: 'g0.r0[0:65]', write: false}",
            "{do: punch, range: 'g0.r0[0:64]'}",
            "{do: punch, range: 'g0.r0[0:64]'}",
        ],
        [
            # one node and up to four above: up to (1 + 1) * 4 slab pages
            {"nr_file_pages": 64, "F": (-74, -62), "pgalloc": (64, 74), "kvm/g0/pages_4k": 0, "gmem/g0": 64},
            {"nr_file_pages": 0, "F": 0, "pgalloc": 0, "unevictable_pgs_culled": 0},
            {"nr_file_pages": 0, "F": (-10, 2), "nr_page_table_pages": 0},
            {"nr_file_pages": 0, "kvm/g0/pages_4k": 65, "F": 0, "nr_anon_pages": 0},
            {
                "nr_file_pages": -64, "nr_unevictable": -64, "F": (62, 74), "pgfree": (64, 74), "pgalloc": (0, 2),
                "kvm/g0/pages_4k": -64, "nr_slab_reclaimable": (-8, 0),
            },
            {"nr_file_pages": 0, "F": 0, "pgfree": 0, "kvm/g0/pages_4k": 0},
        ],
        {},
    ),
    "an idempotent conversion still discards, and its notifier zaps what is mapped": (
        [
            "{do: convert, range: 'g0.r0[0:64]', to: private}",
            "{do: populate, range: 'g0.r0[0:64]'}",
            "{do: convert, range: 'g0.r0[0:64]', to: private}",
            "{do: convert, range: 'g0.r0[0:64]', to: private}",
            "{do: check, range: 'g0.r0[0:64]', expect: pattern}",
        ],
        [
            {},
            {},
            {"nr_file_pages": 0, "F": 0, "pgfree": 0, "pgalloc": 0, "kvm/g0/pages_4k": -64, "nr_slab_reclaimable": 0},
            {"nr_file_pages": 0, "F": 0, "pgfree": 0, "kvm/g0/pages_4k": 0},
            {"nr_file_pages": 0, "F": 0, "kvm/g0/pages_4k": 64},
        ],
        {},
    ),
    "an idempotent conversion to shared punches what the host allocated": (
        ["{do: fallocate, range: 'g0.r0[0:3]'}", "{do: convert, range: 'g0.r0[0:3]', to: shared}"],
        [{"nr_file_pages": 3}, {"nr_file_pages": -3, "pgfree": (3, 13), "nr_anon_pages": 0}],
        {},
    ),
    "a piece of both sides goes to private as a whole": (
        [
            "{do: convert, range: 'g0.r0[0:4]', to: private}",
            "{do: populate, range: 'g0.r0[0:8]'}",
            "{do: convert, range: 'g0.r0[0:8]', to: private}",
        ],
        [
            {},
            {"nr_file_pages": 4, "nr_anon_pages": 4, "kvm/g0/pages_4k": 8},
            {"nr_file_pages": 0, "nr_anon_pages": -4, "kvm/g0/pages_4k": -8, "F": 4, "pgfree": 4},
        ],
        {},
    ),
    "a hole punch on the host zaps shared leaves too": (
        ["{do: populate, range: 'g0.r0[0:8]'}", "{do: punch, range: 'g0.r0[0:4]'}"],
        [{}, {"kvm/g0/pages_4k": -4, "nr_anon_pages": 0, "F": 0, "pgfree": 0}],
        {},
    ),
    "where private and shared leaves have trees of their own it does not": (
        [
            "{do: populate, range: 'g0.r0[0:8]'}",
            "{do: punch, range: 'g0.r0[0:4]'}",
            "{do: convert, range: 'g0.r0[0:4]', to: private}",
            "{do: populate, range: 'g0.r0[0:8]'}",
            "{do: convert, range: 'g0.r0[0:8]', to: private}",
            "{do: punch, range: 'g0.r0[0:8]'}",
        ],
        [
            {},
            {"kvm/g0/pages_4k": 0},
            {"kvm/g0/pages_4k": -4},
            {"kvm/g0/pages_4k": 4},
            {"kvm/g0/pages_4k": -4},
            {"kvm/g0/pages_4k": -4},
        ],
        {"mirrored_tdp": True},
    ),
    "every second page is touched": (
        [
            "{do: convert, range: 'g0.r0[0:512]', to: private}",
            "{do: touch, range: 'g0.r0[1:512]', stride: 2}",
            "{do: convert, range: 'g0.r0[0:512]', to: shared}",
        ],
        [
            {},
            {"nr_file_pages": 256, "kvm/g0/pages_4k": 256, "F": (-266, -254)},
            # 8 nodes of each tree and up to 4 above each, 24 in all: up to (1 + 1) * 4 slab pages
            {"nr_file_pages": -256, "kvm/g0/pages_4k": -256, "F": (254, 266), "nr_page_table_pages": 0},
        ],
        {},
    ),
    "nodes freed before may complete a slab later": (
        [
            "{do: fallocate, range: 'g0.r0[0:2048]'}",
            "{do: punch, range: 'g0.r0[0:1984]'}",
            "{do: punch, range: 'g0.r0[1984:2048]'}",
        ],
        [
            # 32 nodes and up to 4 + 3 above: (2 + 1) * 4
            {"nr_slab_reclaimable": (0, 12)},
            # 31 nodes, up to 3 + 3 above: (2 + 1) * 4
            {"nr_slab_reclaimable": (-12, 0), "nr_file_pages": -1984},
            # 1 node, up to 1 + 3 above, 37 before: (2 + 1) * 4
            {"nr_slab_reclaimable": (-12, 0), "nr_file_pages": -64, "F": (62, 78)},
        ],
        {},
    ),
    "writing present pages again moves nothing": (
        [
            "{do: convert, range: 'g0.r0[0:4]', to: private}",
            "{do: populate, range: 'g0.r0[0:8]'}",
            "{do: populate, range: 'g0.r0[0:8]'}",
        ],
        [{}, {}, {"nr_file_pages": 0, "nr_anon_pages": 0, "F": 0, "pgalloc": 0, "kvm/g0/pages_4k": 0}],
        {},
    ),
    "a page table goes only with the whole chunk": (
        ["{do: convert, range: 'g0.r0[1:512]', to: private}", "{do: convert, range: 'g0.r0[0:1]', to: private}"],
        [{"nr_page_table_pages": 0}, {"nr_page_table_pages": 0, "F": 0, "pgfree": 0}],
        {},
    ),
    "nodes above the second level count": (
        # 24 nodes, up to 3 + 3 above: (2 + 1) * 4 slab pages
        ["{do: fallocate, range: 'g0.r0[0:1536]'}"],
        [{"nr_slab_reclaimable": (0, 12), "nr_file_pages": 1536}],
        {},
    ),
    "nothing is done": (
        ["{do: settle}", "{do: empty}"],
        [
            {"nr_file_pages": 0, "F": 0, "pgfree": 0, "pgalloc": 0, "unaccounted": 0, "movable_balance": (0, 1008)},
            {"nr_file_pages": 0, "F": 0, "kvm/g0/pages_4k": 0, "kvm/g1/pages_4k": 0, "nr_slab_reclaimable": 0},
        ],
        {},
    ),
    "closing frees what the regions and the rest of the guest_memfd hold": (
        [
            "{do: convert, range: 'g0.r0[0:512]', to: private}",
            "{do: populate, range: 'g0.r0[0:512]'}",
            "{do: close, guest: g0}",
        ],
        [
            {},
            {},
            {
                "nr_file_pages": -519, "nr_unevictable": -519, "nr_zone_unevictable": -519, "gmem/g1": 0,
                "kvm/g1/pages_4k": 0, "unevictable_pgs_culled": 0, "nr_file_hugepages": 0,
            },
        ],
        {},
    ),
    "a second guest moves nothing of the first": (
        ["{do: convert, range: 'g1.r0[0:9]', to: private}", "{do: populate, range: 'g1.r0[0:9]'}"],
        [{}, {"gmem/g1": 9, "kvm/g1/pages_4k": 9, "gmem/g0": 0, "kvm/g0/pages_4k": 0, "nr_file_pages": 9}],
        {},
    ),
}  # fmt: skip


def failures(predict: Callable[..., Any], design: Any, facts_type: Callable[..., Any]) -> list[str]:
    """Sentences on every entry that a model (the real one or a mutated copy) gets wrong."""
    said = []
    for name, (steps, wanted, facts) in GOLDEN.items():
        predicted = predict(scenario_of(steps), design, START, facts_type(**(FACTS | facts)))
        for step, bounds in zip(predicted, wanted, strict=True):
            for counter, bound in bounds.items():
                low, high = (bound, bound) if isinstance(bound, int) else bound
                got = step.predictions[counter]
                if (got.low, got.high) != (low, high):
                    said.append(f"{name}, step {step.index}: {counter} {got.low}..{got.high}, not {low}..{high}")
    return said


def test_every_entry_of_the_table_holds():
    assert failures(predict.predict, designs.design_named("order0"), HostFacts) == []


@pytest.mark.parametrize("name", GOLDEN)
def test_every_bound_of_the_table_has_a_reason_with_a_sentence(name):
    steps, _, facts = GOLDEN[name]
    host = HostFacts(**(FACTS | facts))
    for step in predict.predict(scenario_of(steps), designs.design_named("order0"), START, host):
        for counter, bound in step.predictions.items():
            assert bound.reasons, counter
            for reason in bound.reasons:
                assert reason.rule
                assert len(reason.text.split()) >= 4, reason.text
                assert "{" not in reason.text
            exact = [reason.pages for reason in bound.reasons]
            if None not in exact:
                assert sum(exact) == bound.low == bound.high, counter
