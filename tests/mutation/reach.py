# SPDX-License-Identifier: GPL-2.0-only
"""Which test executes which lines of the model, measured once on the unchanged model and kept by content.

What a test executes is what it executes by itself: results that the model or a test keeps (``functools.cache``) are
forgotten before each one, and what a fixture of a wider scope executes counts for every test that uses the fixture.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.cache import cache_root
from tests.mutation.places import Places

OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:gmem", "--capture=sys")
Lines = dict[str, frozenset[int]]


@dataclass(frozen=True)
class Test:
    """One test: pytest's name of it, its seconds under the tracer, whether it searches (Hypothesis), its lines."""

    __test__ = False
    name: str
    seconds: float
    searches: bool
    lines: Lines


class Reach:
    """What all tests execute; ``tests`` has the cheapest first, and searches after all tables."""

    def __init__(self, tests: Iterable[Test], at_import: Lines, survived: Path) -> None:
        self.survived = survived
        """A file that is there once the unchanged model has survived these tests in a campaign's own ways."""
        self.tests = sorted(tests, key=lambda test: (test.searches, test.seconds, test.name))
        self.at_import = at_import

    def executing(self, file: str, lines: range) -> list[Test]:
        """The tests that execute one of these lines."""
        return [test for test in self.tests if not test.lines.get(file, frozenset()).isdisjoint(lines)]

    def nearest_first(self, file: str) -> list[Test]:
        """All tests, those that execute something of the file first."""
        return sorted(self.tests, key=lambda test: (test.searches, not test.lines.get(file), test.seconds))

    def imports(self, file: str, lines: range) -> bool:
        """Whether importing the model or the tests executes one of these lines."""
        return not self.at_import.get(file, frozenset()).isdisjoint(lines)


def forget_results() -> list[Any]:
    """Every ``functools.cache`` there is, emptied."""
    kept = [thing for thing in gc.get_objects() if isinstance(thing, functools._lru_cache_wrapper)]
    for cache in kept:
        cache.cache_clear()
    return kept


class _Recorder:
    """A pytest plugin: the lines of the model by test, from the import on."""

    def __init__(self, places: Places) -> None:
        import coverage

        self.places = places
        self.coverage = coverage.Coverage(data_file=None, config_file=False, include=[f"{places.model}/*"])
        self.now = ""
        self.caches: list[Any] = []
        self.items: list[tuple[pytest.Item, float]] = []

    def _context(self, name: str) -> None:
        self.now = name
        self.coverage.switch_context(name)

    def pytest_collection_finish(self) -> None:
        self.caches = forget_results()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        for cache in self.caches:
            cache.cache_clear()
        self._context(item.nodeid)
        began = time.process_time()
        result = yield
        self.items.append((item, time.process_time() - began))
        self._context("")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        before = self.now
        self._context(f"fixture {fixturedef.argname}")
        try:
            return (yield)
        finally:
            self._context(before)

    def lines(self) -> dict[str, dict[str, set[int]]]:
        """By context and file; the context of imports is empty."""
        found: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        data = self.coverage.get_data()
        for file in data.measured_files():
            for line, contexts in data.contexts_by_lineno(file).items():
                for context in contexts:
                    found[context][str(Path(file).relative_to(self.places.root))].add(line)
        return found

    def tests(self) -> Generator[dict[str, Any], None, None]:
        """One record per test; one that executes nothing of the model may still read its constants."""
        lines = self.lines()
        for item, seconds in self.items:
            own: dict[str, set[int]] = defaultdict(set)
            for context in (item.nodeid, *(f"fixture {name}" for name in getattr(item, "fixturenames", ()))):
                for file, executed in lines.get(context, {}).items():
                    own[file] |= executed
            searches = bool(getattr(getattr(item, "obj", None), "is_hypothesis_test", False))
            by_file = {file: sorted(executed) for file, executed in own.items()}
            yield {"name": item.nodeid, "seconds": round(seconds, 4), "searches": searches, "lines": by_file}


def _measure(places: Places, files: list[Path], folder: Path) -> int:
    """In a process of its own: writes a record per test file; returns pytest's exit code."""
    recorder = _Recorder(places)
    os.chdir(places.root)
    recorder.coverage.start()
    code = int(pytest.main([*OPTIONS, *map(str, files)], plugins=[recorder]))
    recorder.coverage.stop()
    if code:
        return code
    at_import = {file: sorted(lines) for file, lines in recorder.lines().get("", {}).items()}
    tests = list(recorder.tests())
    for file in files:
        own = [test for test in tests if Path(test["name"].partition("::")[0]).name == file.name]
        (folder / f"{places.key(file)}.json").write_text(json.dumps({"at_import": at_import, "tests": own}))
    return 0


def measured(places: Places, folder: Path | None = None) -> Reach:
    """What the tests execute, from records that still hold and measurements where there is none.

    Raises SystemExit when tests of the unchanged model fail.
    """
    folder = folder or cache_root() / "mutation"
    folder.mkdir(parents=True, exist_ok=True)
    files = places.test_files()
    records = {file: folder / f"{places.key(file)}.json" for file in files}
    missing = [file for file in files if not records[file].is_file()]
    if missing:
        print(f"measuring which lines the tests of {len(missing)} files execute", flush=True)
        pid = os.fork()
        if not pid:
            os._exit(_measure(places, missing, folder))
        if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise SystemExit(f"the tests of the unchanged model fail (pytest ended with {code})")
    tests: list[Test] = []
    at_import: dict[str, set[int]] = defaultdict(set)
    for path in records.values():
        record = json.loads(path.read_text())
        for name, lines in record["at_import"].items():
            at_import[name] |= set(lines)
        tests += [
            Test(test["name"], test["seconds"], test["searches"], {f: frozenset(n) for f, n in test["lines"].items()})
            for test in record["tests"]
        ]
    whole = hashlib.sha256("".join(sorted(path.name for path in records.values())).encode()).hexdigest()[:32]
    return Reach(tests, {file: frozenset(lines) for file, lines in at_import.items()}, folder / f"{whole}.survived")
