# SPDX-License-Identifier: GPL-2.0-only
"""Streams do what their patterns say, and refuse what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import UsageError
from harness.model.curves.host import HostMemory
from harness.model.curves.streams import PATTERNS, Stream, StreamSpec
from harness.model.curves.touched import Touched
from harness.model.curves.whatif import SCENARIOS

PAGES = 1 << 20


def shared_at_a_time(stream: Stream) -> list[int]:
    """Cells that are shared after each conversion."""
    now: set[int] = set()
    found = []
    for cell, to_shared in zip(stream.cells.tolist(), stream.to_shared.tolist(), strict=True):
        (now.add if to_shared else now.discard)(cell)
        found.append(len(now))
    return found


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_length_and_seed(pattern: str, count: int) -> None:
    spec = StreamSpec(pattern, live=64, run=8)
    one, again = (spec.draw(PAGES, count, seed=3) for _ in range(2))
    assert one.cells.size == one.to_shared.size == count
    assert one.cells.tolist() == again.cells.tolist()
    assert one.to_shared[0], "a guest begins with every page private"


def test_random_flips() -> None:
    stream = StreamSpec("random").draw(512, 5000, seed=1)
    for cell in range(512):
        directions = stream.to_shared[stream.cells == cell]
        assert directions.tolist() == [n % 2 == 0 for n in range(directions.size)]
    assert np.unique(stream.cells).size > 500


def test_share_only_shares() -> None:
    assert StreamSpec("share").draw(PAGES, 100, seed=1).to_shared.all()


def test_strided_takes_every_window_once_a_round() -> None:
    stream = StreamSpec("strided").draw(8 * 512, 20, seed=1)
    assert stream.cells.tolist()[:8] == [window * 512 for window in range(8)]
    assert stream.cells.tolist()[8:16] == [window * 512 + 1 for window in range(8)]


def test_bounce_keeps_a_bounded_number_shared() -> None:
    stream = StreamSpec("bounce", live=50).draw(PAGES, 2000, seed=1)
    shared = shared_at_a_time(stream)
    assert 45 <= max(shared) <= 50
    assert min(shared[100:]) >= 45
    assert np.unique(stream.cells).size > 900, "always other pages"


def test_bounce_in_runs() -> None:
    stream = StreamSpec("bounce", live=64, run=16).draw(PAGES, 64, seed=1)
    for begin in range(0, 64, 16):
        run = stream.cells[begin : begin + 16]
        assert (np.diff(run) == 1).all()


def test_reuse_uses_the_same_cells() -> None:
    stream = StreamSpec("reuse", live=10).draw(PAGES, 200, seed=1)
    assert np.unique(stream.cells).size == 10
    assert shared_at_a_time(stream)[9::20] == [10] * 10
    assert shared_at_a_time(stream)[19::20] == [0] * 10


def test_regions_bound_the_stream() -> None:
    spec = StreamSpec("random", regions=("512:1024", "0:10", "4096:4100"))
    cells = set(spec.draw(PAGES, 5000, seed=1).cells.tolist())
    assert cells == {*range(10), *range(512, 1024), *range(4096, 4100)}


def test_whole_windows() -> None:
    stream = StreamSpec("random", cell_order=9, regions=("512:2048",)).draw(PAGES, 100, seed=1)
    assert set(stream.cells.tolist()) == {1, 2, 3}
    with pytest.raises(UsageError, match="cut within a conversion of 512"):
        StreamSpec("random", cell_order=9, regions=("5:2048",)).draw(PAGES, 1, seed=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.array([0]), np.array([True]), 100), "a multiple of 512 pages"),
        ((np.array([0]), np.array([True]), 1 << 40), "at most"),
        ((np.array([0, 1]), np.array([True]), 512), "one direction for each"),
        ((np.array([0]), np.array([True]), 512, 4), "single pages or whole 2 MiB"),
        ((np.array([512]), np.array([True]), 512), "cells 0 to 511"),
        ((np.array([-1]), np.array([True]), 512), "first is -1"),
    ],
)
def test_impossible_streams(arguments: tuple[np.ndarray, np.ndarray, int], words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=words):
        Stream(*arguments)


@pytest.mark.parametrize(("guest", "count"), [(512, 0), (512, 10**9), (511, 1), (1 << 37, 1)])
def test_absurd_sizes(guest: int, count: int) -> None:
    with pytest.raises(UsageError, match="can be followed"):
        StreamSpec().draw(guest, count, seed=1)


def test_numbers_are_given_in_the_order_of_use() -> None:
    touched = Touched(Stream(np.array([900, 3, 900, 4]), np.ones(4, bool), 1024))
    assert touched.events.tolist() == [0, 1, 0, 2]
    windows = touched.groups(9)
    assert windows.names.tolist() == [1, 0]
    assert list(windows.of_cell) == [0, 1, 1]
    assert list(windows.members(1)) == [1, 2]
    assert list(touched.offsets(9)) == [900 - 512, 3, 4]


def test_host_of_a_sample() -> None:
    values = {"F": 10_000, "free_order/9": 3, "free_order/10": 6, "free/Movable": 1, "free/Unmovable": 1}
    host = HostMemory.from_sample(values, "x", 4 * 512, pcp_pages=99)
    assert (host.free, host.blocks, host.huge_for_guest, host.pcp_pages, host.notes) == (7952, 11, 4, 99, ())
    assert host.scattered == 7952 - 11 * 512
    assert host.in_pieces(0.5).blocks == 5


def test_what_a_sample_lacks_is_said() -> None:
    host = HostMemory.from_sample({"nr_free_pages": 10_000}, "x", 512)
    assert len(host.notes) == 5
    assert host.huge_for_guest == 1
    with pytest.raises(UsageError, match="does not say how much memory is free"):
        HostMemory.from_sample({"free_order/10": 1}, "x", 512)
    with pytest.raises(UsageError, match="a part between 0 and 1"):
        HostMemory.synthetic(512, fragmented=1.5)
    with pytest.raises(UsageError, match="not of one instant"):
        HostMemory("x", free=10, blocks=1, huge_for_guest=0)


def test_neighbouring_regions_do_not_overlap() -> None:
    cells = StreamSpec("random", regions=("512:1024", "0:512")).draw(PAGES, 50000, seed=1).cells
    assert set(cells.tolist()) == set(range(1024))


def test_what_a_stream_is_unless_said_otherwise() -> None:
    assert StreamSpec() == StreamSpec("random", cell_order=0, live=1024, run=1, stride=512, regions=())


def test_sample_whose_texts_are_a_moment_apart() -> None:
    """A block more than the free pages allow is no reason to give up."""
    host = HostMemory.from_sample({"F": 1100, "free_order/9": 3}, "x", 512, pcp_pages=1)
    assert (host.free, host.blocks, host.huge_for_guest) == (588, 1, 1)


GIVEN = "convert g0.r0[0:512] to private; populate g0.r0[0:512]"
OUT = "convert g0.r0[7:8] to shared; write g0.r0[7:8]"
BACK = "convert g0.r0[7:8] to private; write g0.r0[7:8]"
STEPS = {
    "partial-free": f"{GIVEN}; {OUT}",
    "reconversion": f"{GIVEN}; {OUT}; {BACK}",
    "inplace-quiet": f"{GIVEN}; {OUT}; {BACK}",
    "mapping-levels": f"{GIVEN}; {OUT}; {BACK}; write g0.r0[0:512]",
    "failed-split": f"{GIVEN}; pin g0.r0[9:10]; convert g0.r0[7:8] to shared; unpin g0.r0[9:10];"
    " convert g0.r0[7:8] to shared",
    "shared-thp": "convert g0.r0[0:512] to private; convert g0.r0[0:512] to shared; populate g0.r0[0:512];"
    f" {BACK}; pin g0.r0[500:501]; convert g0.r0[300:301] to private; unpin g0.r0[500:501]",
    "whole-window": f"{GIVEN}; {OUT}; {BACK}; convert g0.r0[0:512] to shared; {GIVEN}",
    "truncate-2m": f"{GIVEN}; {OUT}; convert g0.r0[0:512] to shared",
    "shared-backings": f"{GIVEN}; {OUT}",
    "repeated-partial": f"{GIVEN}; {OUT}; {BACK}; convert g0.r0[300:301] to shared;"
    " convert g0.r0[300:301] to private; write g0.r0[0:512]",
}
STREAMS = {
    "partial-free": StreamSpec("share"),
    "reconversion": StreamSpec("reuse", live=4096),
    "inplace-quiet": StreamSpec("random"),
    "mapping-levels": StreamSpec("bounce", live=256),
    "shared-thp": StreamSpec("bounce", live=4096),
    "whole-window": StreamSpec("random", cell_order=9),
    "truncate-2m": StreamSpec("random"),
    "orders": StreamSpec("random"),
    "shared-backings": StreamSpec("bounce", live=65536),
    "pressure": StreamSpec("random"),
    "repeated-partial": StreamSpec("bounce", live=1024),
    "random-4k": StreamSpec("random"),
    "strided": StreamSpec("strided", stride=512),
    "bursts": StreamSpec("bounce", live=4096, run=64),
    "whole-2m": StreamSpec("random", cell_order=9),
}


def test_scenarios_do_what_their_documentation_says() -> None:
    """Written out once more: docs/howto-model.md has it in words, and old pages are compared with new ones."""
    told = {name: "; ".join(step.text() for step in s.steps) for name, s in SCENARIOS.items() if s.steps}
    assert told == STEPS
    assert {name: s.stream for name, s in SCENARIOS.items() if s.stream} == STREAMS


def test_variants() -> None:
    found = {name: s.variants for name, s in SCENARIOS.items() if len(s.variants) > 1}
    assert [(v.label, v.order) for v in found.pop("orders")] == [
        ("64 KiB", 4), ("256 KiB", 6), ("1 MiB", 8), ("2 MiB", 9),
    ]  # fmt: skip
    assert [v.fragmented for v in found.pop("pressure")] == [0.0, 0.25, 0.5, 0.75]
    assert [v.same_cpu for v in found.pop("reconversion")] == [True, False]
    assert [v.backing for v in found.pop("shared-thp")] == ["anon-thp", "shmem-thp"]
    assert [v.backing for v in found.pop("shared-backings")] == ["anon-4k", "anon-thp", "shmem-thp", "hugetlb"]
    assert not found


def test_scenarios_are_whole() -> None:
    for name, scenario in SCENARIOS.items():
        assert scenario.name == name
        assert scenario.question.endswith("?")
        assert scenario.steps or scenario.stream
        if scenario.scenario:
            scenario.scenario.check()
