# SPDX-License-Identifier: GPL-2.0-only
"""What the model says of a guest_memfd that a process maps, worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from harness.errors import NothingRanError
from harness.model.bare import bare_regions, with_cgroups
from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.scenario.region import G0, G1
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Check, Close, Fallocate, Populate, PunchHole, Step, Touch

FACTS = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
START = {f"{kind}": 0 for guest in ("g0", "g1") for kind in (
    f"gmem/{guest}", f"memcg/{guest}/file", f"memcg/{guest}/unevictable", f"memcg/{guest}/file_mapped",
)}  # fmt: skip


def told(*steps: Step, start: Mapping[str, int] = START) -> list[dict[str, int]]:
    """Each step's predictions of g0's own counters (and of g1's that move), which are all exact."""
    design = design_named("order0")
    regions = bare_regions(design, FACTS)
    plain = predict(Scenario("x", steps, guests=2), design, start, FACTS, regions=regions)
    found = []
    for step in with_cgroups(plain, regions, start):
        own = {name: bound for name, bound in step.predictions.items() if name.startswith(("gmem/", "memcg/"))}
        assert all(bound.exact and bound.reasons for bound in own.values())
        found.append({name: bound.low for name, bound in own.items() if bound.low or "/g0" in name})
    return found


def g0(file: int, mapped: int) -> dict[str, int]:
    return {"gmem/g0": file, "memcg/g0/file": file, "memcg/g0/unevictable": file, "memcg/g0/file_mapped": mapped}


def test_a_touch_allocates_and_maps_and_fallocate_only_allocates() -> None:
    assert told(Fallocate(G0[0:10]), Touch(G0[0:20], stride=2), Populate(G0[0:20]), Populate(G0[0:20])) == [
        g0(10, 0), g0(5, 10), g0(5, 10), g0(0, 0),
    ]  # fmt: skip


def test_a_hole_frees_what_is_there_and_unmaps_what_was_mapped() -> None:
    steps = Fallocate(G0[0:10]), Populate(G0[0:4]), PunchHole(G0[2:600]), PunchHole(G0[2:600]), Check(G0[2:3], "zero")
    assert told(*steps) == [g0(10, 0), g0(0, 4), g0(-8, -2), g0(0, 0), g0(1, 1)]


def test_a_process_that_ends_gives_everything_back_and_its_cgroup_shows_it() -> None:
    *_, last = told(Populate(G0[0:7]), Populate(G1[0:3]), Close("g0"))
    assert last == {"memcg/g0/file": -7, "memcg/g0/unevictable": -7, "memcg/g0/file_mapped": -7}
    assert told(Populate(G0[0:7]), Close("g0"), Populate(G1[0:3]))[-1] == {
        "memcg/g0/file": 0, "memcg/g0/unevictable": 0, "memcg/g0/file_mapped": 0,
        "gmem/g1": 3, "memcg/g1/file": 3, "memcg/g1/unevictable": 3, "memcg/g1/file_mapped": 3,
    }  # fmt: skip


def test_without_cgroups_nothing_is_said_of_them() -> None:
    start = {"gmem/g0": 0, "gmem/g1": 0}
    assert told(Populate(G0[0:7]), start=start) == [{"gmem/g0": 7}]


@pytest.mark.parametrize("name", ["thp-discard", "inplace"])
def test_designs_that_it_is_not_modelled_for(name: str) -> None:
    with pytest.raises(NothingRanError, match=f"order0 only, and not for {name}"):
        bare_regions(design_named(name), FACTS)
