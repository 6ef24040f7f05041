# SPDX-License-Identifier: GPL-2.0-only
"""Every cell one time: a change for each kernel is sent to the master, and what it starts is waited for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from harness.bisect.git import Repository, reason, try_git
from harness.errors import InfraError, UsageError
from harness.nightly.matrix import Cell, Matrix
from harness.nightly.place import Place
from harness.nightly.rest import Pages
from harness.nightly.told import Told, read_told
from harness.run.verdict import Verdict, worst

_Answer = TypeVar("_Answer")
SEND_SECONDS: Final = 60.0
START_SECONDS: Final = 120.0
"""Until the master has made jobs of what was sent; measured below 1 s."""
ANSWER_SECONDS: Final = 180.0
"""For a master that died and is started again to answer."""
REMOTE_SECONDS: Final = 120.0
LOOK_SECONDS: Final = 1.0
SPARE_HOURS: Final = 1.0


class Once:
    """One round through the matrix on a running master."""

    def __init__(self, place: Place, matrix: Matrix, pages: Pages, note: Callable[[str], None]) -> None:
        self._place = place
        self._matrix = matrix
        self._pages = pages
        self._note = note
        self._before: dict[Cell, Told | None] = {}

    def run(self, tend: Callable[[], None]) -> dict[Cell, Told | None]:
        """Every cell with what its job ended with, None where it was stopped.  ``tend`` is called while waiting."""
        cells = self._matrix.cells()
        changes = [self._change(kernel) for kernel in self._matrix.kernels if any(c.kernel == kernel for c in cells)]
        self._before = {cell: read_told(self._place, cell.key) for cell in cells}
        newest = self._answer(self._pages.newest_buildset, tend)
        self._send(changes)
        self._until_started(newest, {(change["branch"], change["revision"]) for change in changes}, tend)
        self._until_done(cells, tend)
        return self._new(cells)

    def _change(self, kernel: str) -> dict[str, str]:
        """What is sent: the tip of a branch, or this moment for a kernel that is no branch."""
        entry = self._matrix.kernels[kernel]
        if not entry.git:
            moment = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
            return {"category": kernel, "branch": kernel, "revision": moment, "comments": f"{kernel}, {moment}"}
        commit = tip(entry.git, entry.branch)
        return {
            "category": kernel,
            "branch": entry.branch,
            "repository": entry.git,
            "revision": commit,
            "comments": f"{kernel} at {commit[:12]}",
        }

    def _send(self, changes: list[dict[str, str]]) -> None:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "harness.nightly.send", str(self._place.path)],
                input=json.dumps(changes), capture_output=True, text=True, timeout=SEND_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise InfraError(f"the master did not take the changes within {SEND_SECONDS:.0f} s") from None
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise InfraError(f"the master did not take the changes: {lines[-1]}")

    def _until_started(self, newest: int, sent: set[tuple[str, str]], tend: Callable[[], None]) -> None:
        end = time.monotonic() + START_SECONDS
        while not sent <= self._answer(lambda: self._pages.asked_since(newest), tend):
            if time.monotonic() > end:
                raise InfraError(f"the master made no jobs of the changes within {START_SECONDS:.0f} s")
            tend()
            time.sleep(LOOK_SECONDS)

    def _until_done(self, cells: tuple[Cell, ...], tend: Callable[[], None]) -> None:
        """Until nothing waits or runs, bisections neither."""
        end = time.monotonic() + 3600 * self._hours(cells)
        said: set[Cell] = set()
        while True:
            tend()
            waiting = self._answer(self._pages.waiting, tend)
            for cell, told in self._new(cells).items():
                if told is not None and cell not in said:
                    said.add(cell)
                    self._note(f"{cell}: {told.verdict.value} after {told.seconds:.0f} s{_tries(told)}")
            if not waiting:
                return
            if time.monotonic() > end:
                raise InfraError(f"{waiting} jobs had not ended within {self._hours(cells):.0f} hours")
            time.sleep(LOOK_SECONDS)

    def _answer(self, question: Callable[[], _Answer], tend: Callable[[], None]) -> _Answer:
        """Asked again for a while when there is none: the master is busy, or was started again."""
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                return question()
            except InfraError:
                if time.monotonic() > end:
                    raise
            tend()
            time.sleep(LOOK_SECONDS)

    def _hours(self, cells: tuple[Cell, ...]) -> float:
        """What all jobs of one host may take, one after the other and each as often as it may; a bisection beside."""
        most = max(sum(cell.host == host for cell in cells) for host in self._matrix.hosts)
        return most * self._matrix.hours * 2 * (self._matrix.retries + 1) + 48 * self._matrix.bisect + SPARE_HOURS

    def _new(self, cells: tuple[Cell, ...]) -> dict[Cell, Told | None]:
        found = {cell: read_told(self._place, cell.key) for cell in cells}
        return {cell: None if told == self._before[cell] else told for cell, told in found.items()}


def tip(repository: str, branch: str) -> str:
    """The commit of a branch, of a tree here or elsewhere; raises :class:`UsageError` if there is no such branch."""
    if repository.startswith("/"):
        return Repository(Path(repository)).commit(f"refs/heads/{branch}", f"branch {branch}:")
    words = ("ls-remote", "--exit-code", "--", repository, f"refs/heads/{branch}")
    done = try_git(Path("/"), *words, timeout=REMOTE_SECONDS)
    if done.returncode == 2:
        raise UsageError(f"{repository} has no branch {branch}")
    if done.returncode != 0:
        raise InfraError(f"{repository} cannot be asked: {reason(done)}")
    return done.stdout.split()[0]


def verdict(found: dict[Cell, Told | None]) -> Verdict:
    """The worst; a job that was stopped is ``interrupted``."""
    return worst(told.verdict if told is not None else Verdict.INTERRUPTED for told in found.values())


def _tries(told: Told) -> str:
    return f", try {told.tries}" if told.tries > 1 else ""
