# SPDX-License-Identifier: GPL-2.0-only
"""Which tests each mutant has to face, and how each of them ends.

A mutant is killed when a test fails, when the model no longer imports, or when a test takes many times the processor
time that it takes on the unchanged one.  It faces the tests that execute its line, the cheapest first; where no test
does, it survives at once.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from tests.mutation.child import BROKEN, SURVIVED, UNUSED, Collected, fork, run_afresh, silence
from tests.mutation.mutants import UNCHANGED, Mutant, spot_of
from tests.mutation.places import Places
from tests.mutation.reach import OPTIONS, Reach, Test


@dataclass(frozen=True)
class Result:
    """What became of one mutant: ``how`` is ``killed``, ``timeout``, ``survived`` or ``unseen`` (no test runs it)."""

    mutant: Mutant
    how: str
    seconds: float
    tests: int
    """That it had to face."""

    @property
    def lives(self) -> bool:
        return self.how in ("survived", "unseen")


Facing = list[tuple[Mutant, list[Test]]]
Note = Callable[[Result], None]


@dataclass(frozen=True)
class _Work:
    mutant: Mutant
    tests: Sequence[Test]
    run: Callable[[], int]


def campaign(places: Places, reach: Reach, mutants: Sequence[Mutant], *, jobs: int) -> list[Result]:
    """One result per mutant, printed as they come."""
    results: list[Result] = []

    def note(result: Result) -> None:
        results.append(result)
        mark = result.how.upper() if result.lives else result.how
        told = f"{len(results)}/{len(mutants)} {mark:8} {result.seconds:5.1f} s  {result.tests:4} tests"
        print(f"{told}  {result.mutant}", flush=True)

    exchanged, afresh = _sorted(places, reach, mutants, note)
    if exchanged:
        afresh += _exchange(places, exchanged, jobs, note)
    _import_afresh(places, afresh, jobs, note)
    return results


NEAR = 40
"""Tests whose files are imported first for a mutant that needs it: most mutants get no further."""


def _import_afresh(places: Places, facing: Facing, jobs: int, note: Note) -> None:
    """Each mutant first with the few test files nearest to it, and if it survives those with all of them."""
    left: list[Mutant] = []
    near = []
    for mutant, tests in facing:
        files = {test.name.partition("::")[0] for test in tests[:NEAR]}
        few = [test for test in tests if test.name.partition("::")[0] in files]
        near.append(_Work(mutant, few, _imported(places, mutant, few)))
    _run(near, jobs, lambda result: left.append(result.mutant) if result.lives else note(result))
    everything = dict(facing)
    again = [_Work(mutant, everything[mutant], _imported(places, mutant, everything[mutant])) for mutant in left]
    _run(again, jobs, note)


def _imported(places: Places, mutant: Mutant, tests: Sequence[Test]) -> Callable[[], int]:
    return lambda: run_afresh(places, mutant, tests)


def _sorted(places: Places, reach: Reach, mutants: Sequence[Mutant], note: Note) -> tuple[Facing, Facing]:
    """The mutants whose function can be exchanged, and those that have to be imported, each with its tests."""
    exchanged: Facing = []
    afresh: Facing = []
    for mutant in mutants:  # what importing executes may show anywhere
        spot, file = spot_of(mutant), str(mutant.file.relative_to(places.root))
        if spot.function is None or reach.imports(file, spot.lines):
            afresh.append((mutant, reach.nearest_first(file)))
        elif tests := reach.executing(file, spot.lines):
            exchanged.append((mutant, tests))
        else:
            note(Result(mutant, "unseen", 0.0, 0))
    return exchanged, afresh


def _exchange(places: Places, facing: Facing, jobs: int, note: Note) -> Facing:
    """In a process that collects all tests and forks once per mutant; returns the mutants that need an import."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        code = BROKEN
        try:
            os.close(reading)
            silence()
            with os.fdopen(writing, "wb") as stream:
                code = _collect_and_fork(places, facing, jobs, lambda told: (pickle.dump(told, stream), stream.flush()))
        finally:
            os._exit(code)
    os.close(writing)
    left: Facing = []
    with os.fdopen(reading, "rb") as stream:
        while stream.peek(1):
            told = pickle.load(stream)
            if isinstance(told, Result):
                note(told)
            else:
                left.append(facing[told])
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise SystemExit("the tests cannot be collected: run pytest tests/unit first")
    return left


def _collect_and_fork(places: Places, facing: Facing, jobs: int, tell: Callable[[Result | int], object]) -> int:
    def work(collected: Collected) -> None:
        works = []
        for number, (mutant, tests) in enumerate(facing):
            put = collected.exchange(mutant)
            if put is None:
                tell(number)
            else:
                works.append(_Work(mutant, tests, collected.running(put, tests)))
        _run(works, jobs, tell)

    os.chdir(places.root)
    return int(pytest.main([*OPTIONS, *map(str, places.test_files())], plugins=[Collected(work)]))


def _run(works: Sequence[_Work], jobs: int, note: Callable[[Result], object]) -> None:
    """Each in a process of its own, so many at a time."""
    waiting = list(reversed(works))
    running: dict[int, tuple[_Work, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            work = waiting.pop()
            running[fork(work.run)] = (work, time.monotonic())
        pid, status = os.wait()
        if pid in running:
            work, began = running.pop(pid)
            how = _how(os.waitstatus_to_exitcode(status))
            note(Result(work.mutant, how, time.monotonic() - began, len(work.tests)))


def _how(code: int) -> str:
    if code in (SURVIVED, UNUSED):
        return "survived" if code == SURVIVED else "unseen"
    return "timeout" if code == -signal.SIGPROF else "killed"


def check_unchanged(places: Places, reach: Reach) -> None:
    """Lets the unchanged model face every test in both ways, once; raises SystemExit unless it survives."""
    if reach.survived.exists():
        return
    unchanged = Mutant(places.model / "__init__.py", 0, UNCHANGED, "", "")
    for way, found in (
        ("exchanged", _exchanged_unchanged(places, reach, unchanged)),
        ("imported", _imported_unchanged(places, reach, unchanged)),
    ):
        if [result.how for result in found] != ["survived"]:
            raise SystemExit(f"the unchanged model does not survive its tests when it is {way}: {found}")
    reach.survived.touch()


def _exchanged_unchanged(places: Places, reach: Reach, unchanged: Mutant) -> list[Result]:
    results: list[Result] = []
    _exchange(places, [(unchanged, reach.tests)], 1, results.append)
    return results


def _imported_unchanged(places: Places, reach: Reach, unchanged: Mutant) -> list[Result]:
    results: list[Result] = []
    _run([_Work(unchanged, reach.tests, _imported(places, unchanged, reach.tests))], 1, results.append)
    return results
