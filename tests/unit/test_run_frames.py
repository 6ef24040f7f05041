# SPDX-License-Identifier: GPL-2.0-only
"""Page identity from censuses: what was kept, given up, taken, and taken back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.host.probe import FrameRun
from harness.run.frames import FOLDER, FrameWatch, frame_numbers, list_cap, list_limits, moved
from harness.run.outcome import rejected_window
from harness.run.result import Finding, StepResult
from harness.run.verdict import Verdict

PFNS = st.sets(st.integers(0, 40), max_size=30)

ZONEINFO = """Node 0, zone    DMA32
  pages free     505322
  pagesets
    cpu: 0
              count:    252
              high:     252
              batch:    63
              high_min: 31614
              high_max: 31614
  vm stats threshold: 20
Node 0, zone   Normal
  pages free     188889
  pagesets
    cpu: 0
              count:    120
              high:     252
              batch:    63
              high_min: 15469
              high_max: 15469
    cpu: 1
              count:    251
              high:     252
              batch:    63
              high_min: 15468
              high_max: 15469
Node 0, zone  Movable
  pages free     0
"""


def numbers(pfns: set[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(sorted(pfns), dtype=np.int64)


def test_runs_are_every_frame_of_them() -> None:
    runs = (FrameRun(16, 3, 0), FrameRun(512, 1024, 9), FrameRun(7, 1, 0))
    assert frame_numbers(runs).tolist() == [7, 16, 17, 18, *range(512, 1536)]
    assert frame_numbers(()).tolist() == []


@given(before=PFNS, after=PFNS, earlier=PFNS)
def test_each_frame_is_of_one_kind(before: set[int], after: set[int], earlier: set[int]) -> None:
    ever = before | earlier
    found = moved(numbers(before), numbers(after), numbers(ever))
    assert found == {
        "frames/kept": len(before & after),
        "frames/gone": len(before - after),
        "frames/new": len(after - ever),
        "frames/back": len((after - before) & ever),
    }


@dataclass
class FakeProbe:
    censuses: list[tuple[FrameRun, ...]]

    def frames(self) -> tuple[FrameRun, ...]:
        return self.censuses.pop(0)


def watch(folder: Path, *censuses: tuple[FrameRun, ...], wanted: bool = True) -> FrameWatch:
    return FrameWatch(cast(Any, FakeProbe(list(censuses))), folder, wanted)


def test_a_frame_that_was_away_is_back_and_not_new(tmp_path: Path) -> None:
    one, two, other = FrameRun(8, 1, 0), FrameRun(8, 2, 0), FrameRun(100, 1, 0)
    seen = watch(tmp_path, (one,), (two,), (), (other,), (two,))
    seen.begin()
    steps = [seen.after_step(index) for index in range(4)]
    told = [tuple(step[f"frames/{word}"] for word in ("kept", "gone", "new", "back")) for step in steps]
    assert told == [(1, 0, 1, 0), (0, 2, 0, 0), (0, 0, 1, 0), (0, 1, 0, 2)]


def test_the_censuses_are_evidence(tmp_path: Path) -> None:
    seen = watch(tmp_path, (), (FrameRun(0x1000, 512, 9),))
    seen.begin()
    seen.after_step(0)
    assert (tmp_path / FOLDER / "step0.txt").read_text().splitlines()[1:] == ["0x1000 512 9"]


def test_what_nobody_asked_for_is_not_taken(tmp_path: Path) -> None:
    seen = watch(tmp_path, wanted=False)
    seen.begin()
    assert seen.after_step(0) == {}
    assert not (tmp_path / FOLDER).exists()


def test_limits_are_those_of_the_zone_asked_first_and_hold_for_every_cpu() -> None:
    assert list_limits(ZONEINFO, 8) == {"pcp_lists/batch": 63, "pcp_lists/count": 251, "pcp_lists/high": 15468}
    assert list_cap(ZONEINFO, 8) == 31614


OLD = """Node 0, zone   Normal
  pages free     189417
        managed  248011
  pagesets
    cpu: 0
              count: 252
              high:  252
              batch: 63
    cpu: 1
              count: 217
              high:  252
              batch: 63
"""
"""Linux 6.12: ``high`` is what the list was allowed when it was last used, the limits are not shown."""


@pytest.mark.parametrize(("fraction", "limit"), [(8, 15500), (1000000, 252)])
def test_limits_that_the_kernel_does_not_show_are_worked_out_as_it_does(fraction: int, limit: int) -> None:
    assert list_limits(OLD, fraction) == {"pcp_lists/batch": 63, "pcp_lists/count": 252, "pcp_lists/high": limit}
    assert list_cap(OLD, fraction) == limit


@pytest.mark.parametrize("text", ["", "Node 0, zone  Normal\n  pages free     0\n", ZONEINFO.replace("batch", "other")])
def test_limits_that_are_not_printed_are_unknown(text: str) -> None:
    assert list_limits(text, 8) == {}


@pytest.mark.parametrize(("counter", "rejected"), [("frames/back", True), ("frames/new", True), ("frames/gone", False)])
def test_a_thread_that_comes_may_take_a_frame_but_gives_none_up(counter: str, rejected: bool) -> None:
    finding = Finding(
        counter=counter, low=48, high=48, observed=47, noise=0, verdict=Verdict.DEVIATES, reasons=("placement: why",)
    )
    step = StepResult(index=0, text="touch", seconds=0.1, findings=(finding,), recorded={"nr_kernel_stack": 16})
    assert bool(rejected_window([step])) is rejected
