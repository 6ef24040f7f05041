# SPDX-License-Identifier: GPL-2.0-only
"""``gmem bisect`` in a folder of its own: a history, what its runs show, and what was asked of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import harness.cli.bisect as command
import harness.cli.bisect_step as step_command
from harness.bisect.decide import Mark
from harness.bisect.state import State, load_state
from harness.cli.main import main
from tests.fake.bisect_bench import Paper, commit, install, make_repository

LEAK = "LEAK-HERE"


@dataclass
class Bench:
    """A repository, and bisections of it."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    base: str = ""
    names: list[str] = field(default_factory=list)

    @property
    def tree(self) -> Path:
        return self.folder / "linux"

    def line(self, count: int, first: int, **others: tuple[str, ...]) -> None:
        """``count`` commits upon an import; from ``first`` on they leak.  ``others``: words of single ones, ``n7``."""
        self.base = make_repository(self.tree)
        for number in range(1, count + 1):
            words = others.get(f"n{number}", ())
            leak = (LEAK,) if number >= first else ()
            if words == ("#error",):
                self.names.append(commit(self.tree, number, content="#error planted\n"))
            else:
                self.names.append(commit(self.tree, number, *leak, *words))

    def words(self, *more: str) -> list[str]:
        ends = ("--good", self.base, "--bad", self.names[-1])
        return ["bisect", "smoke", "--tree", str(self.tree), *ends, "--state", str(self.folder / "out"), *more]

    def bisect(self, *more: str, paper: Paper | None = None) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        install(self.folder, paper or Paper())
        code = main(self.words(*more))
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def json(self, *more: str, paper: Paper | None = None) -> dict[str, Any]:
        code, out, err = self.bisect("--json", *more, paper=paper)
        assert out, err
        told: dict[str, Any] = json.loads(out)
        assert told["exit_code"] == code, err
        return told

    @property
    def state(self) -> State:
        return load_state(self.folder / "out")

    def marks(self) -> dict[int, Mark]:
        """Number of the commit to its verdict; both ends left out."""
        inner = self.names[:-1]
        return {inner.index(step.name) + 1: step.mark for step in self.state.steps if step.name in inner}

    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    for module in (command, step_command):
        for name in ("KernelStore", "run_gmem"):
            monkeypatch.setattr(module, name, getattr(module, name))  # put back what install() replaces
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, capsys)
