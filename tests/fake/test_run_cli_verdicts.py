# SPDX-License-Identifier: GPL-2.0-only
"""``gmem run`` as its user sees it: exit codes, sentences, what is on disk, and what happens on the way there."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_bench import SECONDS, Runs, serving


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    with serving() as server:
        yield server


@pytest.fixture
def runs(server: subprocess.Popen[str], tmp_path: Path) -> Runs:
    return Runs(server, tmp_path)


class TestExitCodes:
    @pytest.mark.parametrize(
        ("word", "code"),
        [("pass", 0), ("deviates", 1), ("infra", 3), ("usage", 4), ("skip", 5), ("inconclusive", 6), ("no_boot", 7),
         ("crash", 8)],
    )  # fmt: skip
    def test_of_one_case(self, runs: Runs, word: str, code: int) -> None:
        ended = runs.run(runs.cases(word), "--out", "out")
        assert ended.code == code
        assert ended.stderr == ""
        verdict = "nothing-ran" if word == "skip" else word.replace("_", "-")
        assert f"verdict: {verdict} (exit code {code})" in ended.stdout
        assert runs.info()["verdict"] == verdict
        assert runs.info()["exit_code"] == code
        assert [result["verdict"] for result in runs.results()] == [word.replace("_", "-")]

    @pytest.mark.parametrize("word", ["pass", "infra", "inconclusive"])
    def test_what_says_nothing_of_the_kernel_is_not_offered_to_be_made_smaller(self, runs: Runs, word: str) -> None:
        assert "smaller: " not in runs.run(runs.cases("pass", word), "--out", "out").stdout

    @pytest.mark.parametrize("word", ["deviates", "crash"])
    def test_what_speaks_of_the_kernel_is_offered_to_be_made_smaller(self, runs: Runs, word: str) -> None:
        ended = runs.run(runs.cases("pass", word), "--out", "out", "--design", "order0")
        [line] = [line for line in ended.stdout.splitlines() if line.startswith("smaller: ")]
        command = line.split()
        assert command[1:3] == ["gmem", "shrink"]
        assert command[4:] == ["--design", "order0"]
        assert (runs.folder / command[3]) == runs.folder / "out" / runs.results()[1]["evidence"] / "scenario.yaml"
        assert Path(runs.folder, command[3]).is_file()

    def test_the_worst_of_several(self, runs: Runs) -> None:
        ended = runs.run(runs.cases("pass", "infra", "deviates", "inconclusive", "skip"), "--out", "out")
        assert ended.code == 1
        assert runs.info()["sentence"] == "1 of 4 cases; first mine/deviates: sentence of deviates"
        assert len(runs.results()) == 5

    @pytest.mark.parametrize(("word", "code"), [("infra", 3), ("no-boot", 7), ("crash", 8), ("usage", 4)])
    def test_a_testbed_that_does_not_come_up_is_one_error(self, runs: Runs, word: str, code: int) -> None:
        suite = runs.suite(
            """
@pytest.mark.gmem(designs=["order0"])
def test_one(gmem):
    gmem.run(Empty())
def test_two(gmem):
    gmem.run(Empty())
"""
        )
        ended = runs.run(suite, "--out", "out", GMEM_TEST_READY=word)
        assert ended.code == code
        assert [result["verdict"] for result in runs.results()] == [word, "skip"]
        assert runs.results()[0]["sentence"] == "the testbed did not come up"
        assert runs.results()[1]["sentence"] == "no testbed: see mine/one"


class TestOutput:
    def test_plain_lines_and_files(self, runs: Runs) -> None:
        ended = runs.run(runs.cases("pass", "deviates"), "--out", "out")
        assert "mine/pass" in ended.stdout
        assert "sentence of deviates" in ended.stdout
        assert {path.name for path in (runs.folder / "out").iterdir()} == {
            "started", "results.jsonl", "run.json", "junit.xml", "results.ktap", "summary.md", "report.html",
            "evidence",
        }  # fmt: skip
        assert runs.results()[0]["claim"] == "Claim."
        assert (runs.folder / "out" / runs.results()[0]["evidence"] / "scenario.yaml").exists()

    def test_json_is_one_object_whatever_the_suite_prints(self, runs: Runs) -> None:
        suite = runs.suite(
            """
import os, sys
print("at import")
def test_pass(gmem):
    print("out")
    os.system("echo from a child")
    os.write(1, b"straight to the descriptor")
    gmem.run(Empty())
"""
        )
        ended = runs.run(suite, "--json", "--out", "out")
        whole = json.loads(ended.stdout)
        assert whole["run"]["verdict"] == "pass"
        assert [case["case"] for case in whole["cases"]] == ["pass"]
        assert whole["out"] == str(runs.folder / "out")

    def test_json_of_nothing(self, runs: Runs) -> None:
        ended = runs.run(runs.cases("pass"), "--json", "-k", "nothing_like_this")
        assert ended.code == 5
        assert json.loads(ended.stdout)["cases"] == []

    def test_the_default_place(self, runs: Runs) -> None:
        runs.run(runs.cases("pass"))
        assert (runs.folder / "gmem-out" / "latest" / "run.json").exists()

    def test_a_used_directory_is_refused_and_stays(self, runs: Runs) -> None:
        suite = runs.cases("pass")
        runs.run(suite, "--out", "out")
        before = (runs.folder / "out" / "run.json").read_bytes()
        ended = runs.run(suite, "--out", "out")
        assert ended.code == 4
        assert "there already is a run in it" in ended.sentence
        assert (runs.folder / "out" / "run.json").read_bytes() == before

    def test_the_seed_is_recorded(self, runs: Runs) -> None:
        runs.run(runs.cases("pass"), "--out", "out", "--seed", 7)
        assert runs.info()["seed"] == 7
        runs.run(runs.cases("pass"), "--out", "default")
        assert runs.info("default")["seed"] == 0, "the same cases in every run unless somebody asks for others"

    def test_a_result_that_cannot_be_kept_ends_the_run(self, runs: Runs) -> None:
        suite = runs.suite(
            """
from pathlib import Path
def test_pass__first(gmem):
    gmem.run(Empty())
def test_pass__second(gmem):
    Path("out/results.jsonl").unlink()
    Path("out/results.jsonl").mkdir()
    gmem.run(Empty())
def test_pass__third(gmem):
    Path("third").touch()
    gmem.run(Empty())
"""
        )
        ended = runs.run(suite, "--out", "out")
        assert ended.code == 3
        assert "Traceback" not in ended.stdout + ended.stderr
        assert "results.jsonl cannot be written" in ended.stdout
        assert not (runs.folder / "third").exists()

    def test_reports_that_cannot_be_written(self, runs: Runs) -> None:
        suite = runs.suite(
            """
from pathlib import Path
def test_pass(gmem):
    gmem.run(Empty())
    Path("out/.run.json.new").mkdir()
"""
        )
        ended = runs.run(suite, "--out", "out")
        assert ended.code == 3
        assert "run.json cannot be written: Is a directory" in ended.stdout
        assert "Traceback" not in ended.stdout + ended.stderr


class TestSelection:
    def test_dry_run_lists_and_makes_nothing(self, runs: Runs) -> None:
        suite = runs.cases("pass", "crash")
        ended = runs.run(suite, "--dry-run", "--out", "out", "--repeat", 3)
        assert (ended.code, ended.stdout, ended.stderr) == (0, "mine/pass\nmine/crash\n", "")
        assert not (runs.folder / "out").exists()
        assert json.loads(runs.run(suite, "--dry-run", "--json").stdout) == {"cases": ["mine/pass", "mine/crash"]}

    def test_dry_run_of_the_bundled_suites(self, runs: Runs) -> None:
        ended = runs.run("--dry-run")
        assert ended.code == 0
        assert "smoke/rest" in ended.stdout
        assert "conversion/" in ended.stdout

    def test_one_case_of_a_bundled_suite(self, runs: Runs) -> None:
        assert runs.run("--dry-run", "smoke", "-k", "one_page").stdout == "smoke/one_page\n"

    def test_an_expression_that_selects_nothing(self, runs: Runs) -> None:
        ended = runs.run(runs.cases("pass"), "-k", "nothing_like_this", "--out", "out")
        assert (ended.code, ended.stdout, ended.sentence) == (5, "", "gmem: no case was selected")
        assert not (runs.folder / "out").exists()

    def test_an_empty_folder(self, runs: Runs) -> None:
        (runs.folder / "empty").mkdir()
        assert runs.run("empty").code == 5

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["conversions"], "there is no suite conversions: it is neither a path nor one of "),
            ([""], "there is no suite"),
            (["--host", "moon", "SUITE"], "there is no host moon"),
            (["--design", "order-0", "SUITE"], "unknown gmem design 'order-0'"),
            (["--guest", "sev", "SUITE"], "unknown launch 'sev'"),
            (["--repeat", "0", "SUITE"], "0 is not in the range"),
            (["--patch", "absent.patch", "SUITE"], "absent.patch"),
            (["--no-such"], "No such option"),
        ],
    )
    def test_what_cannot_be(self, runs: Runs, words: list[str], sentence: str) -> None:
        suite = str(runs.cases("pass"))
        ended = runs.run("--out", "out", *(suite if word == "SUITE" else word for word in words))
        assert ended.code == 4
        assert sentence in ended.sentence
        assert not (runs.folder / "out").exists()

    @pytest.mark.parametrize("words", [["SUITE::test_absent"], ["-k", "a or", "SUITE"]])
    def test_what_pytest_refuses(self, runs: Runs, words: list[str]) -> None:
        suite = str(runs.cases("pass"))
        ended = runs.run(*(word.replace("SUITE", suite) for word in words))
        assert ended.code == 4
        assert "Traceback" not in ended.stderr
        assert "gmem: pytest refuses these options or names" in ended.stderr.splitlines()[-1]

    def test_the_environment_of_another_pytest_is_not_obeyed(self, runs: Runs) -> None:
        suite = runs.cases("pass")
        assert runs.run(suite, PYTEST_ADDOPTS="--tb=short -k nothing").code == 0

    def test_the_configuration_of_another_project_is_not_obeyed(self, runs: Runs) -> None:
        suite = runs.cases("pass")
        (runs.folder / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
        (runs.folder / "mine" / "pyproject.toml").write_text('[tool.pytest.ini_options]\npython_files = "nothing"\n')
        assert runs.run(suite).code == 0


class TestInterruption:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_in_the_middle_of_a_case(self, runs: Runs, number: signal.Signals) -> None:
        with runs.start(runs.cases("pass", "slow", "pass__later"), "--out", "out") as process:
            end = time.monotonic() + SECONDS
            while not (runs.folder / "slow-began").exists():
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=SECONDS)
        assert process.returncode == 2
        assert "verdict: interrupted (exit code 2): interrupted after 1 cases" in stdout
        assert stderr == ""
        assert [result["case"] for result in runs.results()] == ["pass"]
        assert (runs.info()["verdict"], runs.info()["exit_code"]) == ("interrupted", 2)
        assert (runs.folder / "out" / "report.html").exists()

    def test_where_python_loses_the_exception(self, runs: Runs) -> None:
        """A destructor that a Ctrl-C ends says so and no more: the next case is not begun all the same."""
        suite = runs.suite(
            "import os, signal\n"
            "class Lost:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGINT)\n"
            "def test_pass(gmem):\n    gmem.run(Empty())\n    Lost()\n"
            "def test_pass__later(gmem):\n    gmem.run(Empty())\n"
        )
        ended = runs.run(suite, "--out", "out")
        assert ended.code == 2, ended.stdout + ended.stderr
        assert [result["case"] for result in runs.results()] == ["pass"]

    def test_before_the_first_case(self, runs: Runs) -> None:
        suite = runs.suite("from pathlib import Path\nimport time\nPath('collecting').touch()\ntime.sleep(60)\n")
        with runs.start(suite) as process:
            end = time.monotonic() + SECONDS
            while not (runs.folder / "collecting").exists():
                assert time.monotonic() < end
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=SECONDS)
        assert (process.returncode, stdout, stderr) == (2, "", "gmem: interrupted\n")

    def test_killed_in_the_middle_leaves_what_was_done(self, runs: Runs) -> None:
        with runs.start(runs.cases("deviates", "slow"), "--out", "out") as process:
            end = time.monotonic() + SECONDS
            while not (runs.folder / "slow-began").exists():
                assert time.monotonic() < end
                time.sleep(0.01)
            process.kill()
            process.communicate(timeout=SECONDS)
        assert [result["verdict"] for result in runs.results()] == ["deviates"]
        assert (runs.folder / "out" / "started").exists()
        assert not (runs.folder / "out" / "run.json").exists()
