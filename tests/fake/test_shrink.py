# SPDX-License-Identifier: GPL-2.0-only
"""``gmem shrink`` with a kernel of paper that punches holes of less than 100 pages badly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import harness.cli.shrink as command
from harness.explore.case import SHOWN_AGAIN
from harness.report.store import load
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Convert, PageRange, Populate, PunchHole, Side
from tests.fake.explore_bench import Paper, shrink

ROOT = Path(__file__).resolve().parents[2]
PAGES = PageRange("g0.r0", 40, 90)
BAD = Scenario("mine", (Convert(PAGES, Side.PRIVATE), Populate(PAGES), PunchHole(PAGES), Convert(PAGES, Side.SHARED)))
SOUND = Scenario("sound", BAD.steps[:2])


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "make_runner", command.make_runner)  # put back what shrink() replaces
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(BAD.to_yaml())
    (tmp_path / "sound.yaml").write_text(SOUND.to_yaml())


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "shrink.json").read_text())
    return found


def asked(folder: Path) -> list[str]:
    return [line.split()[1] for line in (folder / "asked").read_text().splitlines()]


def test_one_step_on_one_page_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shrink(Paper(tmp_path), "mine.yaml", "--out", "out", "--design", "order0") == Verdict.DEVIATES.exit_code
    found = told(tmp_path)["found"]
    file = tmp_path / "out" / found["file"]
    [step] = Scenario.from_yaml(file.read_text()).steps
    assert isinstance(step, PunchHole)
    assert step.range.count == 1
    assert (found["steps_first"], found["steps"], found["shown_again"], found["unfinished"]) == (4, 1, True, "")
    said = file.read_text()
    for word in (
        "# shows: deviates: gmem/gN too high",
        "# first: mine of gmem shrink mine.yaml, 4 steps; 1 steps after ",
    ):
        assert word in said
    text = capsys.readouterr().out
    assert f"         {step.text()}\n" in text
    assert f"gmem run {file} --design order0" in text
    info, cases = load(tmp_path / "out")
    assert info is not None
    assert (info.exit_code, info.counts["deviates"]) == (1, 2)
    assert [case.case for case in cases] == ["mine", "mine-smaller"]
    assert list(tmp_path.glob("closed-*")), "the testbed was given back"


def test_the_evidence_folder_of_a_case_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "mine.yaml").rename(tmp_path / "evidence" / "scenario.yaml")
    assert shrink(Paper(tmp_path), "evidence", "--out", "out", "--json") == 1
    assert json.loads(capsys.readouterr().out) == told(tmp_path)


def test_what_passes_is_run_again_and_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shrink(Paper(tmp_path), "sound.yaml", "--out", "out") == 0
    assert asked(tmp_path) == ["sound"] * SHOWN_AGAIN
    assert told(tmp_path)["found"] is None
    assert "sound passes, 3 times of 3: nothing to make smaller" in capsys.readouterr().out
    assert not (tmp_path / "out" / "found").exists()


@pytest.mark.parametrize(("word", "code"), [("infra", 3), ("inconclusive", 6), ("no-boot", 7)])
def test_what_shows_nothing_ends_with_its_verdict(tmp_path: Path, word: str, code: int) -> None:
    assert shrink(Paper(tmp_path, every_case=word), "mine.yaml", "--out", "out") == code
    assert told(tmp_path)["found"] is None
    assert told(tmp_path)["verdict"] == word


@pytest.mark.parametrize(("name", "code"), [("mine", 1), ("sound", 3)])
def test_a_host_that_is_not_given_back_is_told_beside_what_was_found(tmp_path: Path, name: str, code: int) -> None:
    assert shrink(Paper(tmp_path, not_given_back="a knob stays"), f"{name}.yaml", "--out", "out") == code
    _, cases = load(tmp_path / "out")
    assert (cases[-1].suite, cases[-1].sentence) == ("host", "a knob stays")
    assert (told(tmp_path)["found"] is None) == (name == "sound")


def test_its_time_ends_it_and_what_there_is_stays(tmp_path: Path) -> None:
    assert shrink(Paper(tmp_path, seconds=0.3), "mine.yaml", "--out", "out", "--time", "1s") == 1
    found = told(tmp_path)["found"]
    assert "the 1 s for it were over" in found["unfinished"]
    assert Scenario.from_yaml((tmp_path / "out" / found["file"]).read_text()).steps


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mine.yaml", "--time", "soon"), "--time 'soon' is no time"),
        (("mine.yaml", "--design", "none"), "none"),
        (("mine.yaml", "--host", "local", "--kernel", "7.3"), "runs the kernel that it runs"),
        (("empty",), "empty has no scenario.yaml: name a scenario, or the evidence folder of one case"),
        (("bytes.yaml",), "bytes.yaml cannot be read: it is not UTF-8 text"),
        (("no.yaml",), "'no.yaml' does not exist"),
        (("list.yaml",), "list.yaml: a scenario is a mapping"),
    ],
)
def test_bad_words_are_usage_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff")
    (tmp_path / "list.yaml").write_text("- a\n")
    assert shrink(Paper(tmp_path), *words) == Verdict.USAGE.exit_code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "gmem-out").exists()


@pytest.mark.parametrize("whole_group", [True, False], ids=["ctrl-c", "sigterm"])
def test_an_interruption_leaves_the_smallest_one_so_far(tmp_path: Path, whole_group: bool) -> None:
    program = [sys.executable, "-m", "tests.fake.explore_bench", str(tmp_path), "0.2", "shrink", "mine.yaml"]
    process = subprocess.Popen(
        [*program, "--out", "out"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "asked").exists() or len(asked(tmp_path)) < 6:
            assert time.monotonic() < end, "it did not happen in time"
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        if whole_group:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == Verdict.INTERRUPTED.exit_code, stderr
    assert "Traceback" not in stdout + stderr
    found = told(tmp_path)["found"]
    assert found["unfinished"] == "it was interrupted before it was the smallest"
    assert found["steps"] < found["steps_first"]
    assert 0 < found["tries"] < len(asked(tmp_path))
    assert found["sentence"] == "sentence of mine-smaller"
    assert Scenario.from_yaml((tmp_path / "out" / found["file"]).read_text()).steps
    _, cases = load(tmp_path / "out")
    assert [case.case for case in cases] == ["mine", "mine-smaller"]
    assert list(tmp_path.glob("closed-*")), "the testbed was given back"
