# SPDX-License-Identifier: GPL-2.0-only
"""An observation that does nothing moves nothing."""

from __future__ import annotations

from pathlib import Path

from harness.scenario.scenario import Scenario
from harness.scenario.steps import Empty
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
