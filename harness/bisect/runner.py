# SPDX-License-Identifier: GPL-2.0-only
"""One run of cases on one kernel: ``gmem run`` as a process of its own, with an output directory of its own.

A process, so that whatever ends it ends that attempt and not the bisection, and so that what was run can be run again
by the same words.  It ends with its parent, however that ends (``setpriv --pdeathsig``), and QEMU with it.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import GmemError, InfraError, UsageError
from harness.interruption import INTERRUPTION
from harness.report.store import load
from harness.run.result import CaseResult
from harness.run.verdict import Verdict

RUN_SECONDS = 12 * 3600.0
"""Every wait inside has its own deadline; this one is for a process that ignores them all."""
END_SECONDS = 60.0
"""For a run that is told to end to give its testbed back."""
LOOK_SECONDS = 0.5
OUTPUT = "output.txt"


@dataclass(frozen=True)
class Wanted:
    """What to run: arguments of ``gmem run``."""

    suites: tuple[str, ...]
    expression: str
    repeat: int
    options: tuple[str, ...]

    def words(self, kernel: Path) -> list[str]:
        """The command line without the program and its output directory."""
        return [
            "run",
            *self.suites,
            *("--kernel", str(kernel)),
            *(("-k", self.expression) if self.expression else ()),
            *(("--repeat", str(self.repeat)) if self.repeat != 1 else ()),
            *self.options,
        ]

    def text(self, kernel: Path) -> str:
        """For a shell."""
        return shlex.join(["gmem", *self.words(kernel)])


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    """Exit code of ``gmem run``; negative: the signal that ended it."""
    results: tuple[CaseResult, ...]
    said: str
    """Its last line."""
    seconds: float


Runner = Callable[[Path, Wanted, Path], Ended]
"""Runs on the kernel of that image, into that directory."""


def run_gmem(kernel: Path, wanted: Wanted, out: Path) -> Ended:
    """Raises ``KeyboardInterrupt`` if this process was asked to end, :class:`UsageError` if ``gmem run`` refuses."""
    began = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    output = out.parent / f"{out.name}-{OUTPUT}"
    argv = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "harness.cli.main"]
    argv += [*wanted.words(kernel), "--out", str(out)]
    with output.open("wb") as stream:
        try:
            process = subprocess.Popen(  # a session of its own: it gets one signal to end, not a Ctrl-C and ours
                argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
        except FileNotFoundError:
            raise InfraError("setpriv is not installed: apt-get install util-linux") from None
        with process:
            try:
                code = _wait(process)
            except BaseException:
                _end(process)
                raise
    lines = output.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    said = lines[-1].removeprefix("gmem: ")
    if code == Verdict.USAGE.exit_code:
        raise UsageError(said)
    return Ended(code, tuple(_results(out)), said, time.monotonic() - began)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Its exit code.  Looks now and then whether this process was asked to end: only its main thread gets signals."""
    end = time.monotonic() + RUN_SECONDS
    while time.monotonic() < end:
        INTERRUPTION.check()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(LOOK_SECONDS)
    raise InfraError(f"gmem run did not end within {RUN_SECONDS:.0f} s and was ended")


def _end(process: subprocess.Popen[bytes]) -> None:
    """In order; for good if that takes too long."""
    for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
        if process.poll() is None:
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _results(out: Path) -> Sequence[CaseResult]:
    """What a run left; one that died early has no directory, and that shows in its exit code."""
    try:
        return load(out, notify=lambda _: None)[1]
    except GmemError:
        return ()
