# SPDX-License-Identifier: GPL-2.0-only
"""Whoever is killed in the middle of a case: the verdict is ``infra``, or the next run works at once; nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.model.designs import design_named
from harness.model.prediction import StepPrediction
from harness.run import walk
from harness.run.facts import host_facts
from harness.run.result import CaseResult
from harness.run.runner import CaseName, run_scenario
from harness.run.session import Ready, Session
from harness.run.verdict import Verdict
from harness.run.walk import Done, Walker
from harness.scenario.region import G0
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Check, Convert, Populate, Side, Step
from tests.emulated.conftest import Gmem

SCENARIO = Scenario("victim", (Convert(G0[0:512], Side.PRIVATE), Populate(G0[0:512]), Check(G0[0:512], "pattern")))
START_SECONDS = 300.0


def wait_for(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.02)


def in_a_case(out: Path) -> bool:
    """Whether the run is walking a scenario: then samples are being kept."""
    return any(out.glob("evidence/smoke-*/samples/start.json"))


def start(gmem_cli: Gmem) -> tuple[subprocess.Popen[str], Path]:
    process, out = gmem_cli.start("smoke", "-k", "one_chunk", "--repeat", "50")
    wait_for(lambda: in_a_case(out) or process.poll() is not None, "the first case")
    assert process.poll() is None, process.communicate()
    return process, out


def test_outer_qemu(gmem_cli: Gmem) -> None:
    process, out = start(gmem_cli)
    victims = gmem_cli.processes("gmem-emulated-host")
    assert victims
    os.kill(int(victims[0].split()[0]), signal.SIGKILL)
    wait_for(lambda: '"infra"' in (out / "results.jsonl").read_text(), "the verdict infra", 60)
    process.send_signal(signal.SIGINT)  # the further repeats are not needed
    process.communicate(timeout=60)
    assert "SIGKILL" in (out / "results.jsonl").read_text()
    assert not gmem_cli.left_behind()


def test_gmem_itself(gmem_cli: Gmem) -> None:
    process, _ = start(gmem_cli)
    process.kill()
    process.communicate(timeout=60)
    assert not gmem_cli.left_behind()
    again = gmem_cli.run("smoke", "-k", "one_page")
    assert again.code == 0, again.stdout + again.stderr
    assert not gmem_cli.left_behind()


def test_ctrl_c(gmem_cli: Gmem) -> None:
    process, out = start(gmem_cli)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == Verdict.INTERRUPTED.exit_code
    assert '"interrupted"' in (out / "run.json").read_text()
    assert not gmem_cli.left_behind()


def run_with(
    session: Session, ready: Ready, evidence: Path, monkeypatch: pytest.MonkeyPatch, kill: Callable[[Walker], None]
) -> CaseResult:
    """Run the scenario; ``kill`` strikes in the middle of the step that populates."""
    real = walk._HOW[Populate]

    def strike(walker: Walker, step: Step, prediction: StepPrediction) -> Done:
        kill(walker)
        return real(walker, step, prediction)

    monkeypatch.setitem(walk._HOW, Populate, strike)  # type: ignore[arg-type]
    evidence.mkdir()
    return run_scenario(
        session.lab,
        ready.saved,
        ready.spec,
        SCENARIO,
        design_named("order0"),
        host_facts(ready.state.kernel_facts, ready.spec),
        name=CaseName("kill", "victim", ""),
        evidence=evidence,
        relative="",
        deadline=10.0,
    )


def test_inner_qemu(session: Session, ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(walker: Walker) -> None:
        walker.testbed.channels.control.signal(walker.testbed.guest("g0").pid, signal.SIGKILL)

    result = run_with(session, ready, tmp_path / "evidence", monkeypatch, kill)
    assert result.verdict is Verdict.INFRA, result.sentence
    assert "g0" in result.sentence


def test_probe(session: Session, ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(walker: Walker) -> None:
        pid = walker.probe.hello().pid
        walker.testbed.channels.control.signal(pid, signal.SIGKILL)

    result = run_with(session, ready, tmp_path / "evidence", monkeypatch, kill)
    assert result.verdict is Verdict.INFRA, result.sentence
    assert "probe" in result.sentence


def test_a_healthy_case_passes_the_same_way(
    session: Session, ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_with(session, ready, tmp_path / "evidence", monkeypatch, lambda walker: None)
    assert result.verdict is Verdict.PASS, result.sentence
