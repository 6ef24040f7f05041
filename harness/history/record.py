# SPDX-License-Identifier: GPL-2.0-only
"""A run as rows of the history.  Pure but for :func:`read_folder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from harness.errors import UsageError
from harness.explore.signature import rule_of, signature
from harness.report.identity import kernel_id, run_id
from harness.report.store import RUN, STARTED, DamagedResult, load
from harness.report.summary import GOOD, case_name, outside, run_problem
from harness.report.text import one_line
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict

DEVIATIONS: Final = frozenset({Verdict.DEVIATES, Verdict.CRASH, Verdict.NO_BOOT})
"""What says that something is wrong with a kernel."""
_SENTENCE: Final = 600
_NAME: Final = 200


@dataclass(frozen=True, order=True)
class Line:
    """What stays the same from night to night."""

    kernel: str
    branch: str
    host: str
    guest: str
    design: str

    def __str__(self) -> str:
        kernel = self.kernel + (f" ({self.branch})" if self.branch else "")
        return f"{kernel} on {self.host}, {self.guest}, {self.design}"


@dataclass(frozen=True)
class Row:
    """One result: its series, and its columns but for ``series`` and ``run``."""

    line: Line
    case: str
    columns: dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """A run, ready to be added."""

    columns: dict[str, Any]
    """Of the table of runs, but for ``id``."""
    rows: tuple[Row, ...]


def read_folder(folder: Path, *, branch: str = "", commit: str = "") -> RunRecord:
    """The record of an output directory; raises :class:`UsageError` for one that is none, is damaged, or has no end."""
    info, cases = load(folder)
    if info is None:
        began = _first_line(folder / STARTED)
        raise UsageError(
            f"{folder} is a run that died or is still going on (no {RUN}{began}): it was not added, run it again"
        )
    return record(info, cases, folder.resolve(), branch=branch, commit=commit)


def record(
    info: RunInfo, cases: Sequence[CaseResult], folder: Path, *, branch: str = "", commit: str = ""
) -> RunRecord:
    """The rows of a run; ``branch`` and ``commit`` say what its kernel is where the run itself does not know."""
    kernel = {
        **info.kernel,
        "branch": info.kernel.get("branch") or branch,
        "commit": info.kernel.get("commit") or commit,
    }
    key = run_id(info, cases)
    started = _utc(info.started, folder)
    host = _name(info.host.get("name") or "unknown")
    line = Line(_kernel_name(kernel), _name(kernel["branch"]), host, _name(info.guest_kind), _name(info.design))
    problem = run_problem(info, cases)
    everything = [*cases, *([problem] if problem else [])]
    return RunRecord(
        columns={
            "key": key,
            "started": started,
            "finished": _utc(info.finished, folder),
            "release": _name(kernel.get("release", "")),
            "build": _name(kernel_id(info)),
            "commit": _name(kernel["commit"]),
            "branch": line.branch,
            "kernel": line.kernel,
            "host": host,
            "testbed": one_line(
                ", ".join(info.host[key] for key in ("machine", "run by") if info.host.get(key)), _NAME
            ),
            "guest": line.guest,
            "design": line.design,
            "verdict": info.verdict.value,
            "sentence": _text(info.sentence),
            "seed": str(info.seed),
            "folder": _text(str(folder)),
        },
        rows=tuple(_row(number, case, line, f"{started} {key[:12]}") for number, case in enumerate(everything, 1)),
    )


def _row(number: int, case: CaseResult, line: Line, begin: str) -> Row:
    good = case.verdict in GOOD
    return Row(
        line=line,
        case=_plain_name(case),
        columns={
            "place": f"{begin} {number:06d}",
            "verdict": case.verdict.value,
            "seconds": case.seconds,
            "signature": _signature(case),
            "sentence": "" if good else _text(case.sentence),
            "reason": "" if good else _text(_first_reason(case)),
            "evidence": _text(case.evidence),
        },
    )


def _plain_name(case: CaseResult) -> str:
    """Repetitions of a case are results of one series."""
    return _text(case_name(case).removesuffix(f" #{case.repeat}") if case.repeat > 1 else case_name(case))


def _signature(case: CaseResult) -> str:
    if case.verdict not in DEVIATIONS:
        return ""
    found = signature(case)
    return _text(str(found) if found is not None else f"{case.verdict.value}: {case.sentence}")


def _first_reason(case: CaseResult) -> str:
    for step in case.steps:
        if step.messages:
            return step.messages[0]
        for finding in step.findings:
            if outside(finding) and finding.reasons:
                return f"rule {rule_of(finding.reasons[0])}: {finding.reasons[0]}"
    return ""


def _kernel_name(kernel: dict[str, str]) -> str:
    """What the kernel was asked for as; a host that runs its own has no name for it, and a release for each night."""
    patches = kernel.get("patches", "")
    name = kernel.get("name") or "the host's own"
    return _name(f"{name} + {patches}" if patches else name)


def _utc(text: str, folder: Path) -> str:
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise DamagedResult(f"{folder / RUN} is damaged: {one_line(text, 60)!r} is no time") from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _name(text: str) -> str:
    return _storable(one_line(text, _NAME))


def _text(text: str) -> str:
    return _storable(one_line(text, _SENTENCE))


def _storable(text: str) -> str:
    """Without lone surrogates, which no database takes; one_line() has replaced them already."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _first_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return f"; started {one_line(lines[0], 80)}" if lines else ""
