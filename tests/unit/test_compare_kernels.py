# SPDX-License-Identifier: GPL-2.0-only
"""Two kernels in turns: who runs when, what is pooled, and what ends it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness.cli import compare_kernels
from harness.cli.compare_kernels import Side, pooled, run_turn, sides, turns
from harness.cli.main import main
from harness.errors import GmemError, InfraError, NoBootError, UsageError
from harness.report.store import OutDir
from harness.run.verdict import Verdict
from tests.unit.report_records import case, run_info, step

A, B = Side("a", "7.3"), Side("b", "7.3", (Path("slow.patch"),))


def test_two_kernels() -> None:
    assert sides(["7.3", "6.12"], []) == (Side("a", "7.3"), Side("b", "6.12"))


def test_one_kernel_and_a_patch() -> None:
    assert sides(["6.12"], ["x.patch"]) == (Side("a", "6.12"), Side("b", "6.12", (Path("x.patch"),)))
    assert sides([], ["x.patch"]) == (Side("a", None), Side("b", None, (Path("x.patch"),)))
    assert B.arguments() == ["--kernel", "7.3", "--patch", "slow.patch"]


@pytest.mark.parametrize(("kernels", "said"), [(["a", "b", "c"], "3 times"), (["a"], "the same kernel")])
def test_what_does_not_make_two(kernels: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        sides(kernels, [])


def test_each_round_begins_with_the_other_one() -> None:
    order = [f"{side.letter}{number}" for number, side in turns((A, B), 3)]
    assert order == ["a1", "b1", "b2", "a2", "a3", "b3"]


def write(out: Path, seconds: float) -> None:
    made = OutDir.create(out)
    steps = [msgspec.structs.replace(step(n, text="punch hole"), act_seconds=seconds * (1 + n / 10)) for n in range(6)]
    made.append(case("one", Verdict.PASS, *steps))
    made.finish(run_info())


def test_rounds_are_pooled(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"a{number}", 0.01)
    info, cases = pooled(tmp_path, A, 2)
    assert info is not None
    assert [one.repeat for one in cases] == [1, 2]


def test_a_delay_is_seen_over_all_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def turn(side: Side, words: list[str], out: Path, notice: object) -> None:
        asked.append((side.letter, words))
        write(out, 0.03 if side.letter == "b" else 0.01)

    monkeypatch.setattr("harness.cli.compare.run_turn", turn)
    patch = tmp_path / "slow.patch"
    patch.touch()
    words = ["compare", "--patch-b", str(patch), "smoke", "-k", "punch", "--slower", "2", "--out", str(tmp_path / "o")]
    assert main(words) == Verdict.DEVIATES.exit_code
    assert asked == [(letter, ["smoke", "-k", "punch"]) for letter in "abba"]
    assert "slower: punch: 12.5 ms -> 37.5 ms, ratio 3.00 (3.00 to 3.00, 12 steps)" in capsys.readouterr().out


def test_one_folder_is_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "only-one"]) == Verdict.USAGE.exit_code
    assert "takes two output directories of runs, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "error"), [(7, NoBootError), (4, UsageError), (3, InfraError), (2, KeyboardInterrupt), (-9, InfraError)]
)
def test_a_turn_without_results_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[BaseException]
) -> None:
    program = tmp_path / "python"
    end = f"exit {code}" if code >= 0 else "kill -9 $$"
    program.write_text(f"#!/bin/sh\necho it did not come up >&2\n{end}\n")
    program.chmod(0o755)
    monkeypatch.setattr(compare_kernels.sys, "executable", str(program))
    with pytest.raises(error) as raised:
        run_turn(A, [], tmp_path / "a1", print)
    if isinstance(raised.value, GmemError):
        assert "it did not come up" in str(raised.value)


def test_a_run_does_not_outlive_who_wanted_it(tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ntrap 'echo ended > {told}; exit 2' TERM\necho $$ > {told}\nsleep 60 &\nwait\n")
    program.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from harness.cli.compare_kernels import Side, run_turn; "
        f"sys.executable = {str(program)!r}; run_turn(Side('a', None), [], Path({str(tmp_path / 'a1')!r}), print)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        wait_for(lambda: told.exists() and told.read_text().strip() != "")
        parent.kill()
    wait_for(lambda: told.read_text() == "ended\n")


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_turn_with_a_verdict_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'verdict: deviates (exit code 1): x'\nexit 1\n")
    program.chmod(0o755)
    write(tmp_path / "a1", 0.1)
    monkeypatch.setattr(compare_kernels.sys, "executable", str(program))
    said: list[str] = []
    run_turn(A, [], tmp_path / "a1", said.append)
    assert said == ["a1: verdict: deviates (exit code 1): x"]
