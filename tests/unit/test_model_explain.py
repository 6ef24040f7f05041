# SPDX-License-Identifier: GPL-2.0-only
"""The chain of reasons behind one counter at one step, as text."""

from __future__ import annotations

import doctest

import pytest
from model_tables import FILL, PRIVATE, START
from test_model_contents import scenario_of

from harness.errors import UsageError
from harness.model import explain as module
from harness.model.designs import design_named
from harness.model.explain import explain
from harness.model.facts import HostFacts
from harness.model.predict import predict

STEPS = [
    PRIVATE, FILL, "{do: convert, range: 'g0.r0[0:1]', to: shared}", "{do: settle}",
    "{do: convert, range: 'g0.r0[300:301]', to: shared}", "{do: convert, range: 'g0.r0[0:4096]', to: shared}",
    "{do: compact}", "{do: close, guest: g0}",
]  # fmt: skip


@pytest.fixture(scope="module")
def predicted():
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
    return predict(scenario_of(STEPS), design_named("thp-discard"), START, facts)


def test_the_example_of_the_module_is_what_it_says():
    assert doctest.testmod(module).failed == 0


def test_the_rule_its_number_and_what_remains_of_the_folio(predicted):
    assert explain(predicted, "mthp/1024kB/split", 4).splitlines() == [
        "step 4 (convert g0.r0[300:301] to shared): mthp/1024kB/split +1",
        "  +1  split: the hole g0.r0[300:301] cuts a folio of order 8, which is split in halves around the edge of the"
        " hole",
        "the step found, in g0.r0:",
        "  chunk 0, since step 2: 511 pages private, the others shared; 511 pages in the guest_memfd: 1 folio of order"
        " 8, 1 folio of order 7, 1 folio of order 6, 1 folio of order 5, 1 folio of order 4, 1 folio of order 3,"
        " 1 folio of order 2, 1 folio of order 1, 1 single page",
    ]


def test_what_earlier_steps_did_is_added_up(predicted):
    said = explain(predicted, "nr_file_pages", 5)
    assert "nr_file_pages -510\n  -510  punch: 510 present private pages of g0.r0[0:512] leave" in said
    assert "earlier steps moved it by +510:" in said
    assert "  step 2 (convert g0.r0[0:1] to shared): -1" in said
    assert "and 4 more chunks" in said


def test_an_interval_shows_which_rules_leave_room(predicted):
    said = explain(predicted, "F", 2)
    assert "F -5 to +3" in said
    assert "\n  ..  slab: tree nodes allocated: 1" in said


def test_a_counter_that_stands_still_says_why(predicted):
    assert explain(predicted, "nr_anon_pages", 3).splitlines() == [
        "step 3 (settle): nr_anon_pages +0",
        "  +0  untouched (thp-discard): nothing in this step (settle) moves it",
    ]


def test_what_is_not_predicted_says_why(predicted):
    assert "is not predicted: compaction moves whatever" in explain(predicted, "compact_isolated", 6)
    assert "is not predicted: guest g0 is no more" in explain(predicted, "gmem/g0", 7)


def test_a_refusal_is_told():
    steps = [PRIVATE, FILL, "{do: punch, range: 'g0.r0[0:5]'}"]
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
    refused = predict(scenario_of(steps), design_named("thp-2m-truncate"), START, facts)
    said = explain(refused, "nr_file_pages", 2)
    assert "the step must fail: punch fails with EINVAL at page 0 of g0.r0 (truncate-unit: g0.r0[0:5] covers a" in said


@pytest.mark.parametrize(
    ("counter", "index", "says"),
    [
        ("nr_file_pages", 8, "step 8 is not in the scenario: it has steps 0 to 7"),
        ("nr_file_pagse", 1, "did you mean 'nr_file_pages'?"),
        ("xyzzy", 1, "the model says nothing about a counter 'xyzzy' in step 1"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_a_sentence(predicted, counter, index, says):
    with pytest.raises(UsageError) as error:
        explain(predicted, counter, index)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
