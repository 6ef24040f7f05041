# SPDX-License-Identifier: GPL-2.0-only
"""Two runs against each other: what must be the same, what may differ, and what takes longer."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from report_records import case, finding, step

from harness.cli.main import main
from harness.report.compare import Comparison, compare, kind_of
from harness.report.store import RESULTS
from harness.run.result import CaseResult, StepResult
from harness.run.verdict import Verdict


def compared(first: list[CaseResult], second: list[CaseResult]) -> Comparison:
    return compare("A", first, "B", second)


def timed(kind: str, seconds: float, index: int = 0) -> StepResult:
    return msgspec.structs.replace(step(index, text=f"{kind} g0.r0[{index}:{index + 1}]"), seconds=seconds)


class TestWhatMustBeTheSame:
    def test_a_run_is_the_same_as_itself(self) -> None:
        cases = [case("one", Verdict.PASS, step(0, finding("F", -1, -1), finding("nr_file_pages", 1, 1)))]
        found = compared(cases, cases)
        assert found.same
        assert (found.cases, found.same_exact, found.counters, found.verdicts) == (1, 2, (), ())

    def test_a_verdict_that_changed(self) -> None:
        found = compared([case("one")], [case("one", Verdict.DEVIATES)])
        assert not found.same
        (change,) = found.verdicts
        assert (change.case, change.a, change.b) == ("conversions/one", "pass", "deviates")

    def test_cases_that_only_one_has(self) -> None:
        found = compared([case("one"), case("two")], [case("two"), case("three")])
        assert [(c.case, c.a, c.b) for c in found.verdicts] == [
            ("conversions/one", "pass", ""),
            ("conversions/three", "", "pass"),
        ]

    def test_an_exact_counter_that_moved_otherwise(self) -> None:
        found = compared(
            [case("one", Verdict.PASS, step(3, finding("F", -1, -1)))],
            [case("one", Verdict.PASS, step(3, finding("F", -1, -2)))],
        )
        (change,) = found.exact
        assert (change.step, change.counter, change.a, change.b) == (3, "F", -1, -2)
        assert not found.same

    def test_an_interval_may_differ(self) -> None:
        found = compared(
            [case("one", Verdict.PASS, step(0, finding("F", -9, -1, high=0)))],
            [case("one", Verdict.PASS, step(0, finding("F", -9, -2, high=0)))],
        )
        assert found.same
        assert [(c.counter, c.exact) for c in found.counters] == [("F", False)]

    def test_what_stayed_counts_too(self) -> None:
        still = msgspec.structs.replace(step(0), still={"untouched: nothing moves it": ("nr_shmem", "thp_split_page")})
        assert compared([case("one", Verdict.PASS, still)], [case("one", Verdict.PASS, still)]).same_exact == 2
        moved = step(0, finding("nr_shmem", 0, 1))
        assert not compared([case("one", Verdict.PASS, still)], [case("one", Verdict.PASS, moved)]).same

    def test_steps_of_other_scenarios_are_not_compared(self) -> None:
        one = case("one", Verdict.PASS, step(0, finding("F", 1, 1), text="populate g0.r0[0:1]"))
        two = case("one", Verdict.PASS, step(0, finding("F", 2, 2), text="populate g0.r0[0:2]"))
        assert compared([one], [two]).counters == ()


class TestCosts:
    def test_a_kind_of_step_that_takes_twice_as_long(self) -> None:
        punches = [timed("punch hole", 0.010 + 0.001 * n, n) for n in range(9)]
        slow = [msgspec.structs.replace(s, seconds=2 * s.seconds) for s in punches]
        found = compared([case("one", Verdict.PASS, *punches)], [case("one", Verdict.PASS, *slow)])
        (cost,) = found.costs
        assert (cost.kind, cost.pairs, cost.ratio, cost.low, cost.high) == ("punch", 9, 2.0, 2.0, 2.0)
        assert found.same, "time alone is no difference"
        assert found.slower_than(1.5) == (cost,)
        assert found.slower_than(2.0) == ()

    def test_noise_is_told_by_the_bounds(self) -> None:
        ratios = [0.5, 0.9, 1.1, 2.0, 1.0, 0.8, 1.3]
        before = [timed("populate", 0.1, n) for n in range(len(ratios))]
        after = [timed("populate", 0.1 * ratio, n) for n, ratio in enumerate(ratios)]
        (cost,) = compared([case("one", Verdict.PASS, *before)], [case("one", Verdict.PASS, *after)]).costs
        assert cost.low < 1 < cost.high
        assert cost.ratio == pytest.approx(1.0)

    def test_few_pairs_say_nothing(self) -> None:
        steps = [timed("populate", 0.1, n) for n in range(4)]
        assert compared([case("one", Verdict.PASS, *steps)], [case("one", Verdict.PASS, *steps)]).costs == ()

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("convert g0.r0[0:512] to private by 7", "convert to private"),
            ("convert g0.r0[0:512] to shared", "convert to shared"),
            ("punch hole g0.r0[7:8]", "punch"),
            ("settle", "settle"),
        ],
    )
    def test_kinds(self, text: str, kind: str) -> None:
        assert kind_of(text) == kind


class TestCommand:
    def written(self, folder: Path, *cases: CaseResult) -> str:
        folder.mkdir()
        (folder / RESULTS).write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in cases))
        return str(folder)

    def test_the_same(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        there = case("one", Verdict.PASS, step(0, finding("F", 1, 1)))
        a, b = self.written(tmp_path / "a", there), self.written(tmp_path / "b", there)
        assert main(["compare", a, b]) == 0
        assert "1 cases in both; verdicts that differ: 0; exact counters that differ: 0" in capsys.readouterr().out

    def test_a_difference_is_exit_code_1_and_a_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        a = self.written(tmp_path / "a", case("one", Verdict.PASS, step(2, finding("F", 1, 1))))
        b = self.written(tmp_path / "b", case("one", Verdict.DEVIATES, step(2, finding("F", 1, 5))))
        assert main(["compare", a, b]) == Verdict.DEVIATES.exit_code
        shown = capsys.readouterr().out
        assert "conversions/one: pass -> deviates: " in shown
        assert "conversions/one step 2 (convert g0.r0[0:512] to shared): F +1 -> +5" in shown

    def test_a_slower_step_is_a_difference_when_asked_for(self, tmp_path: Path) -> None:
        fast = [timed("punch hole", 0.01, n) for n in range(6)]
        slow = [msgspec.structs.replace(s, seconds=0.03) for s in fast]
        a = self.written(tmp_path / "a", case("one", Verdict.PASS, *fast))
        b = self.written(tmp_path / "b", case("one", Verdict.PASS, *slow))
        assert main(["compare", a, b]) == 0
        assert main(["compare", a, b, "--slower", "1.5"]) == Verdict.DEVIATES.exit_code
        assert main(["compare", b, a, "--slower", "1.5"]) == 0

    def test_a_folder_that_is_no_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["compare", str(tmp_path), str(tmp_path)]) == Verdict.USAGE.exit_code
        assert "is not the output directory of a gmem run" in capsys.readouterr().err
