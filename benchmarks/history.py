# SPDX-License-Identifier: GPL-2.0-only
"""What the history costs with many runs in it: adding one, the status with its page, two runs against each other.

    python benchmarks/history.py [--runs 10000] [--cases 29] [--db FILE|URL]

Runs are made up, and added as ``gmem history add`` adds them once it has read a folder: one transaction each, as safe
as always.  They are nightly runs of four branches on two hosts, in which one case deviates since a third of the nights,
one since the last, one now and then, and the testbed fails once in fifty.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from harness.history.compare import compare_runs
from harness.history.database import History
from harness.history.importing import add
from harness.history.page import status_page
from harness.history.record import RunRecord, record
from harness.history.series import Wanted, every_result, statuses
from harness.history.status import Status
from harness.run.result import CaseResult, Finding, RunInfo, StepResult
from harness.run.verdict import Verdict, worst

BEGAN = datetime(2024, 1, 1, tzinfo=UTC)
BRANCHES = ("master", "next", "stable", "topic")
HOSTS = ("emulated", "snp1")
DAY = date(2026, 1, 1)
FOLDER = Path("/nonexistent/nightly")


def made_run(number: int, total: int, cases: int, chance: random.Random) -> RunRecord:
    """Run ``number`` of ``total``."""
    branch, host = BRANCHES[number % 4], HOSTS[number // 4 % 2]
    results = [made_case(case, number, total, chance) for case in range(cases)]
    verdict = worst(result.verdict for result in results)
    began = BEGAN + timedelta(hours=number)
    info = RunInfo(
        started=began.isoformat(),
        finished=(began + timedelta(seconds=30)).isoformat(),
        verdict=verdict,
        exit_code=verdict.exit_code,
        sentence=verdict.value,
        kernel={
            "name": "7.3", "release": "7.3.4", "key": f"{number:032x}", "commit": f"{number:040x}", "branch": branch,
        },
        design="order0",
        design_evidence=(),
        host={"name": host},
        guest_kind="sw-protected (SNP stand-in)",
        qemu={},
        seed=number,
        versions={},
        command=(),
        counts={},
    )  # fmt: skip
    return record(info, results, FOLDER / str(number))


def made_case(case: int, number: int, total: int, chance: random.Random) -> CaseResult:
    """A case of one run: the first three deviate in their own ways."""
    deviates = (number > total * 2 // 3, number > total - 8, chance.random() < 0.02)
    verdict = Verdict.DEVIATES if case < 3 and deviates[case] else Verdict.PASS
    if chance.random() < 0.02:
        verdict = Verdict.INFRA
    wrong = Finding(
        counter="unaccounted",
        low=0,
        high=0,
        observed=1,
        noise=0,
        verdict=verdict,
        reasons=("untouched: nothing moves it",),
    )
    steps = (StepResult(index=0, text="convert", seconds=0.1, findings=(wrong,), recorded={}),)
    return CaseResult(
        suite=f"suite{case % 5}", case=f"case{case}", claim="It holds.", verdict=verdict,
        sentence=f"unaccounted: predicted +0, observed +1 in case {case}", seconds=chance.uniform(0.3, 0.8),
        steps=() if verdict is Verdict.PASS else steps, evidence=f"evidence/case{case}",
    )  # fmt: skip


def timed(what: str, action: Callable[[], object], repeats: int = 5) -> None:
    """Prints the median and the range of the wall time of ``action``."""
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begin)
    print(f"{what:<58} {statistics.median(taken):8.3f} s  ({min(taken):.3f} to {max(taken):.3f})", flush=True)


def main() -> None:
    """Fill a history and ask it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--cases", type=int, default=29)
    parser.add_argument("--db", default="")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gmem-history-") as scratch:
        place = words.db or f"{scratch}/history.sqlite"
        history = History.open(place, make=True)
        chance = random.Random(0)
        adding = 0.0
        for number in range(words.runs):
            run = made_run(number, words.runs, words.cases, chance)
            begin = time.perf_counter()
            add(history, run)
            adding += time.perf_counter() - begin
        print(f"{words.runs} runs x {words.cases} cases in {history.engine.dialect.name}")
        print(f"{'adding a run, mean':<58} {adding / words.runs:8.4f} s")
        if not words.db:
            print(f"{'size of the file':<58} {Path(place).stat().st_size / 1e6:8.1f} MB")
        history = History.open(place)
        found = Status(DAY, statuses(history, today=DAY))
        page = status_page(found, Path(scratch))
        print(f"status: {found.verdict.value}: {found.sentence}")
        timed("status of all cases", lambda: statuses(history, today=DAY))
        timed(f"status and its page ({len(page) / 1e3:.0f} kB)", lambda: status_page(
            Status(DAY, statuses(history, today=DAY)), Path(scratch)
        ))  # fmt: skip
        timed(
            "status of one branch on one host", lambda: statuses(history, Wanted(branch="next", host="snp1"), today=DAY)
        )
        timed("one case, all its results", lambda: list(every_result(history, Wanted(case="suite0/case0"))))
        newest, older = f"{words.runs - 1:040x}", f"{words.runs // 2:040x}"
        timed("two runs against each other", lambda: compare_runs(history, older, newest))


if __name__ == "__main__":
    main()
