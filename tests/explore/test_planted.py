# SPDX-License-Identifier: GPL-2.0-only
"""An exploration finds a fault that takes three particular steps, and makes it small enough to be read.

It boots a kernel of its own, so it is run by hand: ``pytest tests/explore``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Fallocate
from tests.emulated.conftest import Gmem, gmem_cli  # noqa: F401 - a fixture
from tests.planted.faults import FAULTS

FAULT = FAULTS / "seam-of-two-allocations-leaks.patch"
SEED = "135"
"""The first one that has the three steps; what is drawn from it follows from the seed alone."""

pytestmark = [pytest.mark.emulated, pytest.mark.timeout(900)]


def test_a_fault_of_three_steps_is_found_shrunk_and_shown_again(gmem_cli: Gmem, tmp_path: Path) -> None:  # noqa: F811
    words = (
        "--patch",
        str(FAULT),
        "--seed",
        SEED,
        "--cases",
        "4",
        "--findings",
        "1",
        "--corpus",
        str(tmp_path / "corpus"),
    )
    ended = gmem_cli.run(*words, command="explore")
    assert ended.code == Verdict.DEVIATES.exit_code, ended.stdout + ended.stderr
    told = json.loads((ended.out / "explore.json").read_text())
    [found] = told["found"]
    assert found["shown_again"], found
    assert found["steps"] <= 5 < found["steps_first"], found
    file = ended.out / found["file"]
    assert any(isinstance(step, Fallocate) for step in Scenario.from_yaml(file.read_text()).steps)

    again = gmem_cli.run(str(file), "--patch", str(FAULT))
    assert again.code == Verdict.DEVIATES.exit_code, again.stdout + again.stderr
    sound = gmem_cli.run(str(file))
    assert sound.code == Verdict.PASS.exit_code, sound.stdout + sound.stderr
    assert not gmem_cli.left_behind()
