# SPDX-License-Identifier: GPL-2.0-only
"""A few pages that no counter names have to show twice; anything else is judged at once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.host.emulated.state import TestbedSpec, TestbedState
from harness.host.emulated.testbed import Lab
from harness.run.options import RunOptions
from harness.run.outcome import IN_FLIGHT, pages_in_flight
from harness.run.result import CaseResult, Finding, StepResult
from harness.run.runner import CaseName
from harness.run.session import Ready, Session
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario


def finding(counter: str, low: int, observed: int) -> Finding:
    verdict = Verdict.PASS if low == observed else Verdict.DEVIATES
    return Finding(
        counter=counter, low=low, high=low, observed=observed, noise=0, verdict=verdict, reasons=("rule: because",)
    )


def step(*findings: Finding, messages: tuple[str, ...] = ()) -> StepResult:
    return StepResult(index=0, text="do", seconds=0.0, findings=findings, recorded={}, messages=messages)


@pytest.mark.parametrize("pages", [1, IN_FLIGHT, -IN_FLIGHT])
def test_few_unnamed_pages(pages: int) -> None:
    told = pages_in_flight([step(finding("unaccounted", 0, pages), finding("F", 0, -pages), finding("pgfault", 0, 0))])
    assert "unaccounted" in told
    assert "F" in told


@pytest.mark.parametrize(
    "last",
    [
        step(finding("unaccounted", 0, IN_FLIGHT + 1)),
        step(finding("unaccounted", 0, 1), finding("nr_unevictable", -512, -511)),
        step(finding("gmem/g0", -1, 0)),
        step(finding("frames/back", 48, 0), finding("frames/new", 0, 48)),
        step(finding("frames/back", 1, 0), finding("frames/gone", 0, 1)),
        step(finding("unaccounted", 0, 1), messages=("contents: wrong",)),
        step(finding("F", 5, 5)),
    ],
    ids=[
        "too many",
        "a named counter too",
        "a named counter",
        "frames of another CPU",
        "frames that went",
        "contents",
        "nothing off",
    ],
)
def test_everything_else_is_judged_at_once(last: StepResult) -> None:
    assert pages_in_flight([last]) == ""


def test_a_frame_that_somebody_else_took_between_two_windows() -> None:
    told = pages_in_flight([step(finding("frames/back", 1, 0), finding("frames/new", 0, 1), finding("gmem/g0", 1, 1))])
    assert told == "step 0: frames/back +1/+0, frames/new +0/+1"


def test_no_step() -> None:
    assert pages_in_flight([]) == ""


def results(*verdicts: Verdict) -> list[CaseResult]:
    """Case results whose only step has one page in flight where the verdict deviates."""
    return [
        CaseResult(
            suite="s", case="c", claim="", verdict=verdict, sentence=verdict.value, seconds=0.0, evidence="",
            steps=(step(finding("unaccounted", 0, 0 if verdict is Verdict.PASS else 1)),),
        )
        for verdict in verdicts
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "final", "measured"),
    [
        ((Verdict.PASS,), Verdict.PASS, 1),
        ((Verdict.DEVIATES, Verdict.PASS), Verdict.PASS, 2),
        ((Verdict.DEVIATES, Verdict.DEVIATES, Verdict.PASS), Verdict.DEVIATES, 2),
    ],
    ids=["well", "once", "twice"],
)
def test_the_second_measurement_decides(
    seen: tuple[Verdict, ...], final: Verdict, measured: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, times = measure(results(*seen), tmp_path, monkeypatch)
    assert (result.verdict, times) == (final, measured)
    assert ("measured 2 times; before: step 0: unaccounted +0/+1" in result.sentence) == (measured == 2)


def measure(seen: list[CaseResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[CaseResult, int]:
    """The result of a case whose measurements are ``seen``, and how many of them were made."""
    left = list(seen)
    monkeypatch.setattr("harness.run.session.run_scenario", lambda *args, **kwargs: left.pop(0))
    monkeypatch.setattr("harness.run.session.host_facts", lambda *args: None)
    said: list[str] = []
    session = Session(RunOptions(), evidence=lambda name: tmp_path, relative=str, notice=said.append)
    session._lab = cast(Lab, object())
    session.design = "order0"
    ready = Ready(TestbedSpec.of(), tmp_path, cast(TestbedState, SimpleNamespace(kernel_facts={})))
    result = session._measured(ready, Scenario("x", ()), CaseName("s", "c", ""))
    assert len(said) == len(seen) - len(left) - 1
    return result, len(seen) - len(left)


def off_by(pages: int, index: int) -> CaseResult:
    """A case that ends at step ``index`` with pages in flight."""
    last = step(finding("unaccounted", 0, pages))
    last = StepResult(index=index, text="do", seconds=0.0, findings=last.findings, recorded={})
    return CaseResult(
        suite="s", case="c", claim="", verdict=Verdict.DEVIATES, sentence="off", seconds=0.0, evidence="", steps=(last,)
    )


@pytest.mark.parametrize(
    ("seen", "final", "measured"),
    [
        ([off_by(1, 0), off_by(1, 3), *results(Verdict.PASS)], Verdict.PASS, 3),
        ([off_by(1, 0), off_by(8, 0), *results(Verdict.PASS)], Verdict.PASS, 3),
        ([off_by(1, 0), off_by(1, 0), *results(Verdict.PASS)], Verdict.DEVIATES, 2),
        ([off_by(1, 0), off_by(1, 3), off_by(1, 0)], Verdict.DEVIATES, 3),
        ([off_by(1, 0), off_by(1, 1), off_by(1, 2), *results(Verdict.PASS)], Verdict.DEVIATES, 3),
    ],
    ids=["another step", "another amount", "the same", "the same at last", "always another"],
)
def test_it_is_the_same_deviation_that_has_to_show_twice(
    seen: list[CaseResult], final: Verdict, measured: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, times = measure(seen, tmp_path, monkeypatch)
    assert (result.verdict, times) == (final, measured)
