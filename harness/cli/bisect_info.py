# SPDX-License-Identifier: GPL-2.0-only
"""``run.json`` of a bisection: what ran on what, taken from the runs that it is made of."""

from __future__ import annotations

import platform
from datetime import datetime
from importlib.metadata import version

import msgspec

from harness import __version__
from harness.bisect.judging import RUNS
from harness.errors import GmemError
from harness.report.store import OutDir, load
from harness.run.result import RunInfo
from harness.run.verdict import Verdict


def run_info(place: OutDir, began: datetime, verdict: Verdict, sentence: str, command: tuple[str, ...]) -> RunInfo:
    """The record; design, host and guest are those of the last run that has one."""
    last = _last_info(place)
    mine = RunInfo(
        started=began.isoformat(timespec="seconds"),
        finished=datetime.now().astimezone().isoformat(timespec="seconds"),
        verdict=verdict,
        exit_code=verdict.exit_code,
        sentence=sentence,
        kernel={},
        design="",
        design_evidence=(),
        host={"run by": platform.platform()},
        guest_kind="",
        qemu={},
        seed=0,
        versions={"gmem-harness": __version__, "python": platform.python_version(), "pytest": version("pytest")},
        command=command,
        counts={kind.value: sum(case.verdict is kind for case in place.cases) for kind in Verdict},
    )
    if last is None:
        return mine
    return msgspec.structs.replace(
        mine,
        kernel={**last.kernel, "name": "many, see each case"},
        design=last.design,
        design_evidence=last.design_evidence,
        host=last.host,
        guest_kind=last.guest_kind,
        qemu=last.qemu,
        seed=last.seed,
    )


def _last_info(place: OutDir) -> RunInfo | None:
    runs = place.path / RUNS
    for folder in sorted(runs.iterdir(), reverse=True) if runs.is_dir() else ():
        try:
            info = load(folder, notify=lambda _: None)[0] if folder.is_dir() else None
        except GmemError:
            continue
        if info is not None:
            return info
    return None
