# SPDX-License-Identifier: GPL-2.0-only
"""A scenario that watches page identity: when the censuses are taken, and what the model is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from harness.counters.sample import Sample
from harness.host.probe import FrameRun
from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.prediction import Prediction, StepPrediction
from harness.run import runner
from harness.run.result import CaseResult
from harness.run.runner import CaseName, run_scenario
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import PageRange, PunchHole
from tests.fake.runner_bench import WHY, FakeChannels, FakeLab, FakeProbe, FakeTestbed

ZONEINFO = """Node 0, zone   Normal
  pages free     188889
  pagesets
    cpu: 0
              count:    120
              high:     252
              batch:    63
              high_min: 15469
              high_max: 15470
"""


@dataclass
class Probe(FakeProbe):
    """A host whose guest_memfds hold other frames at each census."""

    censuses: list[tuple[FrameRun, ...]] = field(default_factory=list)

    def frames(self) -> tuple[FrameRun, ...]:
        self.log.append("frames")
        return self.censuses.pop(0)

    def pcpcap(self, fraction: int) -> int:
        self.log.append(f"pcpcap {fraction}")
        return 1000000

    def fetch(self, slot: int, guests: Mapping[int, str]) -> Sample:
        return Sample(super().fetch(slot, guests).values, {"zoneinfo": ZONEINFO}, 1)


@dataclass
class Told:
    start: Mapping[str, int] = field(default_factory=dict)
    facts: HostFacts = field(default_factory=lambda: HostFacts(ncpu=1))


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, probe: Probe, bounds: Mapping[str, int], **wanted: bool
) -> tuple[CaseResult, Told]:
    step, told = PunchHole(PageRange("g0.r0", 0, 1)), Told()

    def predict(
        scenario: object, design: object, start: Mapping[str, int], facts: HostFacts, **more: object
    ) -> list[StepPrediction]:
        told.start, told.facts = start, facts
        return [StepPrediction(0, step, {name: Prediction(n, n, WHY) for name, n in bounds.items()})]

    monkeypatch.setattr(runner, "predict", predict)
    lab = FakeLab(FakeTestbed(folder, FakeChannels(probe)))
    made = run_scenario(
        cast(Any, lab), folder, lab.testbed.spec, Scenario("case", (step,), **wanted), design_named("order0"),
        HostFacts(ncpu=2), name=CaseName("suite", "case", "A claim."), evidence=folder, relative="evidence/case",
    )  # fmt: skip
    return made, told


def test_the_censuses_stand_outside_of_every_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(censuses=[(FrameRun(8, 2, 0),), (FrameRun(8, 1, 0),)])
    bounds = {"frames/kept": 1, "frames/gone": 1, "frames/new": 0, "frames/back": 0}
    result, _ = run(tmp_path, monkeypatch, probe, bounds, frames=True)
    assert result.verdict is Verdict.PASS, result.sentence
    windows = probe.log[probe.log.index("frames") :]
    assert windows == [
        "frames", "settle", "sample", "punch 0x2c00000+0x1000", "settle+rcu", "sample", "fetch", "fetch", "frames",
    ]  # fmt: skip


def test_a_frame_that_should_have_gone_deviates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(censuses=[(FrameRun(8, 2, 0),)] * 2)
    result, _ = run(tmp_path, monkeypatch, probe, {"frames/gone": 1}, frames=True)
    assert result.verdict is Verdict.DEVIATES
    assert result.sentence.startswith("frames/gone: predicted +1, observed +0 after step 0")


def test_the_model_is_told_how_much_the_lists_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(censuses=[(), ()])
    _, told = run(tmp_path, monkeypatch, probe, {}, frames=True, pcp_room=True)
    assert probe.log[0] == "pcpcap 8", "before the noise is measured"
    assert {name: told.start[name] for name in told.start if name.startswith("pcp_lists/")} == {
        "pcp_lists/batch": 63,
        "pcp_lists/count": 120,
        "pcp_lists/high": 15469,
    }
    assert told.facts.pcp_cap == 15470


def test_nothing_is_done_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe()
    result, told = run(tmp_path, monkeypatch, probe, {})
    assert result.verdict is Verdict.PASS
    assert not any(word.startswith(("frames", "pcpcap")) for word in probe.log)
    assert told.facts.pcp_cap == 252
