# SPDX-License-Identifier: GPL-2.0-only
"""Bounds of pageblock types that follow from the lists right before a step, not from those of the first sample."""

from __future__ import annotations

from collections.abc import Mapping

from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.prediction import StepPrediction
from harness.model.reread import reread
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Close, Compact, Convert, Fallocate, PageRange, Populate, PunchHole, Side, Step

CHUNK = PageRange("g0.r0", 0, 512)
FACTS = HostFacts(ncpu=2, regions={"g0.r0": 8})
LISTS = {
    "gmem/g0": 0, "pcp": 0, "free/Unmovable": 2000, "free/Reclaimable": 5000, "free_order/10": 500,
    **{f"free_small/{kind}": 100 for kind in ("Unmovable", "Movable", "Reclaimable")},
    **{f"free_single/{kind}": 0 for kind in ("Unmovable", "Movable", "Reclaimable")},
}  # fmt: skip
KINDS = ("Unmovable", "Movable", "Reclaimable")


def steps_of(*steps: Step, design: str = "order0", start: Mapping[str, int] = LISTS) -> list[StepPrediction]:
    return predict(Scenario("case", steps), design_named(design), start, FACTS)


def blocks_of(step: StepPrediction) -> dict[str, tuple[int, int]]:
    bounds = {kind: step.predictions.get(f"blocks/{kind}") for kind in KINDS}
    return {kind: (bound.low, bound.high) for kind, bound in bounds.items() if bound is not None}


def test_what_earlier_steps_left_open_is_closed_by_the_sample() -> None:
    """2,046 to 4,096 free after a round trip of 2,048, and 3,000 wanted; the sample says that 3,600 are free."""
    there, more = PageRange("g0.r0", 0, 2048), PageRange("g0.r0", 0, 3000)
    *_, last = steps_of(Fallocate(there), PunchHole(there), Fallocate(more))
    assert blocks_of(last)["Unmovable"][1] > 0
    # 3,000 wanted, 504 that per-CPU lists may draw, 2 of slab metadata: 3,506
    again = reread(last, LISTS | {"free/Unmovable": 3600}, FACTS)
    assert blocks_of(again) == dict.fromkeys(KINDS, (0, 0))
    assert [reason.rule for reason in again.predictions["blocks/Movable"].reasons] == ["claim"]


def test_claims_are_counted_from_what_is_free_now() -> None:
    """The first sample had 2,000 free pages; now there are 100: 412 are missing, one claim of two blocks."""
    (step,) = steps_of(Fallocate(CHUNK))
    assert blocks_of(step) == dict.fromkeys(KINDS, (0, 0))
    again = reread(step, LISTS | {"free/Unmovable": 100}, FACTS)
    assert blocks_of(again) == {"Unmovable": (2, 2), "Movable": (-2, 0), "Reclaimable": (-2, 0)}
    assert "unmovable pages wanted: 512, free: 100 to 100" in str(again.predictions["blocks/Unmovable"].reasons[-1])


def test_pages_on_per_cpu_lists_may_be_of_any_type() -> None:
    """500 pages that per-CPU lists hide may be the ones that are wanted: then nothing is claimed."""
    (step,) = steps_of(Fallocate(CHUNK))
    again = reread(step, LISTS | {"free/Unmovable": 100, "pcp": 500}, FACTS)
    assert blocks_of(again)["Unmovable"] == (0, 2)


def test_after_a_stirred_host_the_sample_knows_the_lists_again() -> None:
    _, step = steps_of(Compact(), Fallocate(CHUNK))
    assert not blocks_of(step)
    assert "stirred" in step.unpredicted["blocks/Movable"]
    again = reread(step, LISTS, FACTS)
    assert set(blocks_of(again)) == set(KINDS)
    assert not any(name.startswith("blocks/") for name in again.unpredicted)


def test_a_step_that_stirs_the_host_is_left_alone() -> None:
    (step,) = steps_of(Compact())
    assert reread(step, LISTS, FACTS) is step
    _, closed = steps_of(Fallocate(CHUNK), Close("g0"))
    assert reread(closed, LISTS, FACTS) is closed


def test_a_sample_without_the_lists_changes_nothing() -> None:
    (step,) = steps_of(Fallocate(CHUNK))
    assert reread(step, {"gmem/g0": 0}, FACTS) is step


def test_too_few_whole_blocks_are_told() -> None:
    """With one block of order 10 a claim may fail: smaller blocks are then stolen, and nobody knows which."""
    (step,) = steps_of(Fallocate(CHUNK))
    again = reread(step, LISTS | {"free/Unmovable": 0, "free/Reclaimable": 0, "free_order/10": 1}, FACTS)
    assert not blocks_of(again)
    assert "may be claimed" in again.unpredicted["blocks/Unmovable"]


def test_everything_else_stays() -> None:
    convert, populate = steps_of(Convert(CHUNK, Side.PRIVATE), Populate(CHUNK))
    for step in (convert, populate):
        again = reread(step, LISTS | {"free/Unmovable": 5000}, FACTS)
        assert {n: p for n, p in again.predictions.items() if not n.startswith("blocks/")} == {
            n: p for n, p in step.predictions.items() if not n.startswith("blocks/")
        }
        assert list(again.predictions) == sorted(again.predictions)


TABLES = "nr_sec_page_table_pages"
KVM_ALONE = HostFacts(ncpu=2, regions={"g0.r0": 8}, only_kvm_tables=True)


def test_with_the_last_vm_all_of_kvms_tables_go() -> None:
    """How many there are the sample says; before it nobody predicts them."""
    (step,) = steps_of(Close("g0"), start=LISTS | {TABLES: 70})
    assert TABLES not in step.predictions
    assert TABLES in step.unpredicted
    again = reread(step, LISTS | {TABLES: 72}, KVM_ALONE)
    bound = again.predictions[TABLES]
    assert (bound.low, bound.high) == (-72, -72)
    assert "the 72 pages of KVM's tables" in str(bound.reasons[0])
    assert TABLES not in again.unpredicted
    assert again.predictions.keys() - {TABLES} == step.predictions.keys()


def test_where_an_iommu_may_have_tables_too_nobody_knows() -> None:
    (step,) = steps_of(Close("g0"), start=LISTS | {TABLES: 70})
    assert reread(step, LISTS | {TABLES: 72}, FACTS) is step
    assert reread(step, LISTS, KVM_ALONE) is step


def test_a_vm_that_is_not_the_last_takes_its_own_tables_only() -> None:
    facts = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8}, only_kvm_tables=True)
    first, last = predict(
        Scenario("case", (Close("g0"), Close("g1")), guests=2),
        design_named("order0"),
        LISTS | {"gmem/g1": 0, TABLES: 140},
        facts,
    )
    assert TABLES not in reread(first, LISTS | {TABLES: 140}, facts).predictions
    assert reread(last, LISTS | {TABLES: 70}, facts).predictions[TABLES].low == -70
