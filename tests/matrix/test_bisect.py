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
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.bisect.checkout import Checkout
from harness.bisect.decide import Mark, Try, decide, in_a_row
from harness.bisect.git import Repository
from harness.cache import ContentCache
from harness.host.emulated.machine import QEMU
from harness.kernel.sites import TreeSite
from harness.kernel.usertree import read_tree
from tests.matrix.history import Plan, make_history

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
    kept = os.environ.get("GMEM_BISECT_HISTORY")
    scratch = Path(kept or tempfile.mkdtemp(prefix="gmem-history-"))
    place = scratch / "linux"
    make_history(
        place,
        [Plan("plain", COMMITS, LEAK, SEED), Plan("broken", COMMITS, LEAK, SEED + 1, NOT_BUILDING, NOT_BOOTING)],
    )
    yield place
    if kept:
        return
    cache = ContentCache()
    checkout = Checkout(cache, Repository(place))
    if checkout.path.is_dir():
        shutil.rmtree(TreeSite(cache, read_tree(checkout.path)).folder, ignore_errors=True)
    checkout.remove()
    shutil.rmtree(scratch)


def bisect(repository: Path, branch: str, out: Path, path: str = "") -> dict[str, Any]:
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
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli.main", *words],
        env={**os.environ, "PATH": path or os.environ["PATH"]},
        stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    told: dict[str, Any] = json.loads(done.stdout)
    print((out / "bisect.log").read_text())
    return told


def steps(out: Path) -> list[dict[str, Any]]:
    """What was tried, without both ends."""
    state = json.loads((out / "bisect.json").read_text())
    return [step for step in state["steps"] if step["name"] not in (state["good"], state["bad"])]


def number_of(repository: Path, branch: str, name: str) -> int:
    count = subprocess.run(
        ["git", "-C", str(repository), "rev-list", "--count", f"base..{name}"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert branch
    return int(count.stdout)


def test_the_commit_is_named_in_seven_builds(repository: Path, tmp_path: Path) -> None:
    told = bisect(repository, "plain", tmp_path / "out")
    assert number_of(repository, "plain", told["found"]) == LEAK
    assert len(steps(tmp_path / "out")) <= MOST_BUILDS
    assert told["confidence"] >= 0.95
    assert any(line.startswith("after:  ") and "enter" in line for line in told["lines"]), told["lines"]


def test_what_does_not_build_or_boot_is_passed_by(repository: Path, tmp_path: Path) -> None:
    told = bisect(repository, "broken", tmp_path / "out")
    assert number_of(repository, "broken", told["found"]) == LEAK
    skipped = {number_of(repository, "broken", step["name"]): step["why"] for step in steps(tmp_path / "out")
               if step["mark"] == "skip"}  # fmt: skip
    assert NOT_BUILDING < set(skipped) <= NOT_BUILDING | NOT_BOOTING
    assert all((why == "it does not build") == (number in NOT_BUILDING) for number, why in skipped.items())
    assert len(steps(tmp_path / "out")) <= MOST_BUILDS + len(skipped)


KILLER = """\
#!{python}
# Stands before QEMU: in one run of five, which its number and the seed choose, every machine is killed.
import fcntl, json, os, random, sys, time
words = sys.argv[1:]
if "-pidfile" in words:
    with open("{folder}/runs.json", "a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        runs = json.loads(stream.read() or "[]")
        mine = os.getppid()
        if mine not in runs:
            runs.append(mine)
            stream.truncate(0)
            stream.write(json.dumps(runs))
        number = runs.index(mine)
    draw = random.Random("{seed} %d" % number)
    if draw.random() < 0.2:
        me, seconds = os.getpid(), draw.uniform(0.5, 4.0)
        if os.fork() == 0:
            os.setsid()
            time.sleep(seconds)
            try:
                if b"gmem-emulated-host" in open("/proc/%d/cmdline" % me, "rb").read():
                    os.kill(me, 9)
                    with open("{folder}/killed", "a") as log:
                        log.write("run %d after %.1f s\\n" % (number, seconds))
            except OSError:
                pass
            os._exit(0)
os.execv("{qemu}", ["{qemu}", *words])
"""


def kills(seed: int, runs: int) -> list[int]:
    """Numbers of the runs, of so many, whose machines are killed."""
    return [number for number in range(runs) if random.Random(f"{seed} {number}").random() < 0.2]


KILLING_SEED = next(seed for seed in range(1000) if len(kills(seed, 8)) >= 2 and 0 in kills(seed, 8))
"""Two runs of the first eight, the very first one among them."""


def test_killed_machines_are_no_verdicts(repository: Path, tmp_path: Path) -> None:
    real = shutil.which(QEMU)
    assert real
    place = tmp_path / "bin"
    place.mkdir()
    wrapper = place / QEMU
    wrapper.write_text(KILLER.format(python=sys.executable, folder=tmp_path, seed=KILLING_SEED, qemu=real))
    wrapper.chmod(0o755)
    told = bisect(repository, "plain", tmp_path / "out", f"{place}:{os.environ['PATH']}")
    killed = (tmp_path / "killed").read_text()
    print(killed)
    assert number_of(repository, "plain", told["found"]) == LEAK
    assert len(steps(tmp_path / "out")) <= MOST_BUILDS
    assert killed.count("run ") >= 2
    state = json.loads((tmp_path / "out" / "bisect.json").read_text())
    words = [answer["word"] for step in state["steps"] for attempt in step["attempts"] for answer in attempt["answers"]]
    assert "infra" in words
