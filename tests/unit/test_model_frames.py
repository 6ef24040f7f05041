# SPDX-License-Identifier: GPL-2.0-only
"""Which frames come back, as the model says it: by CPU, by order, by what a CPU's lists can keep."""

from __future__ import annotations

import pytest

from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.frames import COUNTERS
from harness.model.predict import predict
from harness.model.prediction import StepPrediction
from harness.scenario.region import G0, G1
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Close, Compact, Convert, Empty, Place, Populate, PunchHole, Side, Step

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED
ROOM, CAPPED = 15469, 252
THERE = G0[8:56]
AWAY = (Convert(THERE, SHARED), Convert(THERE, PRIVATE))
HELD = (Convert(G0[0:512], PRIVATE), Populate(G0[0:512]))


def predicted(*steps: Step, design: str = "order0", high: int | None = ROOM, guests: int = 1) -> list[StepPrediction]:
    scenario = Scenario("case", steps, frames=True, guests=guests)
    start = {"free/Unmovable": 6000, "free/Reclaimable": 600, "free_order/10": 600, "pcp": 500}
    start |= {f"gmem/g{number}": 0 for number in range(guests)}
    if high:
        start |= {"pcp_lists/high": high, "pcp_lists/batch": 63, "pcp_lists/count": 251}
    facts = HostFacts(ncpu=2, regions={f"g{number}.r0": 8 for number in range(guests)})
    return predict(scenario, design_named(design), start, facts)


def frames(step: StepPrediction) -> dict[str, tuple[int, int]]:
    return {name[7:]: (step.predictions[name].low, step.predictions[name].high) for name in COUNTERS}


def told(kept: int, gone: int, new: int, back: int) -> dict[str, tuple[int, int]]:
    return {"kept": (kept, kept), "gone": (gone, gone), "new": (new, new), "back": (back, back)}


def test_the_cpu_that_freed_gets_the_same_frames() -> None:
    steps = predicted(Place("g0", 0), *HELD, *AWAY, Populate(THERE))
    assert frames(steps[2]) == told(0, 0, 512, 0)
    assert frames(steps[3]) == told(464, 48, 0, 0)
    assert frames(steps[4]) == told(464, 0, 0, 0)
    assert frames(steps[5]) == told(464, 0, 0, 48)
    assert "on top of its own list" in steps[5].predictions["frames/back"].reasons[0].text


def test_another_cpu_gets_none_of_them_and_they_wait() -> None:
    late = G0[512:560]
    steps = predicted(
        Place("g0", 0), *HELD, Convert(G0[512:1024], PRIVATE), Populate(G0[560:1024]), *AWAY,
        Place("g0", 1), Populate(THERE), Place("g0", 0), Populate(late),
    )  # fmt: skip
    assert frames(steps[8]) == told(928, 0, 48, 0)
    assert frames(steps[10]) == told(976, 0, 0, 48)


def test_more_than_was_freed_is_new() -> None:
    steps = predicted(Place("g0", 0), *HELD, *AWAY, Convert(G0[512:1024], PRIVATE), Populate(G0[520:1000]))
    back = steps[-1].predictions["frames/back"]
    assert back.high == 48
    assert frames(steps[-1])["new"] == (480 - back.high, 480 - back.low)


@pytest.mark.parametrize(
    ("high", "placed", "why"),
    [
        (CAPPED, (Place("g0", 0),), "0 freed pages are surely on top"),
        (None, (Place("g0", 0),), "lacks the lists' limits"),
        (ROOM, (), "never placed|CPU that is not known"),
    ],
)
def test_without_certainty_any_number_may_come_back(high: int | None, placed: tuple[Step, ...], why: str) -> None:
    last = predicted(*placed, *HELD, *AWAY, Populate(THERE), high=high)[-1]
    assert frames(last) == {"kept": (464, 464), "gone": (0, 0), "new": (0, 48), "back": (0, 48)}
    assert any(word in last.predictions["frames/back"].reasons[0].text for word in why.split("|"))


def test_nodes_of_the_tree_cost_certainty() -> None:
    whole = G0[0:512]
    last = predicted(Place("g0", 0), *HELD, Convert(whole, SHARED), Convert(whole, PRIVATE), Populate(whole))[-1]
    low, high = frames(last)["back"]
    assert 480 < low < 512 == high
    assert "slabs and tables" in last.predictions["frames/back"].reasons[0].text


def test_all_that_is_freed_has_to_fit_on_the_lists() -> None:
    """The room shrinks with every page that anybody freed: what fits once does not fit for ever."""
    fits = predicted(Place("g0", 0), *HELD, *AWAY, Populate(THERE), high=9500)
    assert frames(fits[-1])["back"] == (48, 48)
    again = (Convert(G0[512:1024], PRIVATE), Populate(G0[512:1024]), Convert(G0[512:1024], SHARED)) * 2
    full = predicted(Place("g0", 0), *HELD, *again, *AWAY, Populate(THERE), high=9500)
    assert frames(full[-1])["back"][0] == 0


@pytest.mark.parametrize("cpu", [0, 1])
def test_a_large_folio_comes_back_whole_or_not_at_all(cpu: int) -> None:
    whole = G0[0:512]
    steps = (Place("g0", 0), *HELD, Convert(whole, SHARED), Convert(whole, PRIVATE), Place("g0", cpu), Populate(whole))
    last = predicted(*steps, design="thp-discard")[-1]
    assert frames(last) == told(0, 0, 512 * cpu, 512 * (1 - cpu))


def test_pieces_of_a_folio_are_not_followed_and_single_pages_are() -> None:
    there = G0[8:448]
    rest = (Convert(there, PRIVATE), Populate(there))
    pieces = predicted(Place("g0", 0), *HELD, Convert(there, SHARED), *rest, design="thp-discard")[-1]
    singles = predicted(Place("g0", 0), *HELD, Convert(there, SHARED, by=1), *rest, design="thp-discard")[-1]
    assert frames(pieces)["back"] == (0, 440)
    assert frames(singles)["back"][0] > 380


@pytest.mark.parametrize("design", ["inplace", "inplace-thp", "inplace-thp-noop"])
def test_in_place_moves_no_frame(design: str) -> None:
    steps = predicted(*HELD, *AWAY, Populate(THERE), design=design)
    assert [frames(step) for step in steps[2:]] == [told(512, 0, 0, 0)] * 3


def test_two_guests_are_one_machine() -> None:
    steps = predicted(
        Place("g0", 0), Place("g1", 0), *HELD, Convert(G1[0:64], PRIVATE), Populate(G1[0:8]), *AWAY, Populate(G1[8:56]),
        guests=2,
    )  # fmt: skip
    assert frames(steps[-1]) == told(472, 0, 0, 48), "what one guest gives up another gets"


def test_a_closed_guest_gives_up_all_it_held() -> None:
    last = predicted(Place("g0", 0), *HELD, Close("g0"))[-1]
    assert frames(last) == told(0, 512, 0, 0)


def test_after_a_step_that_stirs_the_host_anything_may_come_back() -> None:
    last = predicted(Place("g0", 0), *HELD, *AWAY, Compact(), Populate(THERE))[-1]
    assert frames(last)["back"] == (0, 48)


def test_the_hosts_own_hole_counts_like_a_conversion() -> None:
    steps = predicted(Place("g0", 0), *HELD, PunchHole(THERE), Populate(THERE))
    assert frames(steps[-2]) == told(464, 48, 0, 0)
    assert frames(steps[-1]) == told(464, 0, 0, 48)


def test_hugetlb_pages_are_not_seen() -> None:
    steps = predicted(*HELD, design="hugetlb")
    assert not any(name in step.predictions for step in steps for name in COUNTERS)


def test_nothing_is_said_of_frames_unless_they_are_watched() -> None:
    scenario = Scenario("case", (Empty(),))
    (step,) = predict(scenario, design_named("order0"), {"gmem/g0": 0}, HostFacts(ncpu=2))
    assert not any(name in step.predictions for name in COUNTERS)
