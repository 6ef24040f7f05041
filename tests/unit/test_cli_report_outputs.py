# SPDX-License-Identifier: GPL-2.0-only
"""``gmem report`` with --kcidb, --markdown and --remake, on folders as runs leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kcidb_io.schema import LATEST
from report_records import case, run_info

from harness.cli.main import main
from harness.report.store import OutDir
from harness.run.verdict import Verdict


def a_run(folder: Path, verdict: Verdict = Verdict.PASS) -> Path:
    out = OutDir.create(folder)
    out.append(case("a", verdict))
    out.finish(run_info(verdict))
    return folder


def test_kcidb_of_two_runs_in_one_file(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / "a"), a_run(tmp_path / "b", Verdict.DEVIATES)]
    file = tmp_path / "results.json"
    assert main(["report", *map(str, runs), "--kcidb", str(file), "--origin", "my_ci"]) == 1
    document = json.loads(file.read_text())
    LATEST.validate_exactly(document)
    assert [test["status"] for test in document["tests"]] == ["PASS", "FAIL"]
    assert {test["origin"] for test in document["tests"]} == {"my_ci"}


def test_kcidb_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(a_run(tmp_path / "a")), "--kcidb", "-", "--url", "https://ci.example/1"]) == 0
    LATEST.validate_exactly(json.loads(capsys.readouterr().out))


def test_markdown_is_what_lies_beside_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path / "a")
    assert main(["report", str(run), "--markdown"]) == 0
    assert capsys.readouterr().out.strip() == (run / "summary.md").read_text().strip()


def test_reports_are_made_again(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a")
    names = ("report.html", "summary.md", "results.ktap", "junit.xml")
    before = {name: (run / name).read_text() for name in names}
    for name in names:
        (run / name).unlink()
    assert main(["report", str(run), "--remake"]) == 0
    assert {name: (run / name).read_text() for name in names} == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--kcidb", "nowhere/x.json"], "nowhere/x.json cannot be written (No such file or directory)"),
        (["--kcidb", "-", "--origin", "My CI"], "KCIDB knows no origin 'My CI'"),
        (["--markdown", "--json"], "--json is about the table of claims"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert main(["report", str(a_run(tmp_path / "a")), *words]) == 4
    [line] = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_a_run_that_died_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OutDir.create(tmp_path / "a").append(case("a"))
    assert main(["report", str(tmp_path / "a"), "--kcidb", "-"]) == 4
    captured = capsys.readouterr()
    assert "is a run that never came to its end (no run.json)" in captured.err
    assert captured.out == ""
