# SPDX-License-Identifier: GPL-2.0-only
"""Runs tests in forked processes, each of which sees the model with one change.

Two ways to change it.  Where nothing that imports executed the changed line, the function's code is exchanged in a
process that has collected all tests already: that takes milliseconds.  Else a process imports everything afresh, with
the changed module in the place of the file.
"""

from __future__ import annotations

import ast
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from types import CodeType, FunctionType, ModuleType

import pytest

from tests.mutation.mutants import UNCHANGED, Mutant, mutated_tree, spot_of
from tests.mutation.places import EXAMPLES, Places
from tests.mutation.reach import OPTIONS, Test, forget_results

# Processor time of one test as a multiple of what it takes under the tracer, which is slow by itself: more is a loop.
# The least leaves room for a fixture of a module, which whatever test comes first has to make.
SECONDS_FACTOR, SECONDS_LEAST = 3.0, 10.0
IMPORT_SECONDS = 60.0
MEMORY_BYTES = 4 << 30
SURVIVED, KILLED, UNUSED, BROKEN = 0, 1, 98, 99
"""Exit codes: UNUSED when the tests never imported the changed module, BROKEN when pytest itself fell over."""


def preload(examples: int) -> None:
    """Everything that no mutant changes; each search of Hypothesis gets at most so many examples, always the same."""
    import hypothesis
    import msgspec  # noqa: F401
    import numpy  # noqa: F401
    import yaml  # noqa: F401

    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # a failure need not be small
    hypothesis.settings.register_profile("mutation", phases=phases, derandomize=True, database=None, deadline=None)
    hypothesis.settings.load_profile("mutation")
    os.environ[EXAMPLES] = str(examples)  # tests/conftest.py keeps its own profile back
    sys.dont_write_bytecode = True


def silence() -> None:
    """Nothing that this process reads or says is anybody's business."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def fork(work: Callable[[], int]) -> int:
    """A silent process, bounded in memory, that does the work; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = BROKEN
    try:
        silence()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = work()
    finally:
        os._exit(code)


def _allow(seconds: float) -> None:
    """The process is ended by SIGPROF after that much processor time: waiting for others does not count."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


class _Failures:
    """A pytest plugin that notes whether a test failed."""

    seen = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seen = self.seen or report.failed


class Collected:
    """A pytest plugin: collects all tests, then hands itself over instead of running them."""

    def __init__(self, work: Callable[[Collected], None]) -> None:
        self.work = work
        self.items: dict[str, pytest.Item] = {}
        self.failures = _Failures()
        self.functions: dict[tuple[str, str, int], list[FunctionType]] = defaultdict(list)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        session.config.pluginmanager.register(self.failures)
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType):
                code = thing.__code__
                self.functions[code.co_filename, code.co_qualname, code.co_firstlineno].append(thing)
        forget_results()  # of the collection, for it ran the unchanged model
        gc.freeze()  # a fork copies fewer pages
        self.work(self)
        return True

    def exchange(self, mutant: Mutant) -> Callable[[], None] | None:
        """What puts the mutant's code into its function, or None where that is not possible."""
        if mutant.number == UNCHANGED:
            return lambda: None
        spot = spot_of(mutant)
        assert spot.function
        name, line = spot.function
        functions = self.functions.get((str(mutant.file), name, line), [])
        code = _code(compile(mutated_tree(mutant), str(mutant.file), "exec"), name, line)
        if not functions or code is None or any(f.__code__.co_freevars != code.co_freevars for f in functions):
            return None

        def put() -> None:
            for function in functions:
                function.__code__ = code

        return put

    def running(self, put: Callable[[], None], tests: Sequence[Test]) -> Callable[[], int]:
        """What a forked process does."""
        return lambda: self._run(put, tests)

    def _run(self, put: Callable[[], None], tests: Sequence[Test]) -> int:
        """Runs the tests in their order until one fails."""
        put()
        chosen = [(self.items[test.name], test.seconds) for test in tests]
        for number, (item, seconds) in enumerate(chosen):
            following = chosen[number + 1][0] if number + 1 < len(chosen) else None
            _allow(max(SECONDS_LEAST, SECONDS_FACTOR * seconds))
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failures.seen:
                return KILLED
        return SURVIVED


def _code(whole: CodeType, name: str, line: int) -> CodeType | None:
    for constant in whole.co_consts:
        if isinstance(constant, CodeType):
            if (constant.co_qualname, constant.co_firstlineno) == (name, line):
                return constant
            if found := _code(constant, name, line):
                return found
    return None


class _Loader(importlib.abc.Loader):
    def __init__(self, tree: ast.Module, file: str) -> None:
        self.tree, self.file = tree, file

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.tree, self.file, "exec"), module.__dict__)


class _Afresh:
    """A pytest plugin and finder: the one module that is changed, and the tests in their order."""

    def __init__(self, name: str, mutant: Mutant, tests: Sequence[Test]) -> None:
        self.name, self.mutant = name, mutant
        self.order = {test.name: (number, test.seconds) for number, test in enumerate(tests)}
        self.used = False

    def pytest_configure(self) -> None:
        """As late as that: pytest puts a finder of its own in front, which would load the unchanged file."""
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        self.used = True
        file = self.mutant.file
        places = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _Loader(mutated_tree(self.mutant), str(file))
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=places)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order), key=lambda item: self.order[item.nodeid][0]
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        _allow(max(SECONDS_LEAST, SECONDS_FACTOR * self.order[item.nodeid][1]))
        return (yield)


def run_afresh(places: Places, mutant: Mutant, tests: Sequence[Test]) -> int:
    """In a forked process that has not imported the model: imports it changed and runs the tests in their order."""
    _allow(IMPORT_SECONDS)
    os.chdir(places.root)
    plugin = _Afresh(places.module(mutant.file), mutant, tests)
    files = dict.fromkeys(str(places.root / test.name.partition("::")[0]) for test in tests)
    code = int(pytest.main([*OPTIONS, *files], plugins=[plugin]))
    if not plugin.used:
        return UNUSED
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        return KILLED  # the names of parametrized tests come from what the module says
    return code
