# SPDX-License-Identifier: GPL-2.0-only
"""Steps of the host on the shared side: what the probe is asked, and what does not agree with the model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import InfraError, UsageError
from harness.guest.backing import backing_record
from harness.host.probe import HOLDS
from harness.model.prediction import StepPrediction
from harness.model.state import RegionState
from harness.run import shared_side
from harness.run.walk import Walker, _pin
from harness.scenario.region import G0
from harness.scenario.steps import Migrate, Pin, Split, Step, Unpin

RAM, CHUNKS = 0x7F0000000000, (0x400000, 0x1000000)
PID = 77


@dataclass
class Probe:
    asked: list[tuple[object, ...]] = field(default_factory=list)
    node: int | None = 1
    held: int = 1

    def move_pages(self, pid: int, address: int, pages: int, node: int, timeout: float) -> int:
        self.asked.append(("move", pid, address, pages, node))
        return 0

    def nodes(self, pid: int, address: int, pages: int, timeout: float) -> list[int | None]:
        return [self.node] * pages

    def hold(self, pid: int, number: int, offset: int, pages: int, timeout: float) -> None:
        self.asked.append(("hold", pid, number, offset, pages))

    def release(self, number: int, timeout: float) -> int:
        self.asked.append(("release", number))
        return self.held

    def write(self, path: str, value: str, timeout: float) -> None:
        self.asked.append((path, value))


def walker(probe: Probe, backing: str = "shmem-thp") -> Walker:
    guest = SimpleNamespace(name="g0", pid=PID, ram=RAM, chunks=CHUNKS)
    testbed = SimpleNamespace(
        guest=lambda name: guest,
        channels=SimpleNamespace(probe=probe),
        spec=SimpleNamespace(backing=backing_record(backing)),
    )
    return Walker(cast(Any, testbed))


def predicted(step: Step, region: RegionState | None = None) -> StepPrediction:
    return StepPrediction(0, step, {}, regions={"g0.r0": region or RegionState.empty(2)})


def test_a_migration_is_a_call_for_each_piece_and_is_looked_after() -> None:
    probe, step = Probe(), Migrate(G0[510:514])
    there = RegionState(2, shared=0b1111 << 510, shared_far=0b1111 << 510)
    assert shared_side.migrate(walker(probe), step, predicted(step, there)) == ()
    assert probe.asked == [
        ("move", PID, RAM + 0x400000 + 510 * 4096, 2, 1),
        ("move", PID, RAM + 0x1000000, 2, 1),
    ]


def test_pages_that_are_not_where_they_should_be_are_told() -> None:
    step = Migrate(G0[0:4])
    one = replace(RegionState(2), shared_far=0b0111)
    (said,) = shared_side.migrate(walker(Probe()), step, predicted(step, one))
    assert said == "nodes: 1 pages of g0.r0[0:4]: page 3 is on node 1, predicted on node 0"
    assert shared_side.migrate(walker(Probe(node=None)), step, predicted(step, one)) == (), "unmapped: nowhere"


def test_a_split_names_addresses_of_the_process() -> None:
    probe, step = Probe(), Split(G0[1:3])
    shared_side.split(walker(probe), step, predicted(step))
    start = RAM + 0x400000 + 4096
    assert probe.asked == [("/sys/kernel/debug/split_huge_pages", f"{PID},{start:#x},{start + 8192:#x}")]


def test_references_are_dropped_as_they_were_taken() -> None:
    probe = Probe()
    walk = walker(probe)
    for pages in (G0[5], G0[7]):
        shared_side.pin(walk, Pin(pages), predicted(Pin(pages)))
    with pytest.raises(UsageError, match=r"what is held is g0.r0\[5:6\], g0.r0\[7:8\]$"):
        shared_side.unpin(walk, Unpin(G0[5:8]), predicted(Unpin(G0[5:8])))
    shared_side.unpin(walk, Unpin(G0[5]), predicted(Unpin(G0[5])))
    shared_side.pin(walk, Pin(G0[9]), predicted(Pin(G0[9])))
    assert [words for words in probe.asked if words[0] != "hold"] == [("release", 0)]
    assert [words[2] for words in probe.asked if words[0] == "hold"] == [0, 1, 0]
    probe.held = 3
    with pytest.raises(InfraError, match="the probe held 3 pages where it must have held 1"):
        shared_side.unpin(walk, Unpin(G0[7]), predicted(Unpin(G0[7])))


def test_only_so_many_at_a_time() -> None:
    walk = walker(Probe())
    for number in range(HOLDS):
        shared_side.pin(walk, Pin(G0[number]), predicted(Pin(G0[number])))
    with pytest.raises(UsageError, match=f"at most {HOLDS} ranges"):
        shared_side.pin(walk, Pin(G0[100]), predicted(Pin(G0[100])))


@pytest.mark.parametrize("backing", ["anon-4k", "anon-thp", "hugetlb"])
def test_what_is_no_file_cannot_be_held(backing: str) -> None:
    step = Pin(G0[5])
    with pytest.raises(UsageError, match=f"through the file of a guest's RAM, and backing {backing} has none"):
        shared_side.pin(walker(Probe(), backing), step, predicted(step))


def test_shared_pages_are_held_through_their_file_and_absent_ones_not_at_all() -> None:
    probe, step = Probe(), Pin(G0[5:7])
    walk = walker(probe)
    assert not _pin(walk, step, predicted(step, RegionState(2))).problems
    assert probe.asked == []
    _pin(walk, step, predicted(step, RegionState(2, shared=3 << 5, shared_held=3 << 5)))
    assert [asked[0] for asked in probe.asked] == ["hold"]
