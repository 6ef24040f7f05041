# SPDX-License-Identifier: GPL-2.0-only
"""``gmem nightly once`` with real kernels: a real Buildbot master, a worker for each of two emulated hosts, real runs.

Kernels are fetched and built at first, so it is run by hand: ``pytest -s tests/matrix/test_nightly.py``.
``GMEM_NIGHTLY_HISTORY=DIR`` keeps the git history that has the planted leak, and with it what was built of it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.nightly.leftovers import marked
from tests.fake.history_bench import postgres
from tests.matrix.history import LEAK, Plan, kept_history

SECONDS = 2 * 3600
"""Deadline of one ``gmem nightly once``; the first one fetches and builds kernels."""
COMMITS, LEAKING, SEED = 3, 2, 5
HOSTS = ("a", "b")
GMEM = (sys.executable, "-m", "harness.cli.main")

pytestmark = [pytest.mark.emulated, pytest.mark.timeout(SECONDS + 1200)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With two emulated hosts."""
    for name in HOSTS:
        text = f"schema: 1\nname: {name}\ntransport: emulated\ntee: [sw-protected]\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def matrix(folder: Path, kernels: str, more: str = "") -> Path:
    """A file with those kernels, both hosts, and the smallest suite there is."""
    hosts = "".join(f"  {name}: {{host: ./{name}.yaml}}\n" for name in HOSTS)
    path = folder / "matrix.yaml"
    path.write_text(
        f"schema: 1\nkernels:\n{kernels}hosts:\n{hosts}suites:\n  quick: {{run: [smoke], cases: one_page}}\n{more}"
    )
    return path


class Once:
    """A ``gmem nightly once`` that goes on."""

    def __init__(self, config: Path, state: Path) -> None:
        self.state = state
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*GMEM, "nightly", "once", "--config", str(config), "--state", str(state), "--json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self, what: str) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
        """Exit code, and the cells by kernel and host; nothing may be left."""
        with self.process:
            stdout = self.process.communicate(timeout=SECONDS)[0]
        print(f"\n{what}: {time.monotonic() - self.began:.0f} s")
        assert marked(self.state) == []
        cells = json.loads(stdout)["cells"]
        for cell in cells:
            told = cell["told"]
            print(
                f"  {cell['kernel']} on {cell['host']}: {told['verdict']}, {told['seconds']:.0f} s, try {told['tries']}"
            )
        return self.process.returncode, {(cell["kernel"], cell["host"]): cell for cell in cells}

    def until(self, what: Callable[[], Any]) -> Any:
        """Waits for something while it goes on."""
        end = time.monotonic() + SECONDS
        while not (found := what()):
            assert self.process.poll() is None, "it ended"
            assert time.monotonic() < end
            time.sleep(0.1)
        return found


def whole(cell: dict[str, Any]) -> None:
    """Its run has an end, a result and a report."""
    run = Path(cell["told"]["folder"])
    assert json.loads((run / "run.json").read_text())["verdict"] == cell["told"]["verdict"]
    assert (run / "results.jsonl").read_text().strip()
    assert (run / "report.html").is_file()


def run_of(state: Path, cell: str) -> int | None:
    """The process of a cell's ``gmem run``: a child of a worker."""
    for process in marked(state):
        try:
            words = command(process.pid)
            its_own = "run" in words and any(f"/{cell}_" in word for word in words)
            if its_own and "twistd" in command(parent(process.pid))[1]:
                return process.pid
        except (OSError, IndexError):
            continue  # it ended meanwhile
    return None


def command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def has_machine(state: Path) -> bool:
    return any("qemu-system" in process.command for process in marked(state))


def get(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=120) as answer:
        return answer.read().decode()


def test_two_kernels_on_two_hosts_and_a_worker_that_is_killed(folder: Path) -> None:
    once = Once(matrix(folder, '  "7.3":\n  "6.12":\n'), folder / "state")
    pid = once.until(lambda: run_of(once.state, "7.3_a"))
    once.until(lambda: has_machine(once.state))
    port = json.loads((once.state / "settings.json").read_text())["web_port"]
    url = f"http://127.0.0.1:{port}/"
    assert "grid_view" in get(url)
    assert "/grid" in get(f"{url}plugins/grid_view/scripts.js")
    os.kill(parent(pid), signal.SIGKILL)
    rows = json.loads(get(f"{url}api/v2/changes"))["changes"]
    assert {change["branch"] for change in rows} == {"7.3", "6.12"}, "a row of the grid for each kernel"
    code, cells = once.end("2 kernels on 2 hosts, one worker killed")
    assert code == 0
    assert len(cells) == 4
    for cell in cells.values():
        assert cell["told"]["verdict"] == "pass"
        whole(cell)
    assert cells["7.3", "a"]["told"]["tries"] == 2
    attempts = sorted(path.name for path in (once.state / "results" / "7.3_a_snp-stand-in_quick").iterdir())
    assert [name[-1] for name in attempts] == ["1", "2"]


def test_the_same_with_postgresql(folder: Path) -> None:
    with postgres() as url:
        config = matrix(folder, '  "7.3":\n  "6.12":\n', f'database: "{url}"\n')
        code, cells = Once(config, folder / "state").end("2 kernels on 2 hosts, PostgreSQL")
        assert code == 0
        for cell in cells.values():
            whole(cell)
        import psycopg

        with psycopg.connect(url) as connection:
            builds = connection.execute("SELECT results FROM builds").fetchall()
            runs = connection.execute("SELECT host, kernel, verdict FROM gmem_runs").fetchall()
        assert builds == [(0,)] * 4
        assert sorted(runs) == sorted((host, kernel, "pass") for host in HOSTS for kernel in ("7.3", "6.12"))
        assert not (folder / "state" / "master" / "state.sqlite").exists()


@pytest.fixture
def repository() -> Iterator[Path]:
    """A git history of a real kernel whose branch ``topic`` has a planted leak; ``next`` is what nights test."""
    with kept_history("GMEM_NIGHTLY_HISTORY", Plan("topic", COMMITS, LEAKING, SEED)) as place:
        yield place


def git(repository: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *words], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def test_a_regression_is_bisected(folder: Path, repository: Path) -> None:
    config = matrix(folder, f"  next: {{git: {repository}, branch: next}}\n")
    state = folder / "state"
    git(repository, "branch", "--force", "next", "base")
    code, cells = Once(config, state).end("a good commit on 2 hosts")
    assert code == 0
    assert {cell["told"]["commit"] for cell in cells.values()} == {git(repository, "rev-parse", "base")}
    git(repository, "branch", "--force", "next", "topic")
    code, cells = Once(config, state).end(f"{COMMITS} commits later, with {LEAK.name}, and its bisection")
    assert code == 1
    culprit = git(repository, "rev-parse", f"topic~{COMMITS - LEAKING}")
    for cell in cells.values():
        assert cell["told"]["verdict"] == "deviates"
        whole(cell)
        assert cell["bisection"]["found"] == culprit
    assert len(list((state / "bisections").iterdir())) == 1, "the same commits on two hosts are bisected once"
    sentence = cells["next", "a"]["bisection"]["sentence"]
    print(f"  {sentence}")
    assert re.search(culprit[:12], sentence)
