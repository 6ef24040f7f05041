# SPDX-License-Identifier: GPL-2.0-only
"""One step of git's own bisection: what it tells git, and never for its own trouble."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness.cli.bisect as command
import harness.cli.bisect_step as step_command
from harness.cli.main import main
from tests.fake.bisect_bench import Paper, commit, git, install
from tests.fake.bisect_cli_bench import LEAK, Bench, bench

__all__ = ["bench"]


def step(bench: Bench, *words: str, paper: Paper | None = None) -> tuple[int, str]:
    install(bench.folder, paper or Paper())
    code = main(["bisect", "step", "smoke", "--tree", str(bench.tree), *words])
    return code, bench.capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code"),
    [((), 0), ((LEAK,), 1), (("BOOT-NOT",), 125), (("#error",), 125)],
    ids=["good", "bad", "no-boot", "no-build"],
)
def test_a_step_tells_git(bench: Bench, words: tuple[str, ...], code: int) -> None:
    bench.line(1, 9, n1=words)
    assert step(bench)[0] == code


def test_a_step_never_says_bad_for_its_own_trouble(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.line(1, 1)
    assert step(bench, paper=Paper(infra_at=tuple(range(99))))[0] == 128
    assert step(bench, "--nosuch")[0] == 128
    assert step(bench, "--like", "/nowhere")[0] == 128
    (bench.tree / ".config").write_text("")
    assert step(bench)[0] == 128

    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(step_command, "narrow", defect)
    assert step(bench)[0] == 128


def test_a_step_looks_for_what_a_run_showed(bench: Bench) -> None:
    bench.line(2, 1)
    assert step(bench, "--out", "kept")[0] == 1
    [run] = (bench.folder / "kept").glob("step-*/run0")
    assert step(bench, "--like", str(run))[0] == 1
    commit(bench.tree, 3, "OTHER-HERE")
    assert step(bench)[0] == 1
    assert step(bench, "--like", str(run))[0] == 125
    commit(bench.tree, 4)
    assert step(bench, "--like", str(run), "--passes", "3")[0] == 0


def test_git_bisect_run(bench: Bench) -> None:
    bench.line(8, 6, n4=("#error",))
    plan = bench.folder / "plan.json"
    plan.write_text("{}")
    git(bench.tree, "bisect", "start", bench.names[-1], bench.base)
    python = Path(command.__file__).parents[2]
    script = bench.folder / "judge"
    script.write_text(
        f"#!/bin/sh\ntree=$PWD; cd {python} && exec python -m tests.fake.bisect_bench {bench.folder} {plan}"
        ' bisect step smoke --tree "$tree"\n'
    )
    script.chmod(0o755)
    out = git(bench.tree, "bisect", "run", str(script))
    assert f"{bench.names[5]} is the first bad commit" in out
