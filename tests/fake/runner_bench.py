# SPDX-License-Identifier: GPL-2.0-only
"""A testbed made of paper on which a scenario can be walked: probe, guest, monitor, and a lab that hands it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from harness.counters.sample import Sample
from harness.errors import GmemError, InfraError
from harness.guest.launch import SW_PROTECTED_DIRECT, LaunchRecord
from harness.host.emulated import state as shapes  # by its module: its classes begin with Test
from harness.host.emulated import testbed as testbeds
from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.prediction import ExpectedConversion, ExpectedError, Prediction, Reason, StepPrediction
from harness.model.state import RegionState
from harness.run import runner, witnesses
from harness.run.result import CaseResult
from harness.run.runner import CaseName, run_scenario
from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    PageRange,
    PunchHole,
    Step,
)

WHY = (Reason("rule", "because"),)
CHUNKS = (0x2C00000, 0x3400000)
PANIC = "[    9.1] Kernel panic - not syncing: Fatal exception\n"


@dataclass
class FakeProbe:
    """The counters of a host: ``moves`` says what each action moves, ``world`` is what they are."""

    world: dict[str, int] = field(default_factory=lambda: {"nr_file_pages": 100, "F": 1000, "pgfree": 5})
    moves: list[Mapping[str, int]] = field(default_factory=list)
    idle: Iterator[Mapping[str, int]] = field(default_factory=lambda: iter(()))
    error: GmemError | None = None
    slots: dict[int, dict[str, int]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    threads: int = 3
    held: int = 0
    steady: bool = True

    def settle(self, *, rcu: bool = True) -> None:
        self.log.append("settle+rcu" if rcu else "settle")

    def sample(self, slot: int) -> None:
        self.log.append("sample")
        self.slots[slot] = dict(self.world)
        self.move(next(self.idle, {}))

    def fetch(self, slot: int, guests: Mapping[int, str]) -> Sample:
        assert guests == {77: "g0"}
        self.log.append("fetch")
        return Sample(self.slots[slot], {"vmstat": "raw"}, 1, steady=self.steady)

    def fallocate(self, pid: int, mode: str, offset: int, length: int, *, timeout: float) -> None:
        self.log.append(f"{mode} {offset:#x}+{length:#x}")
        if self.error:
            raise self.error
        if self.moves:
            self.move(self.moves.pop(0))

    def refer(self, pid: int, mode: str, offset: int, length: int, *, timeout: float) -> int:
        self.log.append(f"{mode} {offset:#x}+{length:#x}")
        return self.held

    def release(self, number: int, *, timeout: float) -> int:
        raise AssertionError("nothing is held through a file here")

    def place(self, pid: int, cpu: int, *, timeout: float) -> int:
        self.log.append(f"place {pid} on {cpu}")
        return self.threads

    def write(self, path: str, value: str, *, timeout: float) -> None:
        self.log.append(f"{value} to {path}")

    def move(self, by: Mapping[str, int]) -> None:
        for name, amount in by.items():
            self.world[name] = self.world.get(name, 0) + amount


@dataclass
class FakeMachine:
    running: bool = True

    def last_words(self) -> str:
        return "QEMU was killed by SIGKILL: it printed nothing"


@dataclass
class FakeMonitor:
    traces: str

    def execute(self, command: str, arguments: object = None) -> object:
        if self.traces == "gone":
            raise InfraError("QEMU does not answer")
        return [{"name": "kvm_convert_memory", "state": self.traces}]


@dataclass
class FakeChannels:
    probe: FakeProbe
    agents: dict[str, object] = field(default_factory=dict)
    control: object = None
    traces: str = "enabled"

    @contextmanager
    def monitor(self, guest: str) -> Iterator[FakeMonitor]:
        yield FakeMonitor(self.traces)


@dataclass
class FakeTestbed:
    """A testbed with one guest; ``check_consoles`` is the real one."""

    evidence: Path
    channels: FakeChannels
    launch: LaunchRecord = SW_PROTECTED_DIRECT
    leftover: int = 0
    machine: FakeMachine = field(default_factory=FakeMachine)
    saves: list[Path] = field(default_factory=list)
    save_error: Exception | None = None
    facts: dict[str, str] = field(default_factory=dict)
    noise: dict[str, int] | None = None
    check_consoles = testbeds.Testbed.check_consoles
    judges = testbeds.Testbed.judges
    answers_at_once = True
    undisturbed = testbeds.Testbed.undisturbed
    cap_lists = testbeds.Testbed.cap_lists
    settle = testbeds.Testbed.settle
    sample = testbeds.Testbed.sample
    fetch = testbeds.Testbed.fetch
    fallocate = testbeds.Testbed.fallocate
    undisturbed = testbeds.Testbed.undisturbed

    @property
    def spec(self) -> shapes.TestbedSpec:
        return shapes.TestbedSpec.of(launch=self.launch)

    @property
    def state(self) -> shapes.TestbedState:
        guest = shapes.GuestState(name="g0", pid=77, chunks=CHUNKS, leftover=self.leftover)
        return shapes.TestbedState(
            release="", version="", guests=(guest,), user_key="", user_public="", host_keys={}, host_public={},
            kernel_facts=self.facts, noise=self.noise,
        )  # fmt: skip

    def guest(self, name: str) -> shapes.GuestState:
        assert name == "g0"
        return self.state.guests[0]

    def console(self, who: str) -> Path:
        return self.evidence / f"{who}-console.txt"

    def trace_log(self, guest: str) -> Path:
        return self.evidence / f"{guest}-qemu.log"

    def save(self, folder: Path) -> None:
        self.saves.append(folder)
        if self.save_error:
            raise self.save_error

    def __enter__(self) -> FakeTestbed:
        return self

    def __exit__(self, *what: object) -> None:
        pass


@dataclass
class FakeLab:
    testbed: FakeTestbed
    error: GmemError | None = None

    def restored(self, spec: object, saved: Path, evidence: Path, clock: object) -> FakeTestbed:
        if self.error:
            raise self.error
        return self.testbed


@dataclass
class Bench:
    """Everything that a case needs; ``bounds`` are the predictions of the steps, in order."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    testbed: FakeTestbed
    probe: FakeProbe
    lab: FakeLab

    def run(
        self,
        *bounds: Mapping[str, tuple[int, int]],
        steps: Sequence[Step] = (),
        conversions: Sequence[tuple[ExpectedConversion, ...]] = (),
        refused: ExpectedError | None = None,
        region: RegionState | None = None,
        keep: bool = False,
        chained: bool = False,
    ) -> CaseResult:
        walked = steps or [PunchHole(PageRange("g0.r0", number, 1)) for number in range(len(bounds))]

        def predict(*words: object, **named: object) -> list[StepPrediction]:
            return [
                StepPrediction(
                    index,
                    step,
                    {name: Prediction(low, high, WHY) for name, (low, high) in bound.items()},
                    conversions=conversions[index] if conversions else (),
                    refused=refused,
                    regions={"g0.r0": region} if region else {},
                )
                for index, (step, bound) in enumerate(zip(walked, bounds, strict=True))
            ]

        self.monkeypatch.setattr(runner, "predict", predict)
        return run_scenario(
            cast(Any, self.lab),
            self.folder / "saved",
            self.testbed.spec,
            Scenario("case", tuple(walked)),
            design_named("order0"),
            HostFacts(ncpu=2),
            name=CaseName("suite", "case", "A claim.", 2),
            evidence=self.folder,
            relative="evidence/case",
            keep=keep,
            chained=chained,
        )


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(runner, "_LAST_WORDS_SECONDS", 0.05)
    monkeypatch.setattr(witnesses, "TRACE_SECONDS", 0.2)
    probe = FakeProbe()
    testbed = FakeTestbed(tmp_path, FakeChannels(probe))
    return Bench(tmp_path, monkeypatch, testbed, probe, FakeLab(testbed))


MINUS = {"nr_file_pages": (-1, -1)}
