# SPDX-License-Identifier: GPL-2.0-only
"""Runs the model's tests against mutants, each in a forked process that sees one changed module.

A mutant is killed when a test fails, when the model no longer imports, or when it takes several times as long as the
unchanged one.  Forking saves the imports: what does not change (pytest, Hypothesis, numpy) is loaded once.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.mutation.mutants import Mutant, mutated_tree

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "harness" / "model"
TESTS = ROOT / "tests" / "unit"
SURVIVED, NO_TESTS = 0, 5
UNUSED = 98
"""Exit code of a child whose tests never imported the changed module: its verdict would be worth nothing."""


@dataclass(frozen=True)
class Result:
    """What became of one mutant: ``how`` is ``killed``, ``timeout`` or ``survived``."""

    mutant: Mutant
    how: str
    seconds: float


def tests_for(file: Path) -> list[str]:
    """The test files that speak of a module of the model: those of its package, narrow tables before wide searches."""
    package = file.relative_to(MODEL).parts[0] if file.parent != MODEL else "model"
    found = sorted(TESTS.glob(f"test_{package}_*.py"))
    if not found:
        raise SystemExit(f"no test file tests/unit/test_{package}_*.py for {file.name}")
    chosen = [path for path in found if path.name != "test_model_mutants.py"]  # it has a list of its own
    return [str(path) for path in sorted(chosen, key=lambda path: ("propert" in path.name, path.name))]


class _Loader(importlib.abc.Loader):
    def __init__(self, tree: ast.Module, file: Path) -> None:
        self.tree, self.file = tree, file

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.tree, str(self.file), "exec"), module.__dict__)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module that is changed."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = ".".join(mutant.file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        self.mutant = mutant
        self.used = False

    def pytest_configure(self) -> None:
        """As late as that: pytest puts a finder of its own in front, which would load the unchanged file."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        self.used = True
        loader = _Loader(mutated_tree(self.mutant), self.mutant.file)
        places = [str(self.mutant.file.parent)] if self.mutant.file.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            fullname, self.mutant.file, loader=loader, submodule_search_locations=places
        )


def preload() -> None:
    """Everything that no mutant changes."""
    import hypothesis
    import msgspec  # noqa: F401
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import yaml  # noqa: F401

    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # a failure need not be small
    hypothesis.settings.register_profile("mutation", phases=phases, derandomize=True, database=None, deadline=None)
    hypothesis.settings.load_profile("mutation")
    os.environ["GMEM_MUTATION"] = "1"  # tests/conftest.py keeps its own profile back
    sys.dont_write_bytecode = True


def _child(mutant: Mutant | None, tests: list[str]) -> int:
    """Runs in the forked process; returns pytest's exit code."""
    import pytest

    os.setpgid(0, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.chdir(ROOT)
    finder = _Finder(mutant) if mutant is not None else None
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:gmem"]
    code = int(pytest.main([*options, *tests], plugins=[finder] if finder else []))
    return UNUSED if finder and not finder.used else code


def start(mutant: Mutant | None, tests: list[str]) -> int:
    """Forks a process that runs tests on one mutant, or on the unchanged model for None; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        code = _child(mutant, tests)
    finally:
        os._exit(code)


def campaign(mutants: Sequence[Mutant], *, jobs: int, deadline: float) -> list[Result]:
    """The results in the order of finishing; ``deadline`` in seconds for one mutant."""
    waiting = list(reversed(mutants))
    running: dict[int, tuple[Mutant, float]] = {}
    results: list[Result] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            running[start(mutant, tests_for(mutant.file))] = (mutant, time.monotonic())
        pid, status = os.waitpid(-1, os.WNOHANG)
        now = time.monotonic()
        if pid in running:
            mutant, began = running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code in (NO_TESTS, UNUSED):
                raise SystemExit(f"no test of {', '.join(tests_for(mutant.file))} imports {mutant.file.name}")
            results.append(Result(mutant, "survived" if code == SURVIVED else "killed", now - began))
            print_one(results[-1], len(results), len(mutants))
            continue
        for late in [pid for pid, (_, began) in running.items() if now - began > deadline]:
            mutant, began = running.pop(late)
            os.killpg(late, signal.SIGKILL)
            os.waitpid(late, 0)
            results.append(Result(mutant, "timeout", now - began))
            print_one(results[-1], len(results), len(mutants))
        time.sleep(0.02)
    return results


def print_one(result: Result, done: int, total: int) -> None:
    """One line per mutant, survivors marked so that they are found in a log."""
    mark = "SURVIVED" if result.how == "survived" else result.how
    print(f"{done}/{total} {mark:8} {result.seconds:5.1f} s  {result.mutant}", flush=True)
