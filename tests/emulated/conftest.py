# SPDX-License-Identifier: GPL-2.0-only
"""What the tests on the emulated host share: ``gmem`` as a process, and a lab with a saved testbed.

They run on the default kernel of kernels.yaml, fetched and built on the first run.  Nothing here skips: a machine that
cannot run them fails them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.report.store import OutDir
from harness.run.options import RunOptions
from harness.run.session import Ready, Session

RUN_SECONDS = 900
"""Deadline for one ``gmem run``; the longest one builds a kernel."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder boots the emulated host."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.emulated)
            item.add_marker(pytest.mark.timeout(RUN_SECONDS))


@dataclass
class Ended:
    """How a ``gmem run`` ended."""

    code: int
    out: Path
    stdout: str
    stderr: str

    @property
    def info(self) -> dict[str, Any]:
        """run.json."""
        return json.loads((self.out / "run.json").read_text())

    @property
    def cases(self) -> list[dict[str, Any]]:
        """results.jsonl."""
        return [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]

    def case(self, name: str) -> dict[str, Any]:
        """The result of one case."""
        return next(case for case in self.cases if case["case"] == name)

    def findings(self) -> list[dict[str, Any]]:
        """Every finding that did not pass, over all cases."""
        return [
            finding
            for case in self.cases
            for step in case["steps"]
            for finding in step["findings"]
            if finding["verdict"] not in ("pass", "skip")
        ]

    def said(self) -> str:
        """All sentences and messages of cases that did not pass."""
        words = [case["sentence"] for case in self.cases if case["verdict"] != "pass"]
        words += [message for case in self.cases for step in case["steps"] for message in step["messages"]]
        return "\n".join(words)


class Gmem:
    """Runs the command, with a directory for temporary files of its own: what it leaves there is a leak."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scratch = Path(tempfile.mkdtemp(prefix="gt-"))  # short: Unix sockets live below it
        self._runs = 0

    def start(self, *arguments: str, command: str = "run") -> tuple[subprocess.Popen[str], Path]:
        """Start ``gmem run`` (or another command) with an output directory; returns the process and that directory."""
        self._runs += 1
        out = self.folder / f"out{self._runs}"
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.cli.main", command, "--out", str(out), *arguments],
            env={**os.environ, "TMPDIR": str(self.scratch)},
            cwd=self.folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return process, out

    def run(self, *arguments: str, command: str = "run") -> Ended:
        """``gmem run`` (or another command) to its end."""
        process, out = self.start(*arguments, command=command)
        stdout, stderr = process.communicate(timeout=RUN_SECONDS)
        return Ended(process.returncode, out, stdout, stderr)

    def left_behind(self, seconds: float = 10.0) -> list[str]:
        """Files and processes of its runs that are still there after at most ``seconds``."""
        end = time.monotonic() + seconds
        while True:
            left = [str(path) for path in self.scratch.iterdir()] + self.processes()
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.1)

    def processes(self, word: str = "") -> list[str]:
        """``pid command`` of processes that name our directory of temporary files (and ``word``)."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.scratch) in command and word in command:
                found.append(f"{entry.name} {command}")
        return found


@pytest.fixture
def gmem_cli(tmp_path: Path) -> Iterator[Gmem]:
    """The command ``gmem run``."""
    gmem = Gmem(tmp_path)
    yield gmem
    shutil.rmtree(gmem.scratch, ignore_errors=True)


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A session on the default kernel, in this process."""
    out = OutDir.create(tmp_path_factory.mktemp("session") / "out")
    return Session(RunOptions(), evidence=out.evidence, relative=out.relative, notice=print)


@pytest.fixture(scope="session")
def ready(session: Session) -> Ready:
    """The saved testbed with one guest."""
    return session.ready(session.spec(guests=1, chunks=8))
