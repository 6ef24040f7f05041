# SPDX-License-Identifier: GPL-2.0-only
"""Design thp-discard by hand: differences worked out on paper from the rules in docs/model.md.

Arithmetic of the intervals, for 2 CPUs: see test_model_golden.py.  A whole window in an empty tree needs no lowest
node and up to 1 + 3 above: up to (1 + 1) * 4 slab pages and 2 of metadata.  The first table that KVM links may bring a
refill of 36 pages and 4 slab pages of headers.
"""

from __future__ import annotations

from typing import Any

import pytest
from test_model_contents import scenario_of
from test_model_golden import FACTS, Bound

from harness.errors import UsageError
from harness.model.aligned import size_name
from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict

START = {
    "gmem/g0": 7, "gmem/g1": 0, "thp_split_page": 3, "thp_split_page_failed": 0, "thp_file_alloc": 0,
    "thp_fault_alloc": 0,
} | {
    f"mthp/{size_name(order)}/{what}": 0 for order in range(1, 10) for what in ("split", "split_failed")
}  # fmt: skip
PRIVATE = "{do: convert, range: 'g0.r0[0:512]', to: private}"
FILL = "{do: populate, range: 'g0.r0[0:512]'}"

# What a split must not touch.
NO_SPLIT = {"thp_split_page": 0, "mthp/2048kB/split": 0, "thp_split_page_failed": 0}

GOLDEN: dict[str, tuple[str, list[str], list[dict[str, Bound]], dict[str, Any]]] = {
    "an empty window gets one folio, mapped by one leaf": (
        "thp-discard",
        [PRIVATE, FILL, FILL],
        [
            {"nr_file_pages": 0, "nr_file_hugepages": 0, "kvm/g0/pages_2m": 0},
            {
                "nr_file_pages": 512, "nr_file_hugepages": 1, "nr_unevictable": 512, "nr_zone_unevictable": 512,
                "unevictable_pgs_culled": 512, "gmem/g0": 512, "kvm/g0/pages_2m": 1, "kvm/g0/pages_4k": 0,
                "F": (-522, -510), "pgalloc": (512, 522), "pgfree": (0, 2), "thp_file_alloc": 0, "thp_fault_alloc": 0,
                "nr_sec_page_table_pages": 0, "unaccounted": 0, "nr_slab_reclaimable": (0, 8), **NO_SPLIT,
            },
            {"nr_file_pages": 0, "nr_file_hugepages": 0, "kvm/g0/pages_2m": 0, "F": 0},
        ],
        {},
    ),
    "one touched page brings the whole window": (
        "thp-discard",
        [PRIVATE, "{do: touch, range: 'g0.r0[77:78]', write: false}"],
        [{}, {"nr_file_pages": 512, "nr_file_hugepages": 1, "kvm/g0/pages_2m": 1, "kvm/g0/pages_4k": 0}],
        {},
    ),
    "an even page of a folio: nine folios stay": (
        "thp-discard",
        [PRIVATE, FILL, "{do: convert, range: 'g0.r0[100:101]', to: shared}"],
        [
            {},
            {},
            {
                "nr_file_pages": -1, "nr_unevictable": -1, "gmem/g0": -1, "nr_file_hugepages": -1, "thp_split_page": 1,
                "mthp/2048kB/split": 1, "mthp/8kB/split": 0, "mthp/1024kB/split": 0, "thp_split_page_failed": 0,
                "kvm/g0/pages_2m": -1, "kvm/g0/pages_4k": 0, "unevictable_pgs_culled": 0, "nr_anon_pages": 0,
                # one node for the group of 64 around the page: up to (1 + 0) * 4 slab pages
                "F": (1 - 4 - 2, 1 + 2), "pgfree": (1, 3), "nr_slab_reclaimable": (0, 4), "unaccounted": 0,
            },
        ],
        {},
    ),
    "an odd page: the folio that begins behind it is split too": (
        "thp-discard",
        [PRIVATE, FILL, "{do: convert, range: 'g0.r0[255:256]', to: shared}"],
        [{}, {}, {"nr_file_pages": -1, "thp_split_page": 1, "mthp/2048kB/split": 1, "mthp/1024kB/split": 1}],
        {},
    ),
    "the last page: nothing is behind it": (
        "thp-discard",
        [PRIVATE, FILL, "{do: convert, range: 'g0.r0[511:512]', to: shared}"],
        [{}, {}, {"nr_file_pages": -1, "thp_split_page": 1, "mthp/2048kB/split": 1, "mthp/8kB/split": 0}],
        {},
    ),
    "a second hole in a remainder: its own size is counted, thp_split_page is not": (
        "thp-discard",
        [
            PRIVATE,
            FILL,
            "{do: convert, range: 'g0.r0[0:1]', to: shared}",
            "{do: convert, range: 'g0.r0[300:301]', to: shared}",
            "{do: convert, range: 'g0.r0[4:8]', to: shared}",
        ],
        [
            {},
            {},
            {"thp_split_page": 1, "nr_file_hugepages": -1},
            {
                "thp_split_page": 0, "mthp/2048kB/split": 0, "mthp/1024kB/split": 1, "nr_file_hugepages": 0,
                "nr_file_pages": -1,
            },
            {"nr_file_pages": -4, "mthp/16kB/split": 0, "mthp/8kB/split": 0, "pgfree": 4, "F": 4},
        ],
        {},
    ),
    "a uniform split leaves single pages, which split no more": (
        "thp-discard",
        [
            PRIVATE,
            FILL,
            "{do: convert, range: 'g0.r0[255:256]', to: shared}",
            "{do: convert, range: 'g0.r0[300:301]', to: shared}",
        ],
        [
            {},
            {},
            {
                "nr_file_pages": -1, "thp_split_page": 1, "mthp/2048kB/split": 1, "mthp/1024kB/split": 0,
                "nr_file_hugepages": -1,
                # eight nodes, one for each group of 64: up to (1 + 1) * 4 slab pages
                "nr_slab_reclaimable": (0, 8), "F": (1 - 8 - 2, 1 + 2),
            },
            {"nr_file_pages": -1, "thp_split_page": 0, "mthp/1024kB/split": 0, "F": 1, "pgfree": 1},
        ],
        {"uniform_split": True},
    ),
    "a page that comes back is a page of its own, and the window stays small": (
        "thp-discard",
        [
            PRIVATE,
            FILL,
            "{do: convert, range: 'g0.r0[100:101]', to: shared}",
            "{do: populate, range: 'g0.r0[100:101]'}",
            "{do: convert, range: 'g0.r0[100:101]', to: private}",
            FILL,
        ],
        [
            {},
            {},
            {},
            {
                "nr_anon_pages": 1, "nr_page_table_pages": 1, "nr_sec_page_table_pages": 1, "kvm/g0/pages_4k": 1,
                "kvm/g0/pages_2m": 0, "unaccounted": (-1, 35), "F": (-2 - 36 - 4, -2), "nr_file_pages": 0,
                "nr_slab_unreclaimable": (0, 4),
            },
            {"nr_anon_pages": -1, "kvm/g0/pages_4k": -1, "nr_sec_page_table_pages": 0, "unaccounted": 0},
            {
                "nr_file_pages": 1, "nr_file_hugepages": 0, "kvm/g0/pages_4k": 512, "kvm/g0/pages_2m": 0,
                "nr_unevictable": 1, "thp_split_page": 0, "nr_sec_page_table_pages": 0,
            },
        ],
        {},
    ),
    "a window given up whole is huge again": (
        "thp-discard",
        [
            PRIVATE,
            FILL,
            "{do: convert, range: 'g0.r0[100:101]', to: shared}",
            "{do: convert, range: 'g0.r0[0:512]', to: shared}",
            PRIVATE,
            FILL,
        ],
        [
            {},
            {},
            {},
            {"nr_file_pages": -511, "nr_file_hugepages": 0, **NO_SPLIT, "mthp/1024kB/split": 0},
            {},
            {"nr_file_pages": 512, "nr_file_hugepages": 1, "kvm/g0/pages_2m": 1},
        ],
        {},
    ),
    "whole folios are freed whole": (
        "thp-discard",
        [
            "{do: convert, range: 'g0.r0[0:1024]', to: private}",
            "{do: populate, range: 'g0.r0[0:1024]'}",
            "{do: convert, range: 'g0.r0[0:1024]', to: shared}",
        ],
        [
            {},
            {"nr_file_hugepages": 2, "kvm/g0/pages_2m": 2},
            {
                "nr_file_pages": -1024, "nr_file_hugepages": -2, "kvm/g0/pages_2m": -2, "kvm/g0/pages_4k": 0,
                "pgfree": (1024, 1034), **NO_SPLIT,
            },
        ],
        {},
    ),
    "attributes are not looked at: a page of a shared window brings a folio, mapped small": (
        "thp-discard",
        ["{do: convert, range: 'g0.r0[3:5]', to: private}", "{do: populate, range: 'g0.r0[0:512]'}"],
        [
            {},
            {
                "nr_file_pages": 512, "nr_file_hugepages": 1, "nr_anon_pages": 510, "kvm/g0/pages_4k": 512,
                "kvm/g0/pages_2m": 0, "nr_sec_page_table_pages": 1,
            },
        ],
        {},
    ),
    "the rest of the window becomes private: the next fault maps all of it, and the small leaves go": (
        "thp-discard",
        [
            "{do: convert, range: 'g0.r0[0:256]', to: private}",
            "{do: populate, range: 'g0.r0[0:256]'}",
            "{do: convert, range: 'g0.r0[256:512]', to: private}",
            "{do: populate, range: 'g0.r0[0:256]'}",
            "{do: populate, range: 'g0.r0[511:512]'}",
        ],
        [
            {},
            {"nr_file_hugepages": 1, "kvm/g0/pages_4k": 256, "nr_sec_page_table_pages": 1},
            {"kvm/g0/pages_4k": 0},
            {"kvm/g0/pages_4k": 0, "kvm/g0/pages_2m": 0},
            {
                "nr_file_pages": 0, "kvm/g0/pages_4k": -256, "kvm/g0/pages_2m": 1, "nr_sec_page_table_pages": -1,
                "F": (1 - 36 - 4, 2), "pgfree": (1, 2),
            },
        ],
        {},
    ),
    "fallocate of a part brings the whole; it is not dirty until the guest comes": (
        "thp-discard",
        ["{do: fallocate, range: 'g0.r0[100:200]'}", "{do: punch, range: 'g0.r0[0:512]'}"],
        [
            {"nr_file_pages": 512, "nr_file_hugepages": 1, "kvm/g0/pages_2m": 0},
            {"nr_file_pages": -512, "nr_file_hugepages": -1, **NO_SPLIT},
        ],
        {},
    ),
    "where no block of the order is to be had, pages come one by one and no counter tells": (
        "thp-discard",
        [PRIVATE, "{do: populate, range: 'g0.r0[0:10]'}"],
        [{}, {"nr_file_pages": 10, "nr_file_hugepages": 0, "kvm/g0/pages_4k": 10, "nr_sec_page_table_pages": 0}],
        {"large_folios": False},
    ),
    "a held dirty folio is not split: nothing is freed and the punch succeeds": (
        "thp-discard",
        [
            PRIVATE,
            FILL,
            "{do: pin, range: 'g0.r0[300:301]'}",
            "{do: convert, range: 'g0.r0[100:101]', to: shared}",
            "{do: unpin, range: 'g0.r0[300:301]'}",
            "{do: punch, range: 'g0.r0[100:101]'}",
        ],
        [
            {},
            {},
            {"nr_file_pages": 0},
            {
                "nr_file_pages": 0, "nr_unevictable": 0, "F": 0, "pgfree": 0, "thp_split_page": 0,
                "thp_split_page_failed": 1, "mthp/2048kB/split_failed": 1, "mthp/2048kB/split": 0,
                "nr_file_hugepages": 0, "kvm/g0/pages_2m": -1,
            },
            {"F": 0, "pgfree": 0},
            {"nr_file_pages": -1, "thp_split_page": 1, "thp_split_page_failed": 0, "nr_file_hugepages": -1},
        ],
        {},
    ),
    "a held clean folio goes whole, and comes free with the reference": (
        "thp-discard",
        [
            "{do: fallocate, range: 'g0.r0[0:512]'}",
            PRIVATE,
            "{do: pin, range: 'g0.r0[0:512]'}",
            "{do: punch, range: 'g0.r0[100:101]'}",
            "{do: unpin, range: 'g0.r0[0:200]'}",
            "{do: unpin, range: 'g0.r0[0:512]'}",
        ],
        [
            {},
            {},
            {},
            {
                "nr_file_pages": -512, "nr_unevictable": 0, "gmem/g0": -512, "nr_file_hugepages": -1,
                "thp_split_page_failed": 1, "mthp/2048kB/split_failed": 1, "unaccounted": 512,
            },
            {"F": 0, "pgfree": 0, "nr_unevictable": 0, "unaccounted": 0},
            {"F": 512, "pgfree": 512, "nr_unevictable": -512, "nr_zone_unevictable": -512, "unaccounted": -512},
        ],
        {},
    ),
    "64 KiB folios: no thp_split_page, no nr_file_hugepages, leaves of 4 KiB": (
        "thp-discard:4",
        [PRIVATE, "{do: populate, range: 'g0.r0[0:40]'}", "{do: convert, range: 'g0.r0[7:8]', to: shared}"],
        [
            {},
            {"nr_file_pages": 48, "nr_file_hugepages": 0, "kvm/g0/pages_4k": 40, "kvm/g0/pages_2m": 0},
            {
                "nr_file_pages": -1, "thp_split_page": 0, "mthp/64kB/split": 1, "mthp/32kB/split": 1,
                "nr_file_hugepages": 0, "kvm/g0/pages_4k": -1,
            },
        ],
        {},
    ),
    "1 GiB folios: one leaf for the whole region": (
        "thp-discard:18",
        [
            "{do: convert, range: 'g0.r0[0:512]', to: private}",
            "{do: populate, range: 'g0.r0[5:6]'}",
            "{do: convert, range: 'g0.r0[512:4096]', to: private}",
            "{do: populate, range: 'g0.r0[600:601]'}",
        ],
        [
            {},
            {"nr_file_pages": 1 << 18, "nr_file_hugepages": 512, "kvm/g0/pages_2m": 1, "nr_sec_page_table_pages": 1},
            {},
            {"nr_file_pages": 0, "kvm/g0/pages_2m": 1, "kvm/g0/pages_1g": 0},
        ],
        {"regions": {"g0.r0": 512, "g1.r0": 8}},
    ),
    "closing gives huge folios back": (
        "thp-discard",
        [PRIVATE, FILL, "{do: close, guest: g0}"],
        [{}, {}, {"nr_file_pages": -519, "nr_unevictable": -519, "nr_file_hugepages": -1}],
        {},
    ),
}  # fmt: skip


def failures_of(golden: dict[str, tuple[str, list[str], list[dict[str, Bound]], dict[str, Any]]]) -> list[str]:
    """Sentences on every entry that the model gets wrong."""
    said = []
    for name, (design, steps, wanted, facts) in golden.items():
        predicted = predict(scenario_of(steps), design_named(design), START, HostFacts(**(FACTS | facts)))
        for step, bounds in zip(predicted, wanted, strict=True):
            for counter, bound in bounds.items():
                low, high = (bound, bound) if isinstance(bound, int) else bound
                got = step.predictions[counter]
                if (got.low, got.high) != (low, high):
                    said.append(f"{name}, step {step.index}: {counter} {got.low}..{got.high}, not {low}..{high}")
    return said


@pytest.mark.parametrize("name", GOLDEN)
def test_every_entry_of_the_table_holds(name):
    assert failures_of({name: GOLDEN[name]}) == []


@pytest.mark.parametrize("name", GOLDEN)
def test_every_bound_has_a_reason_that_reads(name):
    design, steps, _, facts = GOLDEN[name]
    for step in predict(scenario_of(steps), design_named(design), START, HostFacts(**(FACTS | facts))):
        for counter, bound in step.predictions.items():
            for reason in bound.reasons:
                assert len(reason.text.split()) >= 4, (counter, reason.text)
                assert "{" not in reason.text, reason.text


def test_contents_of_what_was_dropped_with_a_clean_folio_are_zero():
    steps = [
        "{do: fallocate, range: 'g0.r0[0:512]'}", PRIVATE, "{do: pin, range: 'g0.r0[0:1]'}",
        "{do: punch, range: 'g0.r0[9:10]'}", "{do: check, range: 'g0.r0[0:512]', expect: zero}",
    ]  # fmt: skip
    last = predict(scenario_of(steps), design_named("thp-discard"), START, HostFacts(**FACTS))[-1]
    assert [(run.start, run.count, run.generation) for run in last.contents] == [(0, 512, None)]
    assert last.predictions["nr_file_pages"].low == 512


def test_contents_of_a_folio_that_could_not_be_split_survive():
    steps = [
        PRIVATE, FILL, "{do: pin, range: 'g0.r0[300:301]'}", "{do: convert, range: 'g0.r0[100:101]', to: shared}",
        "{do: convert, range: 'g0.r0[100:101]', to: private}", "{do: check, range: 'g0.r0[0:512]', expect: pattern}",
    ]  # fmt: skip
    last = predict(scenario_of(steps), design_named("thp-discard"), START, HostFacts(**FACTS))[-1]
    assert [(run.start, run.count, run.generation) for run in last.contents] == [(0, 512, 1)]


@pytest.mark.parametrize(
    ("name", "order", "says"),
    [
        ("thp-discard:x", None, "after the colon comes the order"),
        ("thp-discard:19", None, "has no folios of order 19: orders are 1 (8kB) to 18"),
        ("order0:4", None, "has no folio order to choose"),
        ("thp", None, "unknown gmem design 'thp': known are order0, "),
        ("order0", 2, "has no folio order to choose"),
    ],
)
def test_a_wrong_design_or_order_is_refused_in_a_sentence(name, order, says):
    with pytest.raises(UsageError) as error:
        design_named(name, order)
    assert says in str(error.value)


def test_the_order_is_a_parameter():
    assert design_named("thp-discard", order=4) == design_named("thp-discard:4")
    assert design_named("thp-discard:9").name == "thp-discard"
    assert design_named("thp-discard:4").folio_orders == (0, 4)
