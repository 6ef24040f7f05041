# SPDX-License-Identifier: GPL-2.0-only
"""Drawn scenarios on a real kernel: the healthy one does what the model says, and a planted fault does not escape."""

from __future__ import annotations

import json
from pathlib import Path

from harness.run.verdict import Verdict
from tests.emulated.conftest import Gmem
from tests.planted.faults import FAULTS

CASES = 12
"""Of the 500 that ``gmem run model`` draws: the first ones already hold every kind of step."""
FAULT = FAULTS / "last-page-not-converted.patch"


def test_the_healthy_kernel_does_what_the_model_says(gmem_cli: Gmem) -> None:
    ended = gmem_cli.run("model", "--cases", str(CASES))
    assert ended.code == 0, ended.said()
    assert [case["case"] for case in ended.cases] == [f"order0[random-{seed}]" for seed in range(CASES)]
    sharp = ended.info["sharpness"]
    by_name = {row["counter"]: row for row in sharp["counters"]}
    # What design order0 moves most directly is never an interval; free pages are one only where slabs take part.
    for counter in ("nr_file_pages", "nr_unevictable", "gmem/g0", "kvm/g0/pages_4k", "nr_anon_pages"):
        assert by_name[counter]["intervals"] == 0
        assert by_name[counter]["effect_max"] >= 512
    assert by_name["F"]["ratio"] < 0.5
    assert sharp["exact"] > sharp["intervals"] / 4
    texts = " ".join(step["text"] for case in ended.cases for step in case["steps"])
    for word in ("convert", "populate", "write", "read", "check", "fallocate", "punch hole", "settle", "close", " by "):
        assert word in texts


def test_a_planted_fault_does_not_escape_and_can_be_run_again(gmem_cli: Gmem) -> None:
    ended = gmem_cli.run("model", "--cases", "3", "--patch", str(FAULT))
    assert ended.code == Verdict.DEVIATES.exit_code, ended.stdout + ended.stderr
    found = [case for case in ended.cases if case["verdict"] == "deviates"]
    assert found
    for case in found:
        seed = case["case"].partition("random-")[2].rstrip("]")
        scenario = f"{case['evidence']}/scenario.yaml"
        assert case["sentence"].endswith(f"(drawn with --seed {seed} --cases 1; {scenario} runs it alone)")
    again = gmem_cli.run(str(ended.out / found[0]["evidence"] / "scenario.yaml"), "--patch", str(FAULT))
    assert again.code == Verdict.DEVIATES.exit_code
    assert [step["text"] for step in again.cases[0]["steps"]] == [step["text"] for step in found[0]["steps"]]


def test_scenarios_that_share_a_testbed_hold_too(gmem_cli: Gmem, tmp_path: Path) -> None:
    """Four at a time, each on its own chunks of the region: nobody's pages and tables are in another one's way."""
    words = ("--guests", "1", "--cases", "8", "--jobs", "1", "--corpus", str(tmp_path / "corpus"))
    ended = gmem_cli.run(*words, command="explore")
    assert ended.code == 0, ended.stdout + ended.stderr
    told = json.loads((ended.out / "explore.json").read_text())
    assert told["counts"] == {"pass": 8}
    assert (told["together"], told["seeds_used"], told["seeds_left"]) == (4, 8, [])
    assert {"punch", "fault", "allocate", "zap", "per-cpu-lists"} <= set(told["rules"])
    kept = sum(path.name.startswith("explore-") for path in (ended.out / "evidence").iterdir())
    assert kept == 0, "what passed leaves nothing"
