# SPDX-License-Identifier: GPL-2.0-only
"""``gmem bisect`` on a history of a real kernel: 64 commits, one of which leaks a page with each page.

Three times: with nothing in the way; with a commit that does not build and one that does not boot on the way; and with
one run of five whose QEMU is killed.  The first build takes minutes, so it is run by hand:
``pytest -s tests/matrix/test_bisect.py``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.bisect.decide import Mark, Try, decide, in_a_row
from tests.matrix.history import Plan, kept_history

COMMITS = 64
SEED = int(os.environ.get("GMEM_BISECT_SEED", "7"))
LEAK = random.Random(SEED).randrange(2, COMMITS)
SECONDS = 2 * 3600
"""Deadline of one bisection on a machine that has other things to do."""
MOST_BUILDS = 7
"""log2(64) = 6 verdicts, and one to spare."""

pytestmark = [pytest.mark.emulated, pytest.mark.timeout(SECONDS + 1200)]


def way(leak: int, skipped: frozenset[int] = frozenset()) -> list[int]:
    """Numbers of the commits that are tried, as the decision has it, without the ends."""
    names = [str(n) for n in range(COMMITS + 1)]
    marks, bad, tried = {"0": Mark.GOOD}, names[-1], []
    while True:
        goods = [name for name, mark in marks.items() if mark is Mark.GOOD]
        decision = decide(in_a_row(names, bad, goods), bad, marks)
        if not isinstance(decision, Try):
            return tried
        number = int(decision.name)
        tried.append(number)
        marks[decision.name] = Mark.SKIP if number in skipped else Mark.BAD if number >= leak else Mark.GOOD
        bad = decision.name if marks[decision.name] is Mark.BAD else bad


NOT_BUILDING = frozenset(way(LEAK)[:1]) - {LEAK}
SECOND = way(LEAK, NOT_BUILDING)[1]
NOT_BOOTING = frozenset({SECOND, COMMITS - SECOND}) - {LEAK, LEAK - 1}
"""Of two that rule out as many commits git's order is that of their names, which nobody knows before they are made."""


@pytest.fixture(scope="module")
def repository() -> Iterator[Path]:
    """The histories; the import of the source is one, so that the first build is one too.

    ``GMEM_BISECT_HISTORY=DIR`` keeps them, and what was built of them, for the next time.
    """
    plain = Plan("plain", COMMITS, LEAK, SEED)
    broken = Plan("broken", COMMITS, LEAK, SEED, NOT_BUILDING, NOT_BOOTING)
    with kept_history("GMEM_BISECT_HISTORY", plain, broken) as place:
        yield place


def bisect(
    repository: Path, branch: str, out: Path, watch: Callable[[subprocess.Popen[str]], None] = lambda _: None
) -> dict[str, Any]:
    """``gmem bisect`` to its end; what it says goes to the screen, its answer is returned."""
    words = [
        "bisect",
        "smoke",
        "--tree",
        str(repository),
        "--good",
        "base",
        "--bad",
        branch,
        "--out",
        str(out),
        "--json",
    ]
    argv = [sys.executable, "-m", "harness.cli.main", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            watch(process)
            answer, _ = process.communicate(timeout=SECONDS)
        finally:
            process.terminate()
    print((out / "bisect.log").read_text())
    assert process.returncode == 0, answer
    told: dict[str, Any] = json.loads(answer)
    return told


def steps(out: Path) -> list[dict[str, Any]]:
    """What was tried, without both ends."""
    state = json.loads((out / "bisect.json").read_text())
    return [step for step in state["steps"] if step["name"] not in (state["good"], state["bad"])]


def number_of(repository: Path, name: str) -> int:
    """Which commit it is, counted from the import."""
    count = subprocess.run(
        ["git", "-C", str(repository), "rev-list", "--count", f"base..{name}"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return int(count.stdout)


def test_the_commit_is_named_in_seven_builds(repository: Path, tmp_path: Path) -> None:
    told = bisect(repository, "plain", tmp_path / "out")
    assert number_of(repository, told["found"]) == LEAK
    assert told["builds"] <= MOST_BUILDS
    assert told["confidence"] >= 0.95
    assert any(line.startswith("before: unaccounted predicted +0, observed +0") for line in told["lines"]), told[
        "lines"
    ]
    assert any(line.startswith("after:  unaccounted predicted +0, observed +1") for line in told["lines"]), told[
        "lines"
    ]


def test_what_does_not_build_or_boot_is_passed_by(repository: Path, tmp_path: Path) -> None:
    told = bisect(repository, "broken", tmp_path / "out")
    assert number_of(repository, told["found"]) == LEAK
    skipped = {number_of(repository, step["name"]): step["why"] for step in steps(tmp_path / "out")
               if step["mark"] == "skip"}  # fmt: skip
    assert NOT_BUILDING < set(skipped) <= NOT_BUILDING | NOT_BOOTING
    assert all((why == "it does not build") == (number in NOT_BUILDING) for number, why in skipped.items())
    assert len(steps(tmp_path / "out")) <= MOST_BUILDS + len(skipped)


def doomed(seed: int, number: int) -> bool:
    """Whether the machines of the run of that number are killed: one run of five."""
    return random.Random(f"{seed} {number}").random() < 0.2


KILLING_SEED = next(
    seed for seed in range(1000) if doomed(seed, 0) and 2 <= sum(doomed(seed, number) for number in range(8)) <= 3
)
"""Two or three runs of the first eight, the very first one among them; all machines of these."""


@dataclass
class Killer:
    """Kills machines of a bisection from outside, with SIGKILL, up to 0.3 s after they were seen."""

    bisection: int
    seed: int
    runs: list[int] = field(default_factory=list)
    """Process ids of the runs in their order."""
    due: dict[int, float] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    def look(self) -> None:
        """Once over the processes of this machine."""
        for machine, run in self._machines():
            if run not in self.runs:
                self.runs.append(run)
            number = self.runs.index(run)
            if not doomed(self.seed, number):
                continue
            delay = random.Random(f"{self.seed} {number} {len(self.due)}").uniform(0, 0.3)
            if time.monotonic() < self.due.setdefault(machine, time.monotonic() + delay):
                continue
            with suppress(ProcessLookupError):
                os.kill(machine, signal.SIGKILL)
                self.killed.append(f"run {number + 1}: machine {machine} killed")

    def _machines(self) -> Iterator[tuple[int, int]]:
        """Outer QEMUs below the bisection, each with its run."""
        parents: dict[int, int] = {}
        machines: list[int] = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                name, _, rest = (entry / "stat").read_text().rpartition(")")
                state, parent = rest.split()[:2]
                parents[int(entry.name)] = int(parent)
                if "(qemu-system" in name and state != "Z":
                    machines.append(int(entry.name))
        for machine in machines:
            run = parents[machine]
            if parents.get(run) == self.bisection:
                yield machine, run


def test_killed_machines_are_no_verdicts(repository: Path, tmp_path: Path) -> None:
    killers: list[Killer] = []

    def watch(process: subprocess.Popen[str]) -> None:
        killers.append(Killer(process.pid, KILLING_SEED))
        while process.poll() is None:
            killers[0].look()
            time.sleep(0.05)

    told = bisect(repository, "plain", tmp_path / "out", watch)
    [killer] = killers
    print("\n".join(killer.killed))
    assert number_of(repository, told["found"]) == LEAK
    assert told["builds"] <= MOST_BUILDS
    assert len({line.split(":")[0] for line in killer.killed}) >= 2, "machines of two runs were killed"
    state = json.loads((tmp_path / "out" / "bisect.json").read_text())
    words = [answer["word"] for step in state["steps"] for attempt in step["attempts"] for answer in attempt["answers"]]
    assert "infra" in words
