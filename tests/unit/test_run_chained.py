# SPDX-License-Identifier: GPL-2.0-only
"""A scenario that is first measured with one sample between two steps: what of it stands, what is measured again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from report_records import case, finding, step
from session_bench import ONE, FakeLab, Make, make, name

from harness.run import session as session_module
from harness.run.result import CaseResult
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Empty

__all__ = ["make"]  # the fixture


def off(counter: str, verdict: Verdict = Verdict.DEVIATES, messages: tuple[str, ...] = ()) -> CaseResult:
    """A case that ended with a step in which one counter was off by 64 pages."""
    return case("x", verdict, replace(step(0, finding(counter, 0, -64, verdict=Verdict.DEVIATES)), messages=messages))


class TestChained:
    """A scenario that is first measured with one sample between two steps."""

    def run(
        self,
        seen: list[CaseResult],
        make: Make,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        scenario: Scenario = ONE,
    ) -> tuple[CaseResult, list[bool], list[str]]:
        """The result, whether each measurement was chained, and what was said."""
        how: list[bool] = []
        left = list(seen)

        def run_scenario(*words: object, chained: bool, **more: object) -> CaseResult:
            how.append(chained)
            return left.pop(0)

        monkeypatch.setattr(session_module, "run_scenario", run_scenario)
        notes: list[str] = []
        result = make(FakeLab(tmp_path), notes).run(scenario, name("x"), chained=True)
        assert not left
        return result, how, notes

    @pytest.mark.parametrize(
        "seen",
        [
            case("x"),
            case("x", Verdict.INFRA),
            case("x", Verdict.DEVIATES),
            off("gmem/g0"),
            off("nr_file_pages"),
            off("F", messages=("contents: wrong",)),
            off("F", Verdict.CRASH),
        ],
        ids=["passes", "infra", "no-step", "gmem", "nr_file_pages", "contents", "crash"],
    )
    def test_what_no_window_explains_is_measured_once(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: CaseResult
    ) -> None:
        result, how, notes = self.run([seen], make, tmp_path, monkeypatch)
        assert (result.verdict, result.sentence, how, notes) == (seen.verdict, "sentence of x", [True], [])
        assert not result.again

    @pytest.mark.parametrize("then", [off("F"), off("gmem/g0"), case("x", Verdict.CRASH)], ids=["F", "gmem", "crash"])
    def test_what_other_activity_moves_has_to_be_off_in_windows_of_its_own(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: CaseResult
    ) -> None:
        result, how, notes = self.run([off("F"), then], make, tmp_path, monkeypatch)
        assert (result.verdict, result.sentence, how, notes) == (then.verdict, "sentence of x", [True, False], [])

    @pytest.mark.parametrize("verdict", [Verdict.DEVIATES, Verdict.INCONCLUSIVE])
    def test_what_shows_in_a_chain_alone_is_told(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict
    ) -> None:
        result, how, notes = self.run([off("F", verdict), case("x")], make, tmp_path, monkeypatch)
        assert (result.verdict, how) == (Verdict.PASS, [True, False])
        before = "with one sample between two steps: sentence of x"
        assert result.sentence == f"sentence of x (measured 2 times; before: {before})"
        assert result.again
        assert notes == [f"smoke/x was measured again, {before}"]

    def test_a_chain_is_no_second_witness_of_pages_in_flight(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = case("x", Verdict.DEVIATES, step(0, finding("unaccounted", 0, 1, verdict=Verdict.DEVIATES)))
        result, how, _ = self.run([one, one, case("x")], make, tmp_path, monkeypatch)
        assert (result.verdict, how) == (Verdict.PASS, [True, False, False])

    def test_what_cannot_be_chained_is_not(self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _, how, _ = self.run([case("x")], make, tmp_path, monkeypatch, Scenario("one", (Empty(),), frames=True))
        assert how == [False]

    @pytest.mark.parametrize(("transport", "may"), [("ssh", False), ("local", False), ("emulated", True)])
    def test_only_a_host_at_rest_is_chained(self, make: Make, transport: str, may: bool) -> None:
        session = make()
        assert session.may_chain(ONE)
        session.host = cast(Any, SimpleNamespace(transport=transport))
        assert session.may_chain(ONE) is may
