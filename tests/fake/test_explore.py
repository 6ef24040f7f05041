# SPDX-License-Identifier: GPL-2.0-only
"""``gmem explore`` with real worker processes and a kernel of paper."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

import harness.cli.explore as command
import harness.explore.exploration as exploration
from harness.explore.case import TROUBLE_MOST, CaseReport, Met, SessionRunner, ShrinkReport, run_case, shrink_case
from harness.explore.corpus import Corpus
from harness.explore.draw import Shape, draw_scenario
from harness.report.store import load
from harness.run.options import RunOptions
from harness.run.result import CaseResult, StepResult
from harness.run.runner import CaseName
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Convert, Empty, PageRange, PunchHole, Side
from tests.fake.explore_bench import Paper, PaperRunner, explore, shows

ROOT = Path(__file__).resolve().parents[2]
SHAPE = Shape(cpus=2)
ONE = ("--together", "1")
FIRST_BAD = next(seed for seed in range(1000) if any(map(shows, draw_scenario(seed, SHAPE).steps)))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Session", "SessionRunners"):
        monkeypatch.setattr(command, name, getattr(command, name))  # put back what explore() replaces
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def told(folder: Path, out: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / out / "explore.json").read_text())
    return found


def asked(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "asked").read_text().splitlines()]


def runner(paper: Paper) -> PaperRunner:
    made = paper(print)
    assert isinstance(made, PaperRunner)
    return made


# -- one case


def test_trouble_of_the_testbed_is_run_again_and_is_no_finding(tmp_path: Path) -> None:
    bad = draw_scenario(FIRST_BAD, SHAPE)
    report = run_case(runner(Paper(tmp_path, infra_at=bad.name)), bad)
    assert (report.runs, report.result.verdict) == (2, Verdict.DEVIATES)
    assert report.signature is not None
    for word in ("infra", "inconclusive", "skip", "usage"):
        report = run_case(runner(Paper(tmp_path, every_case=word)), bad)
        assert report.signature is None
        assert report.runs == (2 if word == "infra" else 1)


def found(tmp_path: Path, seed: int = FIRST_BAD) -> CaseReport:
    return run_case(runner(Paper(tmp_path)), draw_scenario(seed, SHAPE))


def test_a_finding_is_made_small_on_the_kernel(tmp_path: Path) -> None:
    kept: list[ShrinkReport] = []
    report = shrink_case(runner(Paper(tmp_path)), found(tmp_path), seconds=60, keep=kept.append)
    assert [type(step) for step in report.smallest.steps] == [PunchHole]
    assert report.smallest.steps[0].ranges()[0].count == 1
    assert report.result is not None
    assert (report.result.verdict, report.ended) == (Verdict.DEVIATES, "")
    assert kept[-1].smallest.steps == report.smallest.steps
    assert (kept[-1].result, kept[-1].tries <= report.tries) == (report.result, True)


@dataclass
class Told:
    """A runner whose n-th answer is what ``answers`` says of the n-th scenario, the last one for all that follow."""

    answers: Sequence[Callable[[Scenario], CaseResult]]
    asked: int = 0

    def run(self, scenario: Scenario, *, chained: bool = False) -> tuple[CaseResult, Met]:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1](scenario), ()

    def drop(self, result: CaseResult) -> None:
        pass

    def close(self) -> None:
        pass


def ended(scenario: Scenario, verdict: Verdict, steps: int, sentence: str) -> CaseResult:
    """A case that came so far, without anything amiss in those steps."""
    walked = [StepResult(index=n, text="", seconds=0.0, findings=(), recorded={}) for n in range(steps)]
    return CaseResult(
        suite="explore", case=scenario.name, claim="", verdict=verdict, sentence=sentence, seconds=0.0,
        steps=tuple(walked), evidence="",
    )  # fmt: skip


def stuck(scenario: Scenario) -> CaseResult:
    """A guest never comes back from a hole: that step is not among those that ended."""
    at = next((n for n, step in enumerate(scenario.steps) if isinstance(step, PunchHole)), None)
    if at is None:
        return ended(scenario, Verdict.PASS, len(scenario.steps), "holds")
    return ended(scenario, Verdict.DEVIATES, at, "a fault of g0 never ends")


def shrunk(runner: Told, scenario: Scenario) -> ShrinkReport:
    return shrink_case(runner, run_case(runner, scenario), seconds=60)


PAGES = PageRange("g0.r0", 0, 64)
FOUR = Scenario("four", (Empty(), PunchHole(PAGES), Empty(), Convert(PAGES, Side.PRIVATE)))


def test_a_step_that_never_ends_is_found_although_no_result_has_it() -> None:
    report = shrunk(Told([stuck]), FOUR)
    assert report.smallest.steps == (PunchHole(PageRange("g0.r0", 0, 1)),)
    assert report.result is not None


def test_what_shows_before_the_first_step_blames_none() -> None:
    runner = Told([lambda scenario: ended(scenario, Verdict.DEVIATES, 0, "7 pages before the first step")])
    report = shrunk(runner, FOUR)
    assert report.smallest.steps == (Empty(),)
    assert "no step is to blame" in report.ended
    assert report.tries == 1


def test_trouble_of_the_testbed_is_not_taken_for_an_answer() -> None:
    dead = lambda scenario: ended(scenario, Verdict.INFRA, 0, "the host is gone")  # noqa: E731
    report = shrunk(Told([stuck, stuck, dead]), FOUR)
    assert report.smallest == FOUR
    assert report.tries == 1 + TROUBLE_MOST
    assert report.ended == f"{TROUBLE_MOST} tries in a row came to nothing; the last one: the host is gone"
    report = shrunk(Told([stuck, dead]), FOUR)
    assert report.ended == "it could not be run again: the host is gone"


def test_evidence_that_is_no_case_s_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved testbed may live there, and the console of one that did not come up."""
    runner = SessionRunner(RunOptions(), tmp_path, print, CaseName("shrink", "", ""))
    verdicts = iter((Verdict.PASS, Verdict.DEVIATES))

    def run(scenario: Scenario, name: CaseName, *, chained: bool) -> CaseResult:
        if not runner.session.cases:
            (runner.session.evidence("boot-1-guests") / "host-console.txt").touch()
            runner.session.evidence("boot-2-guests")
        folder = runner.session.evidence(f"{name.suite}-{name.case}")
        (folder / "scenario.yaml").touch()
        told = ended(scenario, next(verdicts), 0, "told")
        return msgspec.structs.replace(told, evidence=str(folder.relative_to(tmp_path)))

    monkeypatch.setattr(runner.session, "run", run)
    assert runner.run(FOUR)[0].evidence == ""
    assert [path.name for path in (tmp_path / "evidence").iterdir()] == ["boot-1-guests"], "the other one was empty"
    runner.session.cases.append(ended(FOUR, Verdict.PASS, 0, ""))
    assert runner.run(FOUR)[0].evidence == "evidence/shrink-four"
    assert (tmp_path / "evidence" / "shrink-four" / "scenario.yaml").exists()
    assert (tmp_path / "evidence" / "boot-1-guests" / "host-console.txt").exists()


def test_what_does_not_show_again_is_said_not_to(tmp_path: Path) -> None:
    report = shrink_case(runner(Paper(tmp_path, bad=False)), found(tmp_path), seconds=60)
    assert report.result is None
    assert "did not show again in 3 runs" in report.ended
    assert report.tries == 3


def test_shrinking_ends_with_its_time(tmp_path: Path) -> None:
    now = iter(range(100))
    report = shrink_case(runner(Paper(tmp_path)), found(tmp_path), seconds=4, clock=lambda: float(next(now)))
    assert report.tries == 3
    assert "4 s" in report.ended


# -- whole explorations


@pytest.mark.parametrize(("together", "testbeds"), [("1", 8), ("4", 2)])
def test_testbeds_that_were_measured_twice_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], together: str, testbeds: int
) -> None:
    words = ("--cases", "8", "--guests", "1", "--jobs", "1", "--together", together, "--out", "out")
    assert explore(Paper(tmp_path, bad=False, again=True), *words) == 0
    assert told(tmp_path)["again"] == testbeds
    line = f"8 pass; measured again on {testbeds} testbeds: something else moved counters too"
    assert line in " ".join(capsys.readouterr().out.split())


def test_nothing_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explore(Paper(tmp_path, bad=False), "--cases", "30", "--jobs", "2", "--out", "out") == 0
    record = told(tmp_path)
    assert record["counts"] == {"pass": 30}
    assert (record["cases"], record["seeds_used"], record["found"]) == (30, 30, [])
    assert record["rules"] == {"punch": 30}
    assert "close" in record["never"]
    assert (tmp_path / "out" / "results.jsonl").read_text() == ""
    assert len({pid for pid, _, _ in asked(tmp_path)}) == 2, "both workers had work"
    names = Counter(name for _, names, _ in asked(tmp_path) for name in names.split("+"))
    assert names == Counter(f"random-{seed}" for seed in range(30)), "every seed once, whoever ran it"
    assert len(list(tmp_path.glob("closed-*"))) == 2
    text = capsys.readouterr().out
    assert "nothing found in 30 cases" in text
    assert "seeds:   0 to 29" in text


def test_found_shrunk_saved_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--cases", "200", "--jobs", "2", "--out", "out", "--design", "order0")
    assert explore(Paper(tmp_path), *words) == Verdict.DEVIATES.exit_code
    record = told(tmp_path)
    [one] = record["found"]
    assert one["what"] == "gmem/gN too high"
    assert one["rule"] == "punch"
    assert one["steps"] == 1
    assert one["again"] > 0
    assert one["shown_again"]
    assert record["counts"]["deviates"] == 1 + one["again"]
    file = tmp_path / "out" / one["file"]
    scenario = Scenario.from_yaml(file.read_text())
    assert [type(step) for step in scenario.steps] == [PunchHole]
    said = file.read_text()
    for word in ("# shows: ", "# kernel: ", "design: order0", f"gmem run {file} --design order0", one["first"]):
        assert word in said
    info, cases = load(tmp_path / "out")
    assert info is not None
    assert info.exit_code == 1
    assert info.counts["pass"] == record["counts"]["pass"]
    assert all(case.verdict is Verdict.DEVIATES for case in cases)
    assert "punch hole g0.r0[0:1]" in capsys.readouterr().out


def test_an_exploration_ends_with_enough_findings(tmp_path: Path) -> None:
    assert explore(Paper(tmp_path), "--cases", "500", "--findings", "1", "--jobs", "1", "--out", "out") == 1
    record = told(tmp_path)
    assert record["counts"]["deviates"] == 1
    assert record["cases"] + len(record["seeds_left"]) == record["seeds_used"]
    assert explore(Paper(tmp_path), "--cases", "500", "--findings", "1", "--jobs", "1", "--out", "alone", *ONE) == 1
    assert told(tmp_path, "alone")["cases"] == FIRST_BAD + 1


def test_time_is_kept(tmp_path: Path) -> None:
    paper = Paper(tmp_path, bad=False, seconds=0.05)
    assert explore(paper, "--time", "1s", "--jobs", "1", "--out", "out", *ONE) == 0
    record = told(tmp_path)
    assert record["seconds"] >= 1.0
    assert 1 <= record["cases"] <= 1 / 0.05 + 1, "however fast the machine is: the last one begins in time"
    assert record["cases_per_minute"] == pytest.approx(60 * record["cases"] / record["seconds"], rel=0.1)


def test_the_corpus_comes_first_but_takes_half_at_most(tmp_path: Path) -> None:
    explore(Paper(tmp_path, bad=False), "--cases", "20", "--jobs", "1", "--out", "out", "--corpus", "mine")
    record = told(tmp_path)
    assert record["corpus_added"] == len(list((tmp_path / "mine").glob("*.yaml"))) == record["combinations"] > 3
    (tmp_path / "asked").unlink()
    (tmp_path / "mine" / "zz.yaml").write_text("name: [")
    explore(Paper(tmp_path, bad=False), "--cases", "6", "--jobs", "1", "--out", "out2", "--corpus", "mine")
    names = [name for _, names, _ in asked(tmp_path) for name in names.split("+")]
    assert sorted(name.partition("-")[0] for name in names) == ["corpus"] * 3 + ["random"] * 3
    assert names[0].startswith("corpus")
    assert told(tmp_path, "out2")["seeds_left"] == []
    corpus = Corpus(tmp_path / "mine")
    assert corpus.add(draw_scenario(7, SHAPE), ("punch", "more")) is not None
    assert corpus.add(draw_scenario(8, SHAPE), ("more", "punch")) is None, "one for a combination"


def test_a_worker_that_dies_loses_its_case_only(tmp_path: Path) -> None:
    paper = Paper(tmp_path, bad=False, dies_at="random-3")
    assert explore(paper, "--cases", "12", "--jobs", "2", "--out", "out", *ONE) == 0
    record = told(tmp_path)
    assert record["counts"] == {"pass": 11, "lost": 1}
    assert len({pid for pid, _, _ in asked(tmp_path)}) == 3


def test_a_worker_that_dies_loses_what_it_had_on_its_testbed(tmp_path: Path) -> None:
    paper = Paper(tmp_path, bad=False, dies_at="random-3")
    assert explore(paper, "--cases", "12", "--jobs", "2", "--out", "out") == 0
    record = told(tmp_path)
    assert 1 <= record["counts"]["lost"] <= 4
    assert record["counts"]["lost"] + record["counts"]["pass"] == record["cases"] == 12
    assert len(record["seeds_left"]) == record["counts"]["lost"]
    assert 3 in record["seeds_left"]


def test_a_worker_that_dies_while_it_shrinks_leaves_the_finding(tmp_path: Path) -> None:
    paper = Paper(tmp_path, dies_at=f"random-{FIRST_BAD}-smaller")
    assert explore(paper, "--cases", str(FIRST_BAD + 1), "--jobs", "1", "--out", "out") == 1
    [one] = told(tmp_path)["found"]
    assert "a worker ended by SIGKILL" in one["unfinished"]
    assert (tmp_path / "out" / one["file"]).exists()


def test_workers_that_always_die_end_it(tmp_path: Path) -> None:
    assert explore(Paper(tmp_path, always_dies=True, log=False), "--jobs", "2", "--out", "out", *ONE) == 3
    record = told(tmp_path)
    assert record["counts"] == {"lost": exploration.TROUBLE_MOST}
    assert "a worker ended with status 3" in record["sentence"]


@pytest.mark.parametrize(("word", "code"), [("infra", 3), ("inconclusive", 6), ("skip", 5)])
def test_what_blames_the_testbed_is_counted_and_not_found(tmp_path: Path, word: str, code: int) -> None:
    assert explore(Paper(tmp_path, every_case=word), "--cases", "9", "--jobs", "1", "--out", "out") == code
    record = told(tmp_path)
    assert record["found"] == []
    assert record["counts"] == {word: 8 if word == "infra" else 9}


@pytest.mark.parametrize(
    "words", [("--time", "soon"), ("--cases", "0"), ("--design", "none"), ("--corpus", "asked"), ("--guests", "3")]
)
def test_bad_words_are_usage_errors(tmp_path: Path, words: tuple[str, str]) -> None:
    (tmp_path / "asked").touch()
    assert explore(Paper(tmp_path), *words) == 4
    assert not (tmp_path / "gmem-out").exists()


# -- interruption


def started(tmp_path: Path, seconds: float, *words: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "tests.fake.explore_bench", str(tmp_path), str(seconds), *words]
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        program, cwd=tmp_path, env=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("whole_group", [True, False], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_exploration_says_what_it_has(tmp_path: Path, whole_group: bool) -> None:
    process = started(tmp_path, 0.3, "--jobs", "2", "--out", "out")
    wait_for(lambda: (tmp_path / "asked").exists() and len(asked(tmp_path)) >= 6)
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == Verdict.INTERRUPTED.exit_code, stderr
    assert "Traceback" not in stdout + stderr
    record = told(tmp_path)
    assert record["verdict"] == "interrupted"
    assert record["counts"]["pass"] >= 3
    assert f"interrupted after {record['cases']} cases" in stdout
    pids = {int(pid) for pid, _, _ in asked(tmp_path)}
    assert {int(path.name.partition("-")[2]) for path in tmp_path.glob("closed-*")} == pids, "all were given back"
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_workers_end_when_their_parent_is_gone(tmp_path: Path) -> None:
    process = started(tmp_path, 0.2, "--jobs", "2", "--out", "out")
    wait_for(lambda: (tmp_path / "asked").exists() and len({pid for pid, _, _ in asked(tmp_path)}) == 2)
    process.kill()
    process.communicate(timeout=60)
    pids = {int(pid) for pid, _, _ in asked(tmp_path)}
    wait_for(lambda: len(list(tmp_path.glob("closed-*"))) == 2)
    wait_for(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()])
