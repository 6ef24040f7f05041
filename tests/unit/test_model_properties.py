# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of every prediction, whatever the scenario; and an independent walk page by page that agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.prediction import StepPrediction
from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    Check,
    Close,
    Convert,
    Empty,
    Fallocate,
    PageRange,
    Populate,
    PunchHole,
    Settle,
    Side,
    Step,
    Touch,
)

CHUNKS = 2
FACTS = HostFacts(ncpu=2, regions={"g0.r0": CHUNKS})
NO_RECLAIM = replace(FACTS, pt_reclaim=False)
START = {"gmem/g0": 5}
ORDER0 = design_named("order0")

EXACT = (
    "nr_file_pages", "nr_unevictable", "nr_zone_unevictable", "nr_anon_pages", "gmem/g0", "kvm/g0/pages_4k",
    "unevictable_pgs_culled", "unaccounted", "nr_file_hugepages", "kvm/g0/pages_2m",
)  # fmt: skip


@st.composite
def _ranges(draw: st.DrawFn) -> PageRange:
    """Ranges that like to begin and end where something begins or ends."""
    edges = st.sampled_from([0, 1, 5, 63, 64, 65, 256, 511, 512, 513, 576, 1023, 1024])
    first, last = sorted((draw(edges), draw(edges)))
    return PageRange("g0.r0", min(first, 1023), max(1, last - first))


RANGES = _ranges()
SIDES = st.sampled_from([Side.PRIVATE, Side.SHARED])
STEPS = st.one_of(
    st.builds(Convert, RANGES, SIDES),
    st.builds(Populate, RANGES),
    st.builds(Touch, RANGES, st.integers(1, 70), st.booleans()),
    st.builds(Check, RANGES, st.just("either")),
    st.builds(Fallocate, RANGES),
    st.builds(PunchHole, RANGES),
    st.just(Settle()),
)
LISTS = st.lists(STEPS, max_size=7)
common = settings(max_examples=60, deadline=None)


def run(steps: Sequence[Step], facts: HostFacts = FACTS) -> list[StepPrediction]:
    return predict(Scenario("drawn", tuple(steps), chunks=CHUNKS), ORDER0, START, facts)


def exact(step: StepPrediction, counter: str) -> int:
    bound = step.predictions[counter]
    assert bound.low == bound.high, f"{counter} of {step.step.text()} is not exact: {bound}"
    return bound.low


def summed(steps: Sequence[StepPrediction], counter: str) -> tuple[int, int]:
    return (
        sum(step.predictions[counter].low for step in steps),
        sum(step.predictions[counter].high for step in steps),
    )


@common
@given(LISTS)
def test_pages_are_conserved(steps):
    for step in run(steps):
        items = sum(exact(step, c) for c in ("nr_file_pages", "nr_anon_pages", "nr_page_table_pages"))
        slabs = [step.predictions[c] for c in ("nr_slab_reclaimable", "nr_slab_unreclaimable")]
        free = step.predictions["F"]
        assert free.low == -items - sum(s.high for s in slabs)
        assert free.high == -items - sum(s.low for s in slabs)
        pgfree, pgalloc = step.predictions["pgfree"], step.predictions["pgalloc"]
        assert pgfree.low - pgalloc.low == -items, "what is neither passing nor slab is in the items"


@common
@given(LISTS)
def test_levels_are_the_sums_of_their_differences(steps):
    predicted = run(steps)
    for upto in range(1, len(predicted) + 1):
        region = predicted[upto - 1].regions["g0.r0"]
        levels = {counter: sum(exact(s, counter) for s in predicted[:upto]) for counter in EXACT}
        assert levels["nr_file_pages"] == levels["nr_unevictable"] == levels["gmem/g0"] == region.private.bit_count()
        assert levels["nr_anon_pages"] == region.shared.bit_count()
        assert levels["kvm/g0/pages_4k"] == region.mapped.bit_count()
        assert not region.leaf_private & (region.leaf_shared | region.leaf_zero)
        assert not region.leaf_private & ~(region.private & region.attr_private)
        assert not region.leaf_shared & ~(region.shared & ~region.attr_private)
        assert not region.leaf_zero & (region.shared | region.attr_private)
        assert not region.shared & region.attr_private, "a private page whose shared side was not discarded"


@common
@given(LISTS, RANGES, SIDES, st.lists(st.integers(1, 1023), max_size=4))
def test_a_conversion_does_what_its_pieces_do(before, where, to, cuts):
    inside = sorted({where.start, where.end, *(cut for cut in cuts if where.start < cut < where.end)})
    pieces = [PageRange("g0.r0", a, b - a) for a, b in pairwise(inside)]
    whole = run([*before, Convert(where, to)], NO_RECLAIM)
    cut = run([*before, *(Convert(piece, to) for piece in pieces)], NO_RECLAIM)[len(before) :]
    assert whole[-1].regions == cut[-1].regions
    for counter in EXACT:
        assert exact(whole[-1], counter) == sum(exact(step, counter) for step in cut), counter
    low, high = summed(cut, "F")
    assert low <= whole[-1].predictions["F"].low
    assert whole[-1].predictions["F"].high <= high


@common
@given(LISTS, SIDES)
def test_cut_at_chunks_page_tables_and_lists_agree_too(before, to):
    where = PageRange("g0.r0", 0, 1024)
    whole = run([*before, Convert(where, to)])
    cut = run([*before, *(Convert(piece, to) for piece in where.pieces())])[len(before) :]
    assert whole[-1].regions == cut[-1].regions
    assert whole[-1].predictions["pgfree"].low == summed(cut, "pgfree")[0]
    assert exact(whole[-1], "nr_page_table_pages") == sum(exact(step, "nr_page_table_pages") for step in cut)


@common
@given(LISTS, RANGES, SIDES)
def test_a_conversion_made_twice_does_nothing_the_second_time(before, where, to):
    again = run([*before, Convert(where, to), Convert(where, to)])[-1]
    for counter, bound in again.predictions.items():
        if counter == "movable_balance":
            assert 0 in bound
        else:
            assert (bound.low, bound.high) == (0, 0), counter
    assert [(c.start_page, c.pages) for c in again.conversions] == [(p.start, p.count) for p in where.pieces()]


@common
@given(LISTS, RANGES)
def test_there_and_back_without_a_touch_is_a_discard(before, where):
    predicted = run([*before, Convert(where, Side.PRIVATE), Convert(where, Side.SHARED)])
    held = predicted[-3].regions["g0.r0"] if before else None
    pages = ((1 << where.count) - 1) << where.start
    for counter, side in (("nr_anon_pages", "shared"), ("nr_file_pages", "private")):
        was = (getattr(held, side) & pages).bit_count() if held else 0
        assert sum(exact(step, counter) for step in predicted[-2:]) == -was
    after = predicted[-1].regions["g0.r0"]
    assert not pages & (after.private | after.shared | after.mapped | after.attr_private)
    assert after.contents(pages) == [(None, pages)]


@common
@given(LISTS)
def test_closing_gives_everything_back(steps):
    predicted = run([*steps, Close("g0")])
    for counter in ("nr_file_pages", "nr_unevictable", "nr_zone_unevictable"):
        assert sum(exact(step, counter) for step in predicted) == -START["gmem/g0"]
    assert predicted[-1].regions == {}
    assert not set(predicted[-1].predictions) & set(predicted[-1].unpredicted)


@common
@given(LISTS, st.sampled_from([Settle(), Empty()]))
def test_doing_nothing_moves_nothing(steps, quiet):
    for counter, bound in run([*steps, quiet])[-1].predictions.items():
        assert 0 in bound
        assert bound.exact or counter == "movable_balance"


class PageByPage:
    """The same rules, written once more, one page at a time and without a thought for speed or reasons."""

    def __init__(self) -> None:
        self.pages = [
            {"attr": "S", "private": None, "shared": None, "leaf": None} for _ in range(CHUNKS * 512)
        ]  # None absent, 0 zero, n generation n
        self.generation = 0

    def touch(self, page: dict[str, Any], write: bool) -> None:
        if page["attr"] == "P":
            page["private"] = page["private"] or 0
            page["leaf"] = "private"
        elif write or page["shared"] is not None:
            page["shared"] = page["shared"] or 0
            page["leaf"] = "shared"
        else:
            page["leaf"] = "zero"
        if write:
            page["private" if page["attr"] == "P" else "shared"] = self.generation

    def step(self, step: Step) -> None:
        if isinstance(step, Settle):
            return
        (where,) = step.ranges()
        if isinstance(step, Populate) or (isinstance(step, Touch) and step.write):
            self.generation += 1
        for number in range(where.start, where.end):
            page = self.pages[number]
            match step:
                case Populate():
                    self.touch(page, True)
                case Touch():
                    if (number - where.start) % step.stride == 0:
                        self.touch(page, step.write)
                case Check():
                    self.touch(page, False)
                case Convert():
                    page["attr"] = "P" if step.to is Side.PRIVATE else "S"
                    page["shared" if step.to is Side.PRIVATE else "private"] = page["leaf"] = None
                case Fallocate():
                    page["private"] = page["private"] or 0
                case PunchHole():
                    page["private"] = page["leaf"] = None

    def seen(self) -> list[int]:
        """What the guest reads: the generation, or 0 for zero."""
        return [page["private" if page["attr"] == "P" else "shared"] or 0 for page in self.pages]


@common
@given(LISTS)
def test_a_walk_page_by_page_agrees(steps):
    walk = PageByPage()
    every = (1 << CHUNKS * 512) - 1
    for step, predicted in zip(steps, run(steps), strict=True):
        walk.step(step)
        region = predicted.regions["g0.r0"]

        def as_set(wanted: Any) -> int:
            return sum(1 << n for n, page in enumerate(walk.pages) if wanted(page))

        assert region.attr_private == as_set(lambda page: page["attr"] == "P")
        assert region.private == as_set(lambda page: page["private"] is not None)
        assert region.shared == as_set(lambda page: page["shared"] is not None)
        for kind in ("private", "shared", "zero"):
            assert getattr(region, f"leaf_{kind}") == as_set(lambda page, kind=kind: page["leaf"] == kind)
        seen = [0] * len(walk.pages)
        for generation, held in region.contents(every):
            for number in range(len(seen)):
                if held >> number & 1:
                    seen[number] = generation or 0
        assert seen == walk.seen()
