# SPDX-License-Identifier: GPL-2.0-only
"""Page identity on a running kernel: the census disturbs nothing, and sees what no other counter does."""

from __future__ import annotations

from pathlib import Path

from harness.scenario.scenario import Scenario
from harness.scenario.steps import Empty
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
