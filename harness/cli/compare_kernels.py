# SPDX-License-Identifier: GPL-2.0-only
"""Two kernels compared in one go: the same cases on both, in turns, so that both meet the same machine.

Each turn is a ``gmem run`` of its own.  The order alternates (A B, B A, A B, ...): what makes the machine slower over
time makes neither kernel look slower.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.errors import GmemError, InfraError, NoBootError, NothingRanError, UsageError
from harness.report.store import RUN, load
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict

END_SECONDS = 60.0
"""How long a run that is told to end may take to give its testbed back."""
_ERRORS: tuple[type[GmemError], ...] = (UsageError, NoBootError, NothingRanError)


@dataclass(frozen=True)
class Side:
    """One of the two kernels."""

    letter: str
    kernel: str | None
    patches: tuple[Path, ...] = ()

    def arguments(self) -> list[str]:
        """For ``gmem run``."""
        kernel = ["--kernel", self.kernel] if self.kernel else []
        return [*kernel, *(word for patch in self.patches for word in ("--patch", str(patch)))]


def sides(kernels: Sequence[str], patches_b: Sequence[str]) -> tuple[Side, Side]:
    """A and B; raises ``UsageError`` for what does not make two."""
    if len(kernels) > 2:
        raise UsageError(f"--kernel was given {len(kernels)} times: it names A and then B")
    if len(kernels) < 2 and not patches_b:
        raise UsageError("A and B would be the same kernel: give --kernel twice, or --patch-b with what B has besides")
    first = kernels[0] if kernels else None
    return Side("a", first), Side("b", kernels[-1] if kernels else None, tuple(map(Path, patches_b)))


def turns(pair: tuple[Side, Side], rounds: int) -> list[tuple[int, Side]]:
    """Which kernel's turn it is, with the number of the round.

    >>> [f"{side.letter}{number}" for number, side in turns((Side("a", None), Side("b", None)), 2)]
    ['a1', 'b1', 'b2', 'a2']
    """
    found = []
    for number in range(1, rounds + 1):
        found += [(number, side) for side in (pair if number % 2 else reversed(pair))]
    return found


def run_turn(side: Side, words: Sequence[str], out: Path, notice: Callable[[str], None]) -> None:
    """One ``gmem run``, whatever its verdict; raises the error of one that came to no results."""
    command = [sys.executable, "-m", "harness.cli.main", "run", *side.arguments(), "--out", str(out), *words]
    command = ["setpriv", "--pdeathsig", "TERM", "--", *command]  # it ends in order when this process is killed
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            printed, complained = process.communicate()
        except BaseException:
            process.terminate()  # after Ctrl-C it has had the signal as well, and knows what to do with two
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            raise
    said = _last(printed + complained)
    if process.returncode == Verdict.INTERRUPTED.exit_code:
        raise KeyboardInterrupt
    kind = next((kind for kind in _ERRORS if kind.exit_code == process.returncode), None)
    if kind is not None or not (out / RUN).exists():
        raise (kind or InfraError)(f"the run in {out} ended with exit code {process.returncode}: {said}")
    notice(f"{out.name}: {said}")


def _last(text: str) -> str:
    """The sentence of a run: its verdict line, else what it printed last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    verdict = next((line for line in lines if line.startswith("verdict:")), "")
    return verdict or (lines[-1] if lines else "it printed nothing")


def pooled(out: Path, side: Side, rounds: int) -> tuple[RunInfo | None, list[CaseResult]]:
    """The cases of all turns of a kernel; the round takes the place of the repetition."""
    info: RunInfo | None = None
    cases: list[CaseResult] = []
    for number in range(1, rounds + 1):
        info, found = load(folder(out, number, side))
        cases += [msgspec.structs.replace(case, repeat=number) for case in found]
    return info, cases


def folder(out: Path, number: int, side: Side) -> Path:
    """Output directory of a turn."""
    return out / f"{side.letter}{number}"
