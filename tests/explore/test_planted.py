# SPDX-License-Identifier: GPL-2.0-only
"""An exploration finds a fault that takes three particular steps, and makes it small enough to be read.

And a case of a suite that deviates is made as small: down to the page.

They boot kernels of their own, so they are run by hand: ``pytest tests/explore``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Fallocate, PageRange
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


def test_which_page_of_a_chunk_is_kept(gmem_cli: Gmem) -> None:  # noqa: F811
    """Every 64th page keeps a reference: eight pages of a chunk are missing, and the first of them is page 63."""
    patch = FAULTS / "leaked-reference.patch"
    seen = gmem_cli.run("smoke", "-k", "one_chunk", "--patch", str(patch))
    [case] = seen.cases
    assert case["verdict"] == "deviates", seen.stdout + seen.stderr
    ended = gmem_cli.run(str(seen.out / case["evidence"]), "--patch", str(patch), command="shrink")
    assert ended.code == Verdict.DEVIATES.exit_code, ended.stdout + ended.stderr
    found = json.loads((ended.out / "shrink.json").read_text())["found"]
    assert found["shown_again"], found
    steps = Scenario.from_yaml((ended.out / found["file"]).read_text()).steps
    assert steps[-1].ranges() == (PageRange("g0.r0", 63, 1),), steps
    assert "predicted -1, observed +0" in found["sentence"]
    assert not gmem_cli.left_behind()
