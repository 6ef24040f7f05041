# SPDX-License-Identifier: GPL-2.0-only
"""Suites as people write them: right, wrong, parametrized, repeated, skipped, and as YAML."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_bench import Runs, serving

from harness.scenario.generate import random_scenario

SCENARIO = """
name: there and back
steps:
- {do: convert, range: 'g0.r0[0:512]', to: private}
- {do: convert, range: 'g0.r0[0:512]', to: shared}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    with serving() as server:
        yield server


@pytest.fixture
def runs(server: subprocess.Popen[str], tmp_path: Path) -> Runs:
    return Runs(server, tmp_path)


PASS = "def test_pass(gmem):\n    gmem.run(Empty())\n"


class TestMistakesOfSuites:
    @pytest.mark.parametrize("other", ["", PASS])
    @pytest.mark.parametrize(
        ("text", "code", "sentence"),
        [
            ("def test_x(gmem):\n    pass\n", 4, "mine/x never called gmem.run(): it checks nothing"),
            (
                "@pytest.mark.gmem('order0')\ndef test_x(gmem):\n    gmem.run(Empty())\n",
                4, 'write the marker @pytest.mark.gmem(designs=["order0"], claim="C2", brief=False)',
            ),
            (
                "@pytest.mark.gmem(designs='order0')\ndef test_x(gmem):\n    gmem.run(Empty())\n",
                4, 'write the marker @pytest.mark.gmem(designs=["order0"], claim="C2", brief=False)',
            ),
            (
                "@pytest.mark.gmem(design=['order0'])\ndef test_x(gmem):\n    gmem.run(Empty())\n",
                4, 'write the marker @pytest.mark.gmem(designs=["order0"], claim="C2", brief=False)',
            ),
            ("def test_x(gmem):\n    gmem.run(Convert(G0[9:5], Side.PRIVATE))\n", 4, "a range needs at least one"),
            ("def test_x(gmem):\n    gmem.run(Touch(G0[0:9999]))\n", 4, "ends at page 9999"),
            ("def test_x(gmem):\n    assert 1 == 2\n", 3, "AssertionError in the suite: assert 1 == 2"),
            ("def test_x(gmem):\n    1 / 0\n", 3, "ZeroDivisionError in the suite: division by zero"),
            ("def test_x(gmem, nothing):\n    pass\n", 3, "fixture 'nothing' of the suite is not found"),
        ],
    )  # fmt: skip
    def test_one_sentence_and_a_record(self, runs: Runs, other: str, text: str, code: int, sentence: str) -> None:
        """The same whether it is the only case, or one before good ones."""
        ended = runs.run(runs.suite(text + other), "--out", "out")
        assert ended.code == code
        assert "Traceback" not in ended.stdout + ended.stderr
        if not (runs.folder / "out").exists():  # the mistake was found before there was anything to keep
            assert not other
            assert sentence in ended.sentence
            return
        assert ended.stderr == ""
        first, *rest = [(result["case"], result["verdict"]) for result in runs.results()]
        assert first == ("x", "usage" if code == 4 else "infra")
        assert rest == ([("pass", "pass")] if other else [])
        assert sentence in runs.results()[0]["sentence"]
        assert sentence in runs.info()["sentence"]

    def test_the_order_of_cases_decides_nothing(self, runs: Runs) -> None:
        wrong = "def test_x(gmem):\n    1 / 0\n"
        crash = "def test_crash(gmem):\n    gmem.run(Empty())\n"
        codes = [
            runs.run(runs.suite(text, f"{name}/test_cases.py")).code
            for name, text in (("one", wrong + crash), ("two", crash + wrong))
        ]
        assert codes == [8, 8]

    def test_two_scenarios_in_a_case(self, runs: Runs) -> None:
        ended = runs.run(
            runs.suite("def test_pass(gmem):\n    gmem.run(Empty())\n    gmem.run(Empty())\n"), "--out", "out"
        )
        assert ended.code == 4
        assert "a case is one scenario; give it all steps at once" in runs.info()["sentence"]

    def test_a_mistake_after_the_scenario(self, runs: Runs) -> None:
        ended = runs.run(runs.suite("def test_pass(gmem):\n    gmem.run(Empty())\n    assert False\n"), "--out", "out")
        assert ended.code == 3
        assert [result["verdict"] for result in runs.results()] == ["pass", "infra"]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("def test_x(gmem:\n    pass\n", r"test_cases.py, line 5: SyntaxError: "),
            (
                "import no_such_module\n",
                r"test_cases.py, line 5: ModuleNotFoundError: No module named 'no_such_module'",
            ),
            ("1 / 0\n", r"test_cases.py, line 5: ZeroDivisionError: division by zero"),
            ("def half():\n    1 / 0\nhalf()\n", r"test_cases.py, line 6: ZeroDivisionError: division by zero"),
            ("x = G0[1:2:3]\n", r"a range of g0.r0 is written g0.r0[first:end], without a step"),
        ],
    )
    def test_a_file_that_cannot_be_read(self, runs: Runs, text: str, sentence: str) -> None:
        runs.suite(PASS, "mine/test_good.py")
        runs.suite(text)
        ended = runs.run(runs.folder / "mine", "--out", "out")
        assert ended.code == 4
        assert ended.sentence.startswith("gmem: a suite cannot be read: ")
        assert sentence in ended.sentence
        assert not (runs.folder / "out").exists(), "no case may run before all suites can be read"


class TestDesigns:
    SUITE = '@pytest.mark.gmem(designs=["thp-discard", "inplace"])\ndef test_crash(gmem):\n    gmem.run(Empty())\n'

    def test_a_claim_on_another_design_is_skipped_with_the_way_to_force_it(self, runs: Runs) -> None:
        ended = runs.run(runs.suite(self.SUITE + PASS), "--out", "out")
        assert ended.code == 0
        assert [result["verdict"] for result in runs.results()] == ["skip", "pass"]
        assert runs.results()[0]["sentence"] == (
            "the claim concerns design thp-discard, inplace, the kernel under test is order0; "
            "--design thp-discard judges it all the same"
        )

    def test_a_claim_on_this_design_is_run(self, runs: Runs) -> None:
        assert runs.run(runs.suite(self.SUITE), GMEM_TEST_DESIGN="inplace").code == 8

    def test_a_suite_that_skips_itself(self, runs: Runs) -> None:
        ended = runs.run(runs.suite("def test_crash(gmem):\n    pytest.skip('not today')\n" + PASS), "--out", "out")
        assert ended.code == 0
        assert [result["case"] for result in runs.results()] == ["pass"]


class TestNames:
    SUITE = """
@pytest.mark.parametrize("pages", [1, 2])
def test_pass(gmem, pages):
    gmem.run(Empty())

@pytest.mark.parametrize("side", ["a", "b-repeat1"])
@pytest.mark.parametrize("n", [1])
def test_infra(gmem, side, n):
    gmem.run(Empty())

def test_deviates(gmem):
    gmem.run(Empty())
"""

    def test_repetitions_have_the_name_of_their_case(self, runs: Runs) -> None:
        ended = runs.run(runs.suite(self.SUITE), "--repeat", 2, "--out", "out")
        assert ended.code == 1
        names = [(result["case"], result["repeat"]) for result in runs.results()]
        assert sorted(names) == sorted(
            (case, repeat)
            for case in ("pass[1]", "pass[2]", "infra[1-a]", "infra[1-b-repeat1]", "deviates")
            for repeat in (1, 2)
        )

    def test_once_is_the_first_time(self, runs: Runs) -> None:
        runs.run(runs.suite(self.SUITE), "--out", "out")
        names = [(result["case"], result["repeat"]) for result in runs.results()]
        assert sorted(names) == sorted(
            (case, 1) for case in ("pass[1]", "pass[2]", "infra[1-a]", "infra[1-b-repeat1]", "deviates")
        )

    def test_mistakes_have_them_too(self, runs: Runs) -> None:
        suite = runs.suite("@pytest.mark.parametrize('n', [1])\ndef test_x(gmem, n):\n    assert n == 0\n" + PASS)
        runs.run(suite, "--repeat", 2, "--out", "out")
        names = [(result["case"], result["repeat"]) for result in runs.results()]
        assert sorted(names) == [("pass", 1), ("pass", 2), ("x[1]", 1), ("x[1]", 2)]

    def test_the_claim_is_the_first_paragraph(self, runs: Runs) -> None:
        text = 'def test_pass(gmem):\n    """One claim\n    on two lines.\n\n    More."""\n    gmem.run(Empty())\n'
        runs.run(runs.suite(text), "--out", "out")
        assert runs.results()[0]["claim"] == "One claim on two lines."


class TestYaml:
    def scenario(self, runs: Runs, text: str, name: str = "mine/back.yaml") -> Path:
        path = runs.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def test_a_scenario_is_a_case(self, runs: Runs) -> None:
        ended = runs.run(self.scenario(runs, SCENARIO), "--out", "out")
        assert ended.code == 0
        [result] = runs.results()
        assert (result["suite"], result["case"], result["claim"]) == (
            "scenario", "there and back", "scenario of back.yaml",
        )  # fmt: skip

    def test_beside_suites_and_repeated(self, runs: Runs) -> None:
        runs.run(self.scenario(runs, SCENARIO), runs.suite(PASS), "--repeat", 2, "--out", "out")
        names = [(result["suite"], result["case"], result["repeat"]) for result in runs.results()]
        assert sorted(names) == [
            (*case, repeat) for case in (("mine", "pass"), ("scenario", "there and back")) for repeat in (1, 2)
        ]

    def test_dry_run_names_it_as_the_run_does(self, runs: Runs) -> None:
        ended = runs.run(self.scenario(runs, SCENARIO), "--dry-run", "--repeat", 2)
        assert ended.stdout == "scenario/there and back\n"

    def test_a_yaml_file_in_a_folder_is_none(self, runs: Runs) -> None:
        self.scenario(runs, SCENARIO)
        runs.suite(PASS)
        assert runs.run(runs.folder / "mine", "--dry-run").stdout == "mine/pass\n"

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (SCENARIO.replace("to: private", "too: private"), "has an unknown key 'too': did you mean 'to'?"),
            (SCENARIO.replace("do: convert", "do: covert"), "has an unknown step 'covert': did you mean 'convert'?"),
            (SCENARIO.replace("[0:512]", "[0:51200]"), "ends at page 51200"),
            ("name: [", "not readable as YAML"),
        ],
    )
    def test_mistakes_before_anything_runs(self, runs: Runs, text: str, sentence: str) -> None:
        path = self.scenario(runs, text)
        ended = runs.run(runs.suite(PASS), path, "--out", "out")
        assert ended.code == 4
        assert sentence in ended.sentence
        assert ended.sentence.count("back.yaml") == 1
        assert not (runs.folder / "out").exists()

    def test_bytes_that_are_no_text(self, runs: Runs) -> None:
        path = self.scenario(runs, "")
        path.write_bytes(b"\xff\xfe\x00")
        ended = runs.run(path)
        assert ended.code == 4
        assert "back.yaml: cannot be read as text" in ended.sentence


DRAWN = """
from harness.scenario.generate import random_scenario
def test_pass(gmem, gmem_seed):
    gmem.run_scenario(random_scenario(gmem_seed))
"""


class TestRandomCases:
    def cases(self, runs: Runs, *words: object, out: str = "out") -> list[str]:
        assert runs.run(runs.suite(DRAWN), "--out", out, *words).code == 0
        return [result["case"] for result in runs.results(out)]

    def test_one_case_for_each_seed(self, runs: Runs) -> None:
        assert self.cases(runs, "--cases", 3) == [f"pass[random-{seed}]" for seed in (0, 1, 2)]
        assert self.cases(runs, "--seed", 70, "--cases", 2, out="b") == ["pass[random-70]", "pass[random-71]"]

    def test_five_hundred_unless_somebody_says_otherwise(self, runs: Runs) -> None:
        ended = runs.run(runs.suite(DRAWN), "--dry-run")
        assert ended.stdout.splitlines() == [f"mine/pass[random-{seed}]" for seed in range(500)]

    def test_one_of_them_by_name(self, runs: Runs) -> None:
        assert self.cases(runs, "-k", "random-123") == ["pass[random-123]"]
        evidence = runs.folder / "out" / "evidence" / "mine-pass_random-123"
        assert (evidence / "scenario.yaml").read_text() == random_scenario(123).to_yaml()

    def test_repeated(self, runs: Runs) -> None:
        assert self.cases(runs, "--cases", 2, "--repeat", 2) == [
            "pass[random-0]", "pass[random-0]", "pass[random-1]", "pass[random-1]",
        ]  # fmt: skip

    def test_one_that_fails_says_how_to_run_it_again(self, runs: Runs) -> None:
        suite = runs.suite(DRAWN.replace("test_pass", "test_deviates"))
        assert runs.run(suite, "--out", "out", "--seed", 8, "--cases", 1).code == 1
        place = "evidence/mine-deviates_random-8"
        assert runs.results()[0]["sentence"] == (
            f"sentence of deviates[random-8] (drawn with --seed 8 --cases 1; {place}/scenario.yaml runs it alone)"
        )
        assert runs.run(runs.folder / "out" / place / "scenario.yaml", "--out", "again").code == 0
        assert runs.results("again")[0]["case"] == "random-8"

    @pytest.mark.parametrize(("option", "number"), [("--cases", 0), ("--seed", -1)])
    def test_numbers_that_cannot_be(self, runs: Runs, option: str, number: int) -> None:
        assert runs.run(runs.suite(DRAWN), option, number).code == 4

    def test_the_bundled_suite_draws_the_scenario_of_its_seed(self, runs: Runs) -> None:
        ended = runs.run("model", "--out", "out", "--seed", 4, "--cases", 1)
        assert ended.code == 0, ended.stderr
        [result] = runs.results()
        assert (result["suite"], result["case"]) == ("model", "order0[random-4]")
        assert result["claim"].startswith("A random sequence of conversions")
        yaml = (runs.folder / "out" / result["evidence"] / "scenario.yaml").read_text()
        assert yaml == random_scenario(4).to_yaml()

    def test_the_other_bundled_suite_places_guests(self, runs: Runs) -> None:
        assert runs.run("placement", "--out", "out", "--seed", 105, "--cases", 1).code == 0
        [result] = runs.results()
        assert "do: place" in (runs.folder / "out" / result["evidence"] / "scenario.yaml").read_text()


class TestPlainPytest:
    """``pytest`` itself gives the same run."""

    def test_verdict_and_reports(self, runs: Runs) -> None:
        ended = runs.pytest(runs.cases("pass", "crash"), "--gmem-out", "out")
        assert ended.code == 8
        assert "crash: sentence of crash" in ended.stdout
        assert "harness/pytest_" not in ended.stdout, "a traceback of ours is shown"
        assert runs.info()["verdict"] == "crash"

    def test_a_mistake_before_there_is_a_session(self, runs: Runs) -> None:
        ended = runs.pytest(runs.suite("def test_x(gmem):\n    pass\n"))
        assert ended.code == 4
        assert "mine/x never called gmem.run(): it checks nothing" in ended.stdout
        assert not (runs.folder / "gmem-out").exists()

    @pytest.mark.parametrize(("option", "word"), [("--gmem-host", "moon"), ("--gmem-design", "x")])
    def test_an_unknown_word(self, runs: Runs, option: str, word: str) -> None:
        ended = runs.pytest(runs.cases("pass"), option, word)
        assert ended.code == 4
        assert f"no host {word};" in ended.stdout or f"'{word}'" in ended.stdout

    def test_a_run_without_cases_is_left_alone(self, runs: Runs) -> None:
        suite = runs.suite(
            "def test_good():\n    pass\ndef test_bad():\n    raise InfraError('a sentence')\n", "other/test_other.py"
        )
        ended = runs.pytest(suite)
        assert ended.code == 1
        assert "raise InfraError('a sentence')" in ended.stdout, "the traceback of a test that is no case is hidden"
        assert not (runs.folder / "gmem-out").exists()

    def test_a_failure_of_pytest_itself_is_no_pass(self, runs: Runs) -> None:
        (runs.folder / "mine").mkdir()
        (runs.folder / "mine" / "conftest.py").write_text(
            "def pytest_runtest_logfinish(nodeid):\n    if 'second' in nodeid:\n        raise ValueError('of pytest')\n"
        )
        suite = runs.cases("pass__first", "pass__second", "pass__third")
        ended = runs.run(suite, "--out", "out")
        assert ended.code == 3
        assert runs.info()["verdict"] == "infra"
        assert "pytest failed after 2 cases" in runs.info()["sentence"]
