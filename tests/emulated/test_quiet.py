# SPDX-License-Identifier: GPL-2.0-only
"""An observation that does nothing moves nothing, and one that settled leaves nothing to come."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.counters import zoneinfo
from harness.model.prediction import StepPrediction
from harness.run.result import StepResult
from harness.run.runner import CaseName, ScenarioRun
from harness.run.session import Session
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Check, Compact, DropCaches, Empty, Migrate, PageRange, Populate
from tests.emulated.conftest import Gmem


def test_a_hundred_empty_steps_move_no_asserted_counter(gmem_cli: Gmem, tmp_path: Path) -> None:
    scenario = tmp_path / "nothing.yaml"
    scenario.write_text(Scenario("nothing", tuple(Empty() for _ in range(100))).to_yaml())
    ended = gmem_cli.run(str(scenario))
    assert ended.code == 0, ended.stdout + ended.stderr
    steps = ended.case("nothing")["steps"]
    assert len(steps) == 100
    moved = {(step["index"], f["counter"], f["observed"]) for step in steps for f in step["findings"] if f["observed"]}
    assert not moved
    asserted = {"nr_file_pages", "nr_unevictable", "F", "pgfree", "gmem/g0", "kvm/g0/pages_4k", "unaccounted"}
    for step in steps:
        stayed = {counter for counters in step["still"].values() for counter in counters}
        assert asserted <= stayed | {finding["counter"] for finding in step["findings"]}


def test_settled_lists_of_another_node_shrink_no_further(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """They give back a batch in every third refresh: what is left would leave them in the next window, uncounted."""
    done, left = ScenarioRun.one_step, []

    def one_step(run: ScenarioRun, prediction: StepPrediction) -> StepResult:
        result = done(run, prediction)
        probe = run.testbed.channels.probe
        for _ in range(6):
            assert probe.settle().calm
            zones = zoneinfo.parse(probe.read("/proc/zoneinfo").decode())
            left.append((result.index, sum(zone.pcp for zone in zones if zone.node == 1)))
        return result

    monkeypatch.setattr(ScenarioRun, "one_step", one_step)
    chunk = PageRange("g0.r0", 0, 512)
    scenario = Scenario("there", (Populate(chunk), Migrate(chunk), Migrate(chunk, node=0)))
    result = session.run(scenario, CaseName("quiet", "there", ""))
    assert result.verdict is Verdict.PASS, result.sentence
    assert len(left) == 18
    assert len(set(left)) == 3, left


def test_no_step_is_the_first_to_look_at_a_file(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where slabs are full, the entry and the inode of a file that nobody looked at before take pages in its window."""
    done, entries = ScenarioRun.one_step, []

    def count(run: ScenarioRun) -> int:
        return int(run.testbed.channels.probe.read("/proc/sys/fs/dentry-state").split()[0])

    def one_step(run: ScenarioRun, prediction: StepPrediction) -> StepResult:
        if not entries:
            entries.append(count(run))  # this file is new to the host as well
            entries[0] = count(run)
        result = done(run, prediction)
        entries.append(count(run))
        return result

    monkeypatch.setattr(ScenarioRun, "one_step", one_step)
    chunk = PageRange("g0.r0", 0, 512)
    steps = (Empty(), Compact(), DropCaches(), Populate(chunk), Migrate(chunk), Check(chunk, "pattern"))
    scenario = Scenario("looks", steps, frames=True)
    result = session.run(scenario, CaseName("quiet", "looks", ""))
    assert result.verdict is Verdict.PASS, result.sentence
    assert len(entries) == 1 + len(steps)
    assert len(set(entries)) == 1, entries
