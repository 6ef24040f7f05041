# SPDX-License-Identifier: GPL-2.0-only
"""Nothing is left of what was given up: not a counter but the model's own state, after the lists of doings that touch
each part of it.  A set that is not carried over shows here, long before it moves a counter."""

from __future__ import annotations

import dataclasses

import pytest
from backing_walk import PUNCH, Walk
from test_model_contents import scenario_of

from harness.model import pages
from harness.model.aligned import Blocks
from harness.model.context import Context
from harness.model.designs import DESIGNS, design_named
from harness.model.explain import explain
from harness.model.facts import HostFacts
from harness.model.parked import Parked
from harness.model.predict import predict
from harness.model.references import leave
from harness.model.shared import ANON_4K
from harness.model.state import Patterns, RegionState
from harness.model.thp import truncate
from harness.model.truncate import give_up

FACTS = HostFacts(ncpu=2, regions={"g0.r0": 2, "g1.r0": 8})
PLACES = {"attr_private", "chunks", "nested_missing", "tables"}
"""What is no memory: sides, and tables that stay."""
ALL = ("write", 0, 1024)
DOINGS = {
    "written": [ALL],
    "read and written": [("read", 0, 1024), ("write", 5, 1), ("read", 600, 3)],
    "in part discarded": [ALL, ("discard", 0, 8), ("discard", 700, 1), ("write", 3, 2)],
    "pinned": [ALL, ("pin", 3, 2), ("pin", 900, 1), ("discard", 0, 8), ("write", 3, 1), ("discard", 512, 512)],
    "pinned twice": [ALL, ("pin", 3, 1), ("discard", 0, 512), ("write", 3, 1), ("pin", 3, 1), ("discard", 3, 1)],
    "shrunk": [ALL, ("discard", 0, 8), ("pin", 600, 1), ("discard", 512, 8), ("shrink", 0, 1024)],
    "punched": [ALL, ("pin", 3, 1), ("punch", 0, 512), ("write", 3, 1), ("punch", 600, 1)],
    "converted": [ALL, ("pin", 7, 1), ("to_private", 0, 600), ("map_private", 0, 600), ("to_shared", 0, 600), ALL],
}


def left_of(region: RegionState) -> dict[str, object]:
    """Fields that are not empty."""
    found = {known.name: getattr(region, known.name) for known in dataclasses.fields(region)}
    return {name: value for name, value in found.items() if name not in PLACES and value not in (
        0, Blocks(), Patterns(), Parked()
    )}  # fmt: skip


@pytest.mark.parametrize("doing", DOINGS)
@pytest.mark.parametrize("name", ["anon-4k", "anon-thp", "memfd-4k", "shmem-thp", "hugetlb"])
@pytest.mark.parametrize("changed", [{}, {"uniform_split": True}, {"use_zero_page": False, "thp_available": False}])
def test_a_shared_side_that_was_given_up(name: str, doing: str, changed: dict[str, bool]) -> None:
    walk = Walk(name, dataclasses.replace(FACTS, **changed), chunks=2)
    for operation in DOINGS[doing]:
        if operation[0] != "punch" or name in PUNCH:
            walk.do(operation)
    walk.do(("unpin", 0, 1024))
    walk.do(("to_shared", 0, 1024))
    walk.do(("punch" if "hugetlb" in name else "discard", 0, 1024))
    assert left_of(walk.region) == {}


WHOLE = "g0.r0[0:1024]"
STEPS = {
    "private": ("convert {all} to private", "populate {all}", "punch {all}"),
    "there and back": (
        "convert {all} to private", "populate {all}", "convert g0.r0[7:8] to shared", "populate g0.r0[7:8]",
        "convert g0.r0[7:8] to private", "populate {all}", "punch {all}",
    ),
    "held": (
        "convert {all} to private", "populate {all}", "pin g0.r0[9:10]", "pin g0.r0[600:602]", "punch g0.r0[512:1024]",
        "unpin {all}", "populate {all}", "punch {all}",
    ),
    "shared": ("populate {all}", "pin g0.r0[5:6]", "unpin {all}", "convert {all} to private", "punch {all}"),
    "cut": (
        "convert {all} to private", "populate {all}", "punch g0.r0[7:8]", "punch g0.r0[100:300]",
        "punch g0.r0[500:600]", "populate g0.r0[7:9]", "punch {all}",
    ),
}  # fmt: skip


def step_of(words: str) -> str:
    """``convert RANGE to SIDE`` and the like as YAML."""
    do, where, *rest = words.format(all=WHOLE).split()
    side = f", to: {rest[1]}" if rest else ""
    return f"{{do: {do}, range: '{where}'{side}}}"


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("design", DESIGNS)
def test_a_guest_memfd_that_was_given_up(design: str, steps: str) -> None:
    """Both sides, where the guest_memfd holds both; refused steps leave what the last one takes."""
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
    start = {"hugetlb/2048kB/free_hugepages": 9, "hugetlb/2048kB/resv_hugepages": 9}
    predicted = predict(scenario_of([step_of(words) for words in STEPS[steps]]), design_named(design), start, facts)
    left = left_of(predicted[-1].regions["g0.r0"])
    assert {name: value for name, value in left.items() if "private" in name} == {}
    if design_named(design).shared_side is not None:
        assert left == {}


@pytest.mark.parametrize("design", DESIGNS)
def test_contents_follow_the_page(design: str) -> None:
    """Nothing is there after a hole; in place what was written on either side is there on the other."""
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
    start = {"hugetlb/2048kB/free_hugepages": 9, "hugetlb/2048kB/resv_hugepages": 9}
    chunk = "g0.r0[0:512]"
    words = (f"convert {chunk} to private", f"populate {chunk}", f"punch {chunk}")
    last = predict(scenario_of([step_of(word) for word in words]), design_named(design), start, facts)[-1]
    assert last.regions["g0.r0"].contents(pages.span(0, 512)) == [(None, pages.span(0, 512))]
    words = (f"convert {chunk} to private", f"populate {chunk}", f"convert {chunk} to shared", f"populate {chunk}",
             f"punch {chunk}")  # fmt: skip
    *_, written, punched = predict(scenario_of([step_of(word) for word in words]), design_named(design), start, facts)
    in_place = design_named(design).shared_side is not None
    assert written.regions["g0.r0"].contents(1) == [(2, 1)]
    assert punched.regions["g0.r0"].contents(1) == ([(None, 1)] if in_place else [(2, 1)])


def context(design: str, facts: HostFacts = FACTS) -> Context:
    return Context(facts, design_named(design), ANON_4K, "g0", "here")


def test_several_folios_of_one_order_are_kept_one_by_one() -> None:
    both = pages.span(0, 1024)
    region = RegionState(2, private=both, private_folios=Blocks().add(9, 1 | 1 << 512), private_held=1 << 3 | 1 << 700)
    assert leave(context("thp-discard"), region, both).region.private_parked == Parked(
        (), ((9, 0, 1 << 3, False), (9, 512, 1 << 700, False))
    )


def test_a_truncation_clears_what_it_removes_and_nothing_else() -> None:
    whole = pages.span(0, 512)
    region = RegionState(
        1, private=whole, private_folios=Blocks().add(9, 1), private_patterns=Patterns().write(whole, 4)
    )
    after = truncate(context("thp-discard"), region, 8, 16).region
    assert after.private_patterns.layers == ((4, whole & ~pages.span(8, 8)),)
    assert after.private == whole & ~pages.span(8, 8)
    held = dataclasses.replace(region, private_dirty=whole, private_held=1)
    assert truncate(context("thp-discard"), held, 8, 16).region.private_patterns == region.private_patterns


@pytest.mark.parametrize(("design", "zapped"), [("inplace-thp", 0), ("thp-2m-truncate", 1)])
def test_leaves_to_the_shared_pages_of_a_window_that_goes(design: str, zapped: int) -> None:
    """A guest_memfd that holds both sides zaps both; else a hole in it is none in the shared backing.

    (With trees of their own for either side: without them a zap reaches every leaf.)
    """
    facts = dataclasses.replace(FACTS, mirrored_tdp=True)
    region = RegionState(1, private=pages.span(0, 512), shared=1, leaf_shared=1, shared_patterns=Patterns().write(1, 3))
    after = give_up(context(design, facts), region, pages.span(0, 512)).region
    assert (after.leaf_shared, bool(after.shared_patterns.layers)) == (zapped, bool(zapped))


def test_claims_of_the_designs_say_what_a_partial_truncation_does() -> None:
    for name in ("thp-2m-truncate", "inplace-thp"):
        assert "refused with EINVAL" in design_named(name).claim
        assert "without effect" in design_named(f"{name}-noop").claim
        assert design_named(name).refuses_partial
        assert not design_named(f"{name}-noop").refuses_partial


def test_attributes_are_stored_once_for_each_conversion() -> None:
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
    steps = [step_of("convert g0.r0[0:4096] to private")]
    (step,) = predict(scenario_of(steps), design_named("inplace"), {}, facts)
    text = step.predictions["nr_slab_unreclaimable"].reasons[-1].text
    assert text.startswith("8 ranges of attributes stored in a maple tree"), "one for each chunk"


def test_contents_that_every_case_has_are_told() -> None:
    """Whether the window got a large folio or not, the guest reads what it wrote."""
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8}, large_folios=None)
    words = ("convert g0.r0[512:1024] to private", "populate g0.r0[600:700]")
    steps = [*map(step_of, words), "{do: check, range: 'g0.r0[512:1024]', expect: either}"]
    found = predict(scenario_of(steps), design_named("thp-discard"), {}, facts)[-1].contents
    assert [(run.start, run.count, run.generation) for run in found] == [
        (512, 88, None), (600, 100, 1), (700, 324, None),
    ]  # fmt: skip


def test_a_closed_guest_has_no_chunks_to_tell_of() -> None:
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
    steps = ["{do: populate, range: 'g0.r0[0:4]'}", "{do: populate, range: 'g1.r0[0:4]'}"]
    predicted = predict(scenario_of(steps), design_named("order0"), {}, facts)
    told = explain(predicted, "nr_anon_pages", 1)
    assert "the step found, in g1.r0:" in told
    gone = dataclasses.replace(predicted[0], regions={"g0.r0": RegionState(8)})
    assert "the step found" not in explain([gone, predicted[1]], "nr_anon_pages", 1)
