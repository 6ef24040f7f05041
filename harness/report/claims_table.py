# SPDX-License-Identifier: GPL-2.0-only
"""The table of claims: for each claim and each run (a design on a kernel) what was predicted, measured and judged.

Every claim has a cell for every run.  A cell without a verdict has a reason: the claim does not concern the design, or
nothing that decides it was run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import UsageError
from harness.report.claims import CLAIMS, Claim, why_not
from harness.report.claims_curves import Curve, curves
from harness.report.series import Series
from harness.report.summary import GOOD, case_name, guest_kind_text
from harness.report.text import one_line
from harness.run.result import CaseResult, RunInfo, Told
from harness.run.verdict import Verdict, worst

DECIDED: Final = "decided"
UNDECIDED: Final = "undecided"
NOT_CONCERNED: Final = "not concerned"
NOT_RUN: Final = "not run"

_DECIDE: Final = frozenset({Verdict.PASS, Verdict.DEVIATES, Verdict.CRASH})
"""Verdicts that say something about the kernel; all others leave a claim open."""


@dataclass(frozen=True)
class Run:
    """One run as it was read back; ``folder`` is its output directory."""

    info: RunInfo
    cases: Sequence[CaseResult]
    series: Sequence[Series]
    folder: Path


class TableRun(msgspec.Struct, frozen=True, kw_only=True):
    """A column of the table."""

    label: str
    """``thp-discard on 7.3.4 [7.3-thp-discard]``."""
    design: str
    kernel: str
    """``7.3.4 [7.3-thp-discard]``."""
    guest: str
    verdict: Verdict
    exit_code: int
    sentence: str
    seed: int
    folder: str
    """Output directory of the run, relative to that of the table."""


class TableCase(msgspec.Struct, frozen=True, kw_only=True):
    """A case in a cell."""

    name: str
    """``suite/case``."""
    says: str
    """What the case claims, its docstring."""
    verdict: Verdict
    sentence: str
    tells: tuple[Told, ...]
    evidence: str
    """Folder relative to the output directory of the table, '' when there is none."""

    @property
    def headlines(self) -> tuple[str, ...]:
        """The numbers, or the case's own words where it has no numbers or did not come to them."""
        if not self.tells or self.verdict not in (Verdict.PASS, Verdict.DEVIATES):
            return (self.says if self.verdict is Verdict.PASS and self.says else self.sentence,)
        return tuple(told.text for told in self.tells)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A claim in a run."""

    run: str
    """Label of the run."""
    status: str
    """``decided``, ``undecided``, ``not concerned`` or ``not run``."""
    verdict: Verdict | None
    """The worst of its cases; None when no case was run."""
    reason: str
    """Why there is no verdict; for a bad one the sentence of the first case that has it."""
    cases: tuple[TableCase, ...]
    """Those that do not pass first."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A claim in all runs."""

    id: str
    title: str
    sentence: str
    cells: tuple[Cell, ...]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The whole table; ``claims.json`` is this record."""

    verdict: Verdict
    """The worst of the runs."""
    exit_code: int
    runs: tuple[TableRun, ...]
    claims: tuple[Row, ...]
    curves: tuple[Curve, ...]

    @property
    def counted(self) -> str:
        """How many cells have which status: ``5 decided, 12 not concerned, 9 not run``."""
        cells = [cell.status for row in self.claims for cell in row.cells]
        said = ((cells.count(status), status) for status in (DECIDED, UNDECIDED, NOT_CONCERNED, NOT_RUN))
        return ", ".join(f"{number} {status}" for number, status in said if number)


def has_claims(cases: Sequence[CaseResult]) -> bool:
    """Whether any case is about a claim."""
    return any(case.claim_id for case in cases)


def claims_table(runs: Sequence[Run], out: Path) -> Table:
    """The table of some runs, with links as they are seen from the folder ``out``.

    Raises ``UsageError`` for two runs of one design on one kernel: no cell can hold both.
    """
    labels = [run_label(run.info) for run in runs]
    for number, label in enumerate(labels):
        if label in labels[:number]:
            other = runs[labels.index(label)].folder
            raise UsageError(f"{other} and {runs[number].folder} are both runs of {label}: name one of them only")
    verdict = worst(run.info.verdict for run in runs)
    named = list(zip(labels, runs, strict=True))
    return Table(
        verdict=verdict,
        exit_code=verdict.exit_code,
        runs=tuple(_table_run(label, run, out) for label, run in named),
        claims=tuple(
            Row(
                id=claim.id,
                title=claim.title,
                sentence=claim.sentence,
                cells=tuple(_cell(claim, label, run, out) for label, run in named),
            )
            for claim in CLAIMS
        ),
        curves=curves([(label, run.cases, run.series) for label, run in named]),
    )


HOOK = "hold.patch"
"""What the demonstrators have besides their design (docs/kernels.md, "hold")."""


def run_label(info: RunInfo) -> str:
    """Design and kernel of a run, which tell it from others: ``order0 on 7.3.4 [7.3 + fix.patch]``."""
    return f"{one_line(info.design, 60)} on {_kernel(info)}"


def _kernel(info: RunInfo) -> str:
    """Release, name and patches; two builds of one tree differ in ``uname -v``, which is no name for people."""
    name = info.kernel.get("name", "")
    patches = [patch for patch in info.kernel.get("patches", "").split(", ") if patch]
    # a demonstrator is named after its last patch but the hook; with one of the command line behind it all are shown
    own = [patch for patch in patches if patch != HOOK]
    more = f" + {', '.join(patches)}" if own and not name.endswith(Path(own[-1]).stem) else ""
    parts = (info.kernel.get("release", ""), f"[{name}{more}]" if name else "")
    return one_line(" ".join(part for part in parts if part), 160) or "an unknown kernel"


def _table_run(label: str, run: Run, out: Path) -> TableRun:
    info = run.info
    return TableRun(
        label=label,
        design=info.design,
        kernel=_kernel(info),
        guest=guest_kind_text(info.guest_kind),
        verdict=info.verdict,
        exit_code=info.exit_code,
        sentence=info.sentence,
        seed=info.seed,
        folder=_from(out, run.folder),
    )


def _cell(claim: Claim, label: str, run: Run, out: Path) -> Cell:
    about = [case for case in run.cases if case.claim_id == claim.id]
    ran = [case for case in about if case.verdict is not Verdict.SKIP]
    if not ran:
        status, reason = _absent(claim, run.info, about)
        return Cell(run=label, status=status, verdict=None, reason=reason, cases=())
    verdict = worst(case.verdict for case in ran)
    ordered = sorted(ran, key=lambda case: case.verdict is Verdict.PASS)
    bad = next((case.sentence for case in ran if case.verdict is verdict and verdict not in GOOD), "")
    return Cell(
        run=label,
        status=DECIDED if verdict in _DECIDE else UNDECIDED,
        verdict=verdict,
        reason=bad,
        cases=tuple(_table_case(case, run.folder, out) for case in ordered),
    )


def _absent(claim: Claim, info: RunInfo, skipped: Sequence[CaseResult]) -> tuple[str, str]:
    """Status and reason of a cell without a case that ran."""
    reason = why_not(claim, info.design)
    if reason:
        return NOT_CONCERNED, reason
    if skipped:
        return NOT_RUN, skipped[0].sentence
    return NOT_RUN, "no case of this run decides it"


def _table_case(case: CaseResult, folder: Path, out: Path) -> TableCase:
    evidence = inside(folder, case.evidence)
    return TableCase(
        name=case_name(case),
        says=case.claim,
        verdict=case.verdict,
        sentence=case.sentence,
        tells=case.tells,
        evidence="" if evidence is None else _from(out, evidence),
    )


def _from(out: Path, place: Path) -> str:
    return Path(os.path.relpath(place.resolve(), out.resolve())).as_posix()


def inside(out: Path, relative: str) -> Path | None:
    """The folder ``relative`` of the output directory if it is one and does not lead out of it."""
    try:
        root, folder = out.resolve(), (out / relative).resolve()
        return folder if folder.is_relative_to(root) and folder != root and folder.is_dir() else None
    except (OSError, ValueError):  # a text that cannot be a name: too long, with NUL, with half a surrogate pair
        return None
