# SPDX-License-Identifier: GPL-2.0-only
"""``gmem run`` with claims and ``gmem report`` on what it left: tables, merging, and one sentence for each mistake."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_bench import Runs, serving

from harness.cli.main import main

SUITE = """
from harness.run.tell import Tell
pytestmark = pytest.mark.gmem(claim="C12")

def test_pass(gmem):
    \"\"\"It gets worse.\"\"\"
    gmem.run(Empty(), Empty(), tells=[Tell(step=-1, counter="F")])
    gmem.record_series("rate", [1, 2], [0.5, 0.75], [0.5, (0, 1)], axis="% used")

@pytest.mark.gmem(designs=["inplace"], claim="C3")
def test_pass__in_place(gmem):
    gmem.run(Empty())
"""


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    with serving() as server:
        yield server


@pytest.fixture
def runs(server: subprocess.Popen[str], tmp_path: Path) -> Runs:
    return Runs(server, tmp_path)


def cells(path: Path) -> dict[str, list[dict[str, Any]]]:
    table = json.loads((path / "claims.json").read_text())
    return {row["id"]: row["cells"] for row in table["claims"]}


class TestRun:
    def test_a_run_with_claims_ends_in_a_table(self, runs: Runs) -> None:
        ended = runs.run(runs.suite(SUITE), "--out", "out")
        assert ended.code == 0
        told = ended.stdout.partition("\nclaims on order0 on ")[2]
        assert "C12       repetition makes it worse\n  pass          F not reached (predicted ?)" in told
        assert "C3        in-place conversion moves nothing\n  -             it converts by discarding" in told
        found = cells(runs.folder / "out")
        assert found["C12"][0]["cases"][0]["evidence"] == "evidence/mine-pass"
        assert 'id="claim-C12"' in (runs.folder / "out" / "report.html").read_text()
        assert "plotly" in (runs.folder / "out" / "claims.html").read_text()

    def test_a_run_without_claims_has_none(self, runs: Runs) -> None:
        ended = runs.run(runs.cases("pass"), "--out", "out")
        assert "claims on " not in ended.stdout
        assert not (runs.folder / "out" / "claims.json").exists()

    def test_json_is_one_object(self, runs: Runs) -> None:
        assert json.loads(runs.run(runs.suite(SUITE), "--json").stdout)["cases"][0]["claim_id"] == "C12"

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("gmem.run(Empty(), tells=[Tell(step=1, counter='F')])", "there is no step 1, the scenario has 1 steps"),
            ("gmem.run(Empty(), tells=[Tell(step=0, counter='F', format='{x}')])", "the format '{x}' may use"),
            ("gmem.record_series('y', [1], [1])", "record_series() comes after run()"),
        ],
    )
    def test_mistakes(self, runs: Runs, text: str, sentence: str) -> None:
        suite = f"from harness.run.tell import Tell\n@pytest.mark.gmem(claim='C1')\ndef test_x(gmem):\n    {text}\n"
        ended = runs.run(runs.suite(suite), "--out", "out")
        assert ended.code == 4
        assert sentence in ended.stdout + ended.stderr

    def test_an_unknown_claim(self, runs: Runs) -> None:
        ended = runs.run(runs.suite("@pytest.mark.gmem(claim='C99')\ndef test_x(gmem):\n    gmem.run(Empty())\n"))
        assert ended.code == 4
        assert "there is no claim 'C99'" in ended.stdout + ended.stderr

    def test_brief_keeps_the_first_case_of_each_function_about_a_claim(self, runs: Runs) -> None:
        many = "@pytest.mark.parametrize('n', [1, 2, 3])\n"
        suite = (
            f"@pytest.mark.gmem(claim='C1')\n{many}def test_pass(gmem, n):\n    gmem.run(Empty())\n"
            f"{many}def test_pass__no_claim(gmem, n):\n    gmem.run(Empty())\n"
        )
        suite += "@pytest.mark.gmem(claim='C1', brief=False)\ndef test_pass__not_brief(gmem):\n    gmem.run(Empty())\n"
        runs.run(runs.suite(suite), "--out", "out", "--brief")
        names = [result["case"] for result in runs.results()]
        assert names == ["pass[1]", *(f"pass__no_claim[{n}]" for n in (1, 2, 3))]

    def test_brief_cases_are_repeated_as_others(self, runs: Runs) -> None:
        suite = "@pytest.mark.gmem(claim='C1')\n@pytest.mark.parametrize('n', [1, 2])\n"
        runs.run(
            runs.suite(f"{suite}def test_pass(gmem, n):\n    gmem.run(Empty())\n"),
            "--brief",
            "--repeat",
            "3",
            "--out",
            "out",
        )
        assert [(one["case"], one["repeat"]) for one in runs.results()] == [("pass[1]", n) for n in (1, 2, 3)]


class TestReport:
    def report(self, runs: Runs, *words: object) -> int:
        return main(["report", *(str(runs.folder / str(word)) for word in words), "--out", str(runs.folder / "merged")])

    def test_designs_side_by_side_and_the_worst_wins(self, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
        runs.run(runs.suite(SUITE), "--out", "a")
        bad = SUITE.replace("test_pass__in_place", "test_deviates")
        assert runs.run(runs.suite(bad), "--out", "b", GMEM_TEST_DESIGN="inplace").code == 1
        assert self.report(runs, "a", "b") == 1
        shown = capsys.readouterr().out
        assert "verdict: deviates (exit code 1), the worst of 2 runs" in shown
        found = cells(runs.folder / "merged")
        assert [cell["verdict"] for cell in found["C3"]] == [None, "deviates"]
        assert found["C3"][0]["status"] == "not concerned"
        assert found["C3"][1]["cases"][0]["evidence"] == "../b/evidence/mine-deviates"
        assert (runs.folder / "merged" / found["C3"][1]["cases"][0]["evidence"]).is_dir()

    @pytest.mark.parametrize(
        ("spoil", "sentence"),
        [
            (lambda folder: (folder / "run.json").unlink(), "a run that never came to its end (no run.json)"),
            (lambda folder: (folder / "run.json").write_text("{"), "run.json is damaged"),
            (lambda folder: (folder / "results.jsonl").write_text("{}\n"), "results.jsonl line 1 is damaged"),
            (lambda folder: (folder / "results.jsonl").write_text(""), "a run without a case that decides a claim"),
            (lambda folder: (folder / "series.jsonl").write_text("x\n"), "series.jsonl line 1 is damaged"),
        ],
    )
    def test_a_spoilt_run(self, runs: Runs, capsys: pytest.CaptureFixture[str], spoil: Any, sentence: str) -> None:
        runs.run(runs.suite(SUITE), "--out", "a")
        spoil(runs.folder / "a")
        assert self.report(runs, "a") == 4
        [line] = capsys.readouterr().err.splitlines()
        assert sentence in line
        assert not (runs.folder / "merged").exists()

    def test_a_torn_last_line_is_named_and_left_out(self, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
        runs.run(runs.suite(SUITE), "--out", "a")
        with (runs.folder / "a" / "results.jsonl").open("a") as stream:
            stream.write('{"case": "torn')
        assert self.report(runs, "a") == 0
        [line] = capsys.readouterr().err.splitlines()
        assert "the last line is incomplete" in line

    def test_no_run_and_twice_the_same(self, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
        runs.run(runs.suite(SUITE), "--out", "a")
        runs.run(runs.suite(SUITE), "--out", "b")
        assert self.report(runs, "mine") == 4
        assert "is not the output directory of a gmem run" in capsys.readouterr().err
        assert self.report(runs, "a", "b") == 4
        assert "are both runs of order0 on" in capsys.readouterr().err

    def test_an_old_run_is_read(self, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
        """Records of before the table of claims lack its fields."""
        runs.run(runs.suite(SUITE), "--out", "a")
        path = runs.folder / "a" / "results.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            for name in ("claim_id", "design", "kernel", "tells"):
                del line[name]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert self.report(runs, "a") == 4
        assert "a run without a case that decides a claim" in capsys.readouterr().err
