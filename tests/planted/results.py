# SPDX-License-Identifier: GPL-2.0-only
"""What became of a planted fault, one record a run, kept one JSON object a line.

Each is on disk before the next run begins, so that a board can be interrupted and continued.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from harness.images.recipes import SOURCE_ROOT
from harness.run.result import CaseResult, Finding
from harness.run.verdict import Verdict
from tests.planted.faults import Fault

CASES, WHOLE, SELFTESTS = "cases", "whole", "selftests"
"""Ways to look at a kernel: the cases of the fault's record, the default suites, the kernel's own selftests."""

_JUDGED_BY = {
    CASES: ("harness", "suites", "guest-images", "host-configs"),
    WHOLE: ("harness", "suites", "guest-images", "host-configs"),
    SELFTESTS: ("harness/kernel", "harness/run", "host-configs"),
}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How one kernel was looked at in one way, and what was said of it."""

    fault: str
    """Its name; '' for the kernel without any fault."""
    kernel: str
    way: str
    key: str
    """Digest of the patch, its record and what judges: another one makes another result."""
    verdict: Verdict
    missed: str = ""
    """Why the fault is not caught and named, '' when it is.  Of a healthy kernel: why it does not pass."""
    case: str = ""
    """The first case that shows it."""
    counter: str = ""
    """The counter that shows it there with what was predicted and seen, '' when something else does."""
    reason: str = ""
    """The sentence that points at the fault."""
    build_seconds: float = 0.0
    """What building the kernel took, also if that was long ago."""
    seconds: float = 0.0
    """From the start of the run to the verdict, without the build."""
    cases: dict[str, str] = {}
    """Verdict of every case, or selftest."""

    @property
    def decided(self) -> bool:
        """Whether it says something about the kernel: not when testbed, build or command line failed."""
        return self.verdict in (Verdict.PASS, Verdict.DEVIATES, Verdict.CRASH, Verdict.NO_BOOT)


def key_of(fault: Fault | None, kernel: str, way: str, runs: Sequence[Sequence[str]], root: Path = SOURCE_ROOT) -> str:
    """What a result depends on, as a digest: kernel, patch, what was asked for, and every file that judges it."""
    digest = hashlib.sha256()
    digest.update("\0".join([kernel, way, *map(shlex.join, runs)]).encode())
    if fault is not None:
        digest.update(fault.patch.read_bytes())
        if way != SELFTESTS:
            digest.update(repr((fault.verdict, fault.counter, fault.words)).encode())
    for folder in _JUDGED_BY[way]:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


class Book:
    """``results.jsonl`` of an output directory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.jsonl"

    def append(self, result: Result) -> None:
        """On disk when it returns."""
        with self.path.open("ab") as stream:
            stream.write(msgspec.json.encode(result) + b"\n")

    def read(self) -> list[Result]:
        """All results, oldest first; a line that was cut off by an interruption is left out."""
        if not self.path.exists():
            return []
        results = []
        for line in self.path.read_bytes().splitlines():
            try:
                results.append(msgspec.json.decode(line, type=Result))
            except msgspec.DecodeError:
                continue
        return results

    def find(self, fault: str, kernel: str, way: str, key: str = "") -> Result | None:
        """The last result of exactly this; without a key the last one that decided something, else the last."""
        found = [r for r in self.read() if (r.fault, r.kernel, r.way) == (fault, kernel, way) and key in ("", r.key)]
        decided = [] if key else [result for result in found if result.decided]
        return (decided or found or [None])[-1]


class Shown(msgspec.Struct, frozen=True):
    """Where a run says what the record of a fault wants it to say."""

    case: str
    counter: str
    reason: str


def shown(fault: Fault, cases: Iterable[CaseResult]) -> Shown | None:
    """The first case that names the fault; None when none does.

    Its counter must be outside its prediction, and a reason, message or sentence of that case has the words.
    """
    for case in cases:
        if case.verdict not in (Verdict.DEVIATES, Verdict.CRASH):
            continue
        wrong = [finding for step in case.steps for finding in step.findings if finding.verdict is Verdict.DEVIATES]
        texts = [message for step in case.steps for message in step.messages] + [case.sentence]
        if not fault.counter:
            said = next((text for text in texts if fault.words in text), None)
            if said is not None:
                return Shown(f"{case.suite}/{case.case}", "", said)
            continue
        named = [finding for finding in wrong if re.fullmatch(fault.counter, finding.counter)]
        reasons = [reason for finding in named + wrong for reason in finding.reasons]
        said = next((text for text in reasons + texts if fault.words in text), None)
        if named and said is not None:
            return Shown(f"{case.suite}/{case.case}", _moved(named[0]), said)
    return None


def _moved(finding: Finding) -> str:
    observed = "?" if finding.observed is None else f"{finding.observed:+d}"
    return f"{finding.counter} {finding.predicted}/{observed}"


def missed(fault: Fault, verdict: Verdict, found: Shown | None) -> str:
    """Why a run has not caught and named the fault, '' when it has."""
    if verdict is not fault.verdict:
        return f"the verdict is {verdict.value} and should be {fault.verdict.value}"
    if found is None:
        about = f"a counter {fault.counter}" if fault.counter else "a case"
        words = f" with the words '{fault.words}'" if fault.words else ""
        return f"no case says what it should: {about}{words}"
    return ""
