# SPDX-License-Identifier: GPL-2.0-only
"""Sums over many runs: every case that does not pass is seen, and bounds are compared with what runs did."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from harness.cli.statistics import runs_in, statistics_command
from harness.errors import UsageError
from harness.report.statistics import Collector, upper_bound
from harness.report.store import OutDir
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict
from tests.unit.report_records import case, finding, run_info, step


def one(observed: int, verdict: Verdict = Verdict.PASS, name: str = "a") -> CaseResult:
    found = finding("F", -4, observed, high=4), finding("nr_file_pages", -1, -1)
    return case(name, verdict, step(0, *found))


def collected(*runs: list[CaseResult], info: RunInfo | None = None) -> Collector:
    collector = Collector()
    for cases in runs:
        collector.add(info or run_info(), cases)
    return collector


class TestRate:
    @pytest.mark.parametrize(
        ("hits", "tries", "bound"), [(0, 1, 0.95), (0, 59, 0.0495), (0, 3000, 0.000998), (1, 20, 0.2161), (5, 5, 1.0)]
    )
    def test_clopper_and_pearson(self, hits: int, tries: int, bound: float) -> None:
        assert upper_bound(hits, tries) == pytest.approx(bound, rel=2e-3)


class TestCollector:
    def test_what_runs_did_against_what_they_might(self) -> None:
        (kernel,) = collected([one(-1)], [one(1)], [one(0)]).statistics().kernels
        (bound,) = kernel.bounds
        assert (bound.counter, bound.steps, bound.width, bound.spread, bound.used) == ("F", 1, 8, 2, 0.25)
        assert (kernel.runs, kernel.cases, kernel.judged, kernel.exact) == (3, 3, 6, 3)

    def test_a_step_of_another_case_has_bounds_of_its_own(self) -> None:
        (kernel,) = collected([one(-4), one(4, name="b")]).statistics().kernels
        assert (kernel.bounds[0].steps, kernel.bounds[0].spread) == (2, 0)

    @pytest.mark.parametrize("verdict", [Verdict.DEVIATES, Verdict.INCONCLUSIVE, Verdict.INFRA, Verdict.CRASH])
    def test_whatever_does_not_pass_is_an_alarm(self, verdict: Verdict) -> None:
        found = collected([one(0)] * 9 + [one(0, verdict)]).statistics()
        assert not found.quiet
        assert found.kernels[0].alarms == 1
        assert found.kernels[0].alarm_rate_below == pytest.approx(0.3942, abs=1e-3)

    def test_skips_are_neither_cases_nor_alarms(self) -> None:
        found = collected([one(0), one(0, Verdict.SKIP)]).statistics()
        assert found.quiet
        assert found.kernels[0].cases == 1

    def test_a_run_that_never_ended_is_not_quiet(self) -> None:
        collector = collected([one(0)])
        collector.add(None, [msgspec.structs.replace(one(0), kernel="7.3.4 [7.3]", design="order0")])
        found = collector.statistics()
        assert not found.quiet
        assert found.runs == 2

    def test_kernels_are_kept_apart(self) -> None:
        patched = msgspec.structs.replace(run_info(), kernel={**run_info().kernel, "patches": "x.patch"})
        collector = collected([one(0)])
        collector.add(patched, [one(0)])
        assert len(collector.statistics().kernels) == 2

    def test_measured_again(self) -> None:
        again = msgspec.structs.replace(one(0), sentence="all hold (measured 2 times; before: x)")
        assert collected([again]).statistics().kernels[0].again == 1


class TestCommand:
    def write(self, folder: Path, *cases: CaseResult) -> Path:
        out = OutDir.create(folder)
        for each in cases:
            out.append(each)
        out.finish(run_info())
        return folder

    def test_folders_of_runs(self, tmp_path: Path) -> None:
        for number in range(3):
            self.write(tmp_path / "runs" / f"{number}", one(0))
        page = tmp_path / "page.html"
        done = CliRunner().invoke(
            statistics_command, [str(tmp_path / "runs"), "--html", str(page)], standalone_mode=False
        )
        assert done.return_value == 0, done.output
        assert "3 runs: every case passed" in done.output
        assert "F: bounds of 1 steps are up to 8 wide, runs up to 0 apart, 0% of the width used" in done.output
        assert "every case passed" in page.read_text()

    def test_not_quiet(self, tmp_path: Path) -> None:
        self.write(tmp_path / "run", one(0), one(9, Verdict.DEVIATES, "<script>alert(1)</script>"))
        page = tmp_path / "page.html"
        done = CliRunner().invoke(
            statistics_command, [str(tmp_path / "run"), "--html", str(page)], standalone_mode=False
        )
        assert done.return_value == 1
        assert "not quiet" in done.output
        assert "<script>alert" not in page.read_text()

    def test_no_run_in_it(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is no output directory of a run and has none in it"):
            list(runs_in(tmp_path))
