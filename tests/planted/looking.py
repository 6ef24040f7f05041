# SPDX-License-Identifier: GPL-2.0-only
"""Looks at a kernel by the command itself: builds it, runs suites or selftests on it, and reads what that left."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.errors import UsageError
from harness.images.recipes import SOURCE_ROOT
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict, worst
from tests.planted.faults import Fault
from tests.planted.results import SELFTESTS, WHOLE, Book, Result, key_of, missed, shown

BUILD_SECONDS, RUN_SECONDS = 3600.0, 3600.0
"""Deadlines of one command: a first build on a busy machine, and all suites on a kernel of which every boot is slow."""
SELFTEST_WORDS = ("-k", "not set_memory_region", "--deadline", "180")
"""All but one, which makes memory slots for half a minute and looks at no page; and three minutes for each, of which a
healthy kernel needs three seconds."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def error(self) -> str:
        """Its last words."""
        lines = [line.strip() for line in (self.stderr + self.stdout).splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("gmem: ")]
        return (told or lines or [f"exit code {self.code}"])[-1].removeprefix("gmem: ")


Command = Callable[[Sequence[str], float], Ended]


def gmem(arguments: Sequence[str], deadline: float) -> Ended:
    """``gmem ARGUMENTS`` of this tree, to its end; raises ``subprocess.TimeoutExpired`` after ``deadline`` seconds."""
    began = time.monotonic()
    words = [sys.executable, "-m", "harness.cli.main", *arguments]
    done = subprocess.run(
        words, cwd=SOURCE_ROOT, text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline
    )
    return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


def whole() -> tuple[str, ...]:
    """The default suites: those of ``gmem run``, and of each claim the cases that ``ci/accept`` runs."""
    claims = sorted(path.name for path in (SOURCE_ROOT / "suites").glob("c[0-9][0-9]_*"))
    return ("smoke", "conversion", *claims, "integrity", "--brief")


@dataclass(frozen=True)
class Look:
    """One kernel, looked at in one way."""

    kernel: str
    way: str
    runs: tuple[tuple[str, ...], ...]
    """Arguments behind ``gmem run`` or ``gmem selftests``, of one run each."""
    fault: Fault | None = None

    @property
    def name(self) -> str:
        return self.fault.name if self.fault else f"healthy {self.kernel}"


def look_at(fault: Fault, way: str) -> Look:
    """How a fault is looked at."""
    arguments = {WHOLE: whole(), SELFTESTS: SELFTEST_WORDS}.get(way, fault.cases_words)
    return Look(fault.kernel, way, (arguments,), fault)


def look_at_healthy(kernel: str, way: str, faults: Sequence[Fault]) -> Look:
    """The same for the kernel without a fault: every case that shows one of ``faults``."""
    return Look(kernel, way, tuple(dict.fromkeys(look_at(fault, way).runs[0] for fault in faults)))


def known(look: Look, book: Book) -> tuple[Result | None, bool]:
    """The last result in the book, and whether patch, record, suites or harness have changed since."""
    found = book.find(look.fault.name if look.fault else "", look.kernel, look.way)
    return found, found is not None and found.key != key_of(look.fault, look.kernel, look.way, look.runs)


def result_of(look: Look, book: Book, out: Path, resume: bool, command: Command = gmem) -> tuple[Result, bool]:
    """What became of it, and whether that was known already; a new result is in the book when this returns."""
    key = key_of(look.fault, look.kernel, look.way, look.runs)
    before = book.find(look.fault.name if look.fault else "", look.kernel, look.way, key) if resume else None
    if before is not None and before.decided:
        return before, True
    result = _run(look, key, out, command)
    book.append(result)
    return result, False


def _run(look: Look, key: str, out: Path, command: Command) -> Result:
    """Build and run; what fails on the way is a result too, with the sentence."""
    patch = ("--patch", str(look.fault.patch)) if look.fault else ()
    fault = look.fault.name if look.fault else ""

    def failed(verdict: Verdict, sentence: str) -> Result:
        return Result(fault=fault, kernel=look.kernel, way=look.way, key=key, verdict=verdict, missed=sentence)

    try:
        built = command(["kernel", "build", look.kernel, *patch, "--json"], BUILD_SECONDS)
        if built.code:
            return failed(Verdict.USAGE if built.code == Verdict.USAGE.exit_code else Verdict.INFRA, built.error)
        ended = [_one_run(look, arguments, patch, out, command) for arguments in look.runs]
    except subprocess.TimeoutExpired as error:
        return failed(Verdict.INFRA, f"gmem {error.cmd[3]} did not end within {error.timeout:.0f} s")
    broken = next((run.error for run, info, _ in ended if info is None), "")
    if broken:
        return failed(Verdict.INFRA, broken)
    infos = [info for _, info, _ in ended if info is not None]
    cases = [case for _, _, cases in ended for case in cases]
    verdict = worst(info.verdict for info in infos)
    base = Result(
        fault=fault,
        kernel=look.kernel,
        way=look.way,
        key=key,
        verdict=verdict,
        build_seconds=_build_seconds(built.stdout),
        seconds=round(sum(run.seconds for run, _, _ in ended), 1),
        cases={f"{case.suite}/{case.case}" if case.suite else case.case: case.verdict.value for case in cases},
    )
    sentence = next(info.sentence for info in infos if worst((info.verdict, verdict)) is info.verdict)
    return msgspec.structs.replace(base, **_said(look, verdict, sentence, cases))


def _one_run(
    look: Look, arguments: Sequence[str], patch: Sequence[str], out: Path, command: Command
) -> tuple[Ended, RunInfo | None, list[CaseResult]]:
    """How it ended, and what it left; None when it left no record."""
    folder = _fresh(out, f"{look.name.replace(' ', '-')}-{look.way}")
    kind = "selftests" if look.way == SELFTESTS else "run"
    ran = command([kind, *arguments, "--kernel", look.kernel, *patch, "--out", str(folder)], RUN_SECONDS)
    if not (folder / "run.json").is_file():
        return ran, None, []
    info = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunInfo)
    lines = (folder / "results.jsonl").read_bytes().splitlines()
    return ran, info, [msgspec.json.decode(line, type=CaseResult) for line in lines]


def _said(look: Look, verdict: Verdict, sentence: str, cases: Sequence[CaseResult]) -> dict[str, str]:
    """The fields of the result that say whether the fault is caught, and by what."""
    if verdict is Verdict.INFRA:
        return {"missed": sentence}
    if look.fault is None:
        return {"missed": "" if verdict is Verdict.PASS else sentence}
    if look.way == SELFTESTS:  # they are asked, and owe nothing
        return {}
    found = shown(look.fault, cases)
    said = {"missed": missed(look.fault, verdict, found)}
    if found is not None:
        said |= {"case": found.case, "counter": found.counter, "reason": found.reason}
    return said


def _fresh(out: Path, name: str) -> Path:
    """A folder that is not there yet."""
    for number in range(1, 10_000):
        folder = out / "runs" / f"{name}-{number}"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            return folder.absolute()
    raise UsageError(f"{out} has ten thousand runs of {name}: name another directory")


def _build_seconds(told: str) -> float:
    """What the build took that made this image, from the record beside it."""
    try:
        meta = Path(json.loads(told)["image"]).parent / "meta.json"
        return float(json.loads(meta.read_text())["seconds"])
    except (OSError, ValueError, KeyError):
        return 0.0
