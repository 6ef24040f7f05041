# SPDX-License-Identifier: GPL-2.0-only
"""Seeding, block claims, allowances, reasons: what predict() makes of its inputs, and which it refuses."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.model.blocks import claims
from harness.model.designs import backing_named, design_named
from harness.model.facts import HostFacts
from harness.model.physics import Allowances
from harness.model.predict import predict
from harness.model.prediction import Prediction, Reason
from harness.model.state import RegionState
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Close, Convert, Empty, Fallocate, PageRange, Populate, PunchHole, Side, Touch

ORDER0 = design_named("order0")
FACTS = HostFacts(ncpu=2)
ALL = PageRange("g0.r0", 0, 4096)
LISTS = {"free/Unmovable": 100, "free/Reclaimable": 5000, "free_order/10": 600, "pcp": 0}


def run(*steps, start=None, **options):
    return predict(
        Scenario("case", steps), ORDER0, {"gmem/g0": 0} | (start or {}), options.pop("facts", FACTS), **options
    )


def bound(step, counter):
    return step.predictions[counter].low, step.predictions[counter].high


def test_a_prediction_needs_a_reason_and_an_order():
    with pytest.raises(ValueError, match="without a reason"):
        Prediction(1, 1, ())
    with pytest.raises(ValueError, match="low above high"):
        Prediction(2, 1, (Reason("r", "t"),))


def test_a_region_may_start_in_any_state():
    present = RegionState(8, attr_private=0xFF, private=0xF, leaf_private=0x3)
    (step,) = run(Populate(PageRange("g0.r0", 0, 8)), start={"gmem/g0": 4}, regions={"g0.r0": present})
    assert bound(step, "nr_file_pages") == (4, 4)
    assert bound(step, "kvm/g0/pages_4k") == (6, 6)


def test_a_guest_memfd_smaller_than_its_regions_is_refused():
    present = RegionState(8, private=0xF)
    with pytest.raises(UsageError, match="has 3 pages in the guest_memfd of g0, fewer than the 4"):
        run(Empty(), start={"gmem/g0": 3}, regions={"g0.r0": present})


def test_closing_an_unmeasured_guest_memfd_is_not_predicted():
    (step,) = predict(Scenario("case", (Close("g0"),)), ORDER0, {}, FACTS)
    assert "nr_file_pages" not in step.predictions
    assert "lacks gmem/g0" in step.unpredicted["nr_file_pages"]


def test_closing_says_why_it_leaves_counters_open():
    (step,) = run(Close("g0"), start=LISTS)
    for counter in ("F", "nr_anon_pages", "pgfree", "gmem/g0", "kvm/g0/pages_4k", "blocks/Unmovable"):
        assert counter not in step.predictions
        assert len(step.unpredicted[counter].split()) > 3
    assert bound(step, "nr_file_hugepages") == (0, 0)


def test_families_of_quiet_counters_follow_the_first_sample():
    (step,) = run(
        Empty(), start={"thp_new_in_this_kernel": 4, "mthp/64kB/split": 0, "hugetlb/2048kB/free_hugepages": 1}
    )
    for counter in ("thp_new_in_this_kernel", "mthp/64kB/split", "hugetlb/2048kB/free_hugepages", "nr_file_hugepages"):
        assert bound(step, counter) == (0, 0)


def test_claims_by_hand():
    # 4096 wanted, 100 free: 3996 pages surely missing are 8 single blocks; 4600 - 100 at most are 5 order-10 claims
    assert (claims((100, 100), (4096, 4096), 504).low, claims((100, 100), (4096, 4096), 504).high) == (8, 10)
    assert claims((5000, 5000), (4096, 4096), 504).high == 0
    assert claims((0, 0), (0, 0), 504).high == 0, "nothing wanted, nothing claimed"


def test_blocks_are_claimed_for_what_is_missing():
    convert, populate = run(Convert(ALL, Side.PRIVATE), Populate(ALL), start=LISTS)
    assert bound(convert, "blocks/Unmovable")[0] == 0
    # the first step's metadata may have used 2 of 100, freed 8 page tables and claimed 2 blocks at most:
    # 106 to 1132 free, 4096 to 4098 wanted: at least ceil(2964/512) = 6, at most 2 * ceil((4098+504-106)/1024) = 10
    assert bound(populate, "blocks/Unmovable") == (6, 10)
    assert bound(populate, "blocks/Movable") == (-10, 0)


def test_blocks_are_left_alone_when_enough_is_free():
    (step,) = run(Fallocate(PageRange("g0.r0", 0, 512)), start=LISTS | {"free/Unmovable": 2000})
    assert bound(step, "blocks/Unmovable") == (0, 0)
    assert bound(step, "blocks/Movable") == (0, 0)


def test_blocks_are_not_predicted_where_stealing_may_begin():
    (step,) = run(Fallocate(ALL), start=LISTS | {"free_order/10": 5})
    assert "blocks/Unmovable" not in step.predictions
    assert "may be claimed" in step.unpredicted["blocks/Unmovable"]


def test_blocks_are_not_predicted_without_the_lists():
    (step,) = run(Fallocate(ALL))
    assert "first sample lacks" in step.unpredicted["blocks/Movable"]


def test_allowances_widen_steps_with_requests_and_no_others():
    some = Allowances(raw_pages=3, slab_pages=2, event_pages=5, close_file_pages=4)
    empty, touch, close = run(Empty(), Touch(PageRange("g0.r0", 0, 1), write=False), Close("g0"), allowances=some)
    assert bound(empty, "unaccounted") == (0, 0)
    assert bound(touch, "unaccounted") == (-3, 3)
    assert bound(touch, "F") == (-7, 7)
    assert bound(touch, "pgfree") == (0, 12)
    assert bound(touch, "nr_slab_reclaimable") == (-2, 2)
    assert bound(close, "nr_file_pages") == (-4, 4)


def test_reasons_name_rule_range_and_numbers():
    _, step = run(Fallocate(PageRange("g0.r0", 0, 512)), PunchHole(PageRange("g0.r0", 0, 512)))
    reason = step.predictions["nr_file_pages"].reasons[0]
    assert str(reason) == "punch: 512 present private pages of g0.r0[0:512] leave the page cache"
    assert reason.pages == -512
    _, step = run(Populate(PageRange("g0.r0", 3, 1)), Convert(PageRange("g0.r0", 3, 1), Side.PRIVATE))
    assert str(step.predictions["nr_anon_pages"].reasons[0]) == (
        "discard-shared: 1 present shared page of g0.r0[3:4] is discarded"
    )
    assert "attributes change to private" in str(step.predictions["kvm/g0/pages_4k"].reasons[0])
    assert "nothing in this step (convert g0.r0[3:4] to private)" in str(step.predictions["nr_file_pages"].reasons[0])


def test_one_region_of_a_larger_testbed_is_enough():
    (step,) = run(Empty(), facts=HostFacts(ncpu=1, regions={"g0.r0": 16, "g1.r0": 16}))
    assert set(step.regions) == {"g0.r0", "g1.r0"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: HostFacts(ncpu=0), "host fact ncpu is 0"),
        (lambda: HostFacts(ncpu=1, regions={"g0.r0": 0}), "chunks of g0.r0 is 0"),
        (lambda: HostFacts(ncpu=1, zones=()), "no populated zone"),
        (lambda: design_named("order1"), "unknown gmem design 'order1': known are order0"),
        (lambda: backing_named("swap"), "unknown shared backing 'swap': known are anon-4k, anon-thp, hugetlb, "),
        (lambda: run(Empty(), facts=HostFacts(ncpu=1, regions={"g0.r0": 2})), "needs g0.r0 with 8 chunks"),
        (lambda: run(Fallocate(PageRange("g0.r0", 4095, 2))), "ends at page 4097"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(make, says):
    with pytest.raises(UsageError) as error:
        make()
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_known_backing():
    assert backing_named("anon-4k").folio_orders == (0,)
    assert ORDER0.folio_orders == (0,)


@pytest.mark.timeout(60)  # a fraction of a second; minutes where a rule walks pages one by one
def test_a_region_of_a_gigabyte_is_predicted():
    facts = HostFacts(ncpu=64, regions={"g0.r0": 512})
    whole = PageRange("g0.r0", 0, 512 * 512)
    steps = (Convert(whole, Side.PRIVATE), Populate(whole), Convert(whole, Side.SHARED))
    predicted = predict(Scenario("large", steps, chunks=512), ORDER0, {"gmem/g0": 0}, facts)
    assert bound(predicted[1], "nr_file_pages") == (262144, 262144)
    assert bound(predicted[2], "nr_file_pages") == (-262144, -262144)


def test_free_pages_of_a_lower_zone_do_not_postpone_a_claim() -> None:
    """2,000 pages wanted, as many free, but in the zone that is asked later: the first zone claims.

    Two claims for the 1,900 that are missing, perhaps a third; and one for slabs may take its blocks from Unmovable.
    """
    first = {"first_zone/Unmovable": 100, "first_zone/Reclaimable": 100, "first_zone/whole": 500}
    (step,) = run(Fallocate(PageRange("g0.r0", 0, 2000)), start=LISTS | first | {"free/Unmovable": 4000})
    assert (step.predictions["blocks/Unmovable"].low, step.predictions["blocks/Unmovable"].high) == (2, 6)


def test_a_few_freed_pages_may_complete_as_many_blocks() -> None:
    """Eight pages in blocks that are free but for them complete as many as there are pieces for, and retype as many
    free pageblocks as there are."""
    fill, take = Fallocate(PageRange("g0.r0", 0, 8)), PunchHole(PageRange("g0.r0", 0, 8))
    pieces = {f"free_small/{kind}": 0 for kind in ("Movable", "Reclaimable")} | {"free_small/Unmovable": 512 * 3}
    whole = {f"free_single/{kind}": 0 for kind in ("Unmovable", "Reclaimable")}
    for singles, most in ((9, 5), (2, 4), (0, 2)):
        start = LISTS | pieces | whole | {"free/Unmovable": 512 * 3, "free_single/Movable": singles}
        _, step = run(fill, take, start=start)
        # pieces for 3 blocks, for one that the first step's refill may have split, and for one on per-CPU lists;
        # slabs may have split one free block of theirs, and complete another
        assert step.predictions["blocks/Unmovable"].high == most, singles


def test_the_rom_of_a_guest_in_place_goes_with_it() -> None:
    """gmem/g0 counts the RAM's guest_memfd only; the ROM's, full from the start, goes at the same moment."""
    facts = HostFacts(ncpu=2, rom_pages=16)
    (step,) = run(Close("g0"), start=LISTS | {"gmem/g0": 100}, facts=facts)
    assert bound(step, "nr_file_pages") == (-116, -116)
    assert bound(step, "nr_unevictable") == (-116, -116)
