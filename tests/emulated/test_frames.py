# SPDX-License-Identifier: GPL-2.0-only
"""Page identity on a running kernel: the census disturbs nothing, and sees what no other counter does."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.model.prediction import StepPrediction
from harness.run.result import StepResult
from harness.run.runner import CaseName, ScenarioRun
from harness.run.session import Session
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Convert, Empty, PageRange, Place, Populate, Side
from tests.emulated.conftest import Gmem
from tests.planted.faults import FAULTS

EMPTY_STEPS = 30


def test_a_census_between_empty_steps_moves_no_counter(gmem_cli: Gmem, tmp_path: Path) -> None:
    path = tmp_path / "rest.yaml"
    path.write_text(Scenario("rest", (Empty(),) * EMPTY_STEPS, frames=True).to_yaml())
    ended = gmem_cli.run(str(path))
    assert ended.code == 0, ended.said()
    (case,) = ended.cases
    assert len(case["steps"]) == EMPTY_STEPS


def test_frames_on_the_wrong_cpus_lists_are_caught_by_page_identity_alone(gmem_cli: Gmem) -> None:
    """Freed by a worker on another CPU: every amount is as it should be, and the frames are not where they should."""
    patch = FAULTS / "punch-frees-on-another-cpu.patch"
    ended = gmem_cli.run("c02_reconversion", "-k", "same_cpu and 48", "--patch", str(patch))
    assert ended.code == 1, ended.stdout + ended.stderr
    assert {finding["counter"] for finding in ended.findings()} == {"frames/back", "frames/new"}
    assert "the 48 pages it freed last are on top of its own list" in ended.said()
    assert not gmem_cli.left_behind()


CHUNK, PAGE = PageRange("g0.r0", 0, 512), PageRange("g0.r0", 8, 1)
BACK = 5
"""The step that gets back the page which step 3 freed."""
THERE_AND_BACK = (
    Place("g0", 0),
    Convert(CHUNK, Side.PRIVATE),
    Populate(CHUNK),
    Convert(PAGE, Side.SHARED),
    Convert(PAGE, Side.PRIVATE),
    Populate(PAGE),
)


@pytest.mark.parametrize(("times", "verdict"), [(1, Verdict.PASS), (3, Verdict.DEVIATES)])
def test_a_page_that_somebody_takes_between_two_windows_has_to_be_missing_twice(
    session: Session, monkeypatch: pytest.MonkeyPatch, times: int, verdict: Verdict
) -> None:
    """A process starts on that CPU and takes the frame that lies on top; no window has that in it."""
    done, left = ScenarioRun.one_step, [times]

    def one_step(run: ScenarioRun, prediction: StepPrediction) -> StepResult:
        if prediction.index == BACK and left[0]:
            left[0] -= 1
            run.testbed.channels.control.check(["taskset", "1", "sh", "-c", "sleep 0"])
            run.testbed.settle()  # what the process gave back is no part of the window
        return done(run, prediction)

    monkeypatch.setattr(ScenarioRun, "one_step", one_step)
    scenario = Scenario("taken", THERE_AND_BACK, frames=True, pcp_room=True)
    result = session.run(scenario, CaseName("frames", f"taken_{times}", ""))
    assert result.verdict is verdict, result.sentence
    assert " times; before: step 5: " in result.sentence
    assert "frames/back +1/+0, frames/new +0/+1" in result.sentence
