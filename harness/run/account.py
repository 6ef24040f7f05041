# SPDX-License-Identifier: GPL-2.0-only
"""What a run says of itself: its verdict in a sentence, its host, and the cases that came to no testbed."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence

import msgspec

from harness.errors import InfraError
from harness.host.config.host import HostConfig
from harness.host.emulated.machine import qemu_program
from harness.run.options import EMULATED, LOCAL
from harness.run.result import CaseResult
from harness.run.runner import CaseName
from harness.run.verdict import Verdict, worst
from harness.scenario.scenario import Scenario


def sum_up(cases: Sequence[CaseResult]) -> tuple[Verdict, str]:
    """The verdict of a run and its sentence: how many cases, and the first of the worst."""
    verdict = worst(case.verdict for case in cases)
    ran = [case for case in cases if case.verdict is not Verdict.SKIP]
    if verdict is Verdict.NOTHING_RAN:
        reasons = {case.sentence for case in cases}
        why = f": {reasons.pop()}" if len(reasons) == 1 else ""
        return verdict, f"every case was skipped{why}" if cases else "no case was selected"
    if verdict is Verdict.PASS:
        meant = sum(case.verdict is Verdict.XFAIL for case in ran)
        if meant:
            return verdict, f"{len(ran) - meant} cases pass, {meant} fail as the design means it"
        return verdict, f"all {len(ran)} cases pass"
    worst_cases = [case for case in ran if case.verdict is verdict]
    first = worst_cases[0]
    return verdict, f"{len(worst_cases)} of {len(ran)} cases; first {first.suite}/{first.case}: {first.sentence}"


def host_told(host: HostConfig | None) -> dict[str, str]:
    """The host under test, for the report; None is the emulated host."""
    machine = "reached over SSH"
    if host is None or host.transport == EMULATED:
        machine = "QEMU TCG with nested SVM"
    elif host.transport == LOCAL:
        machine = "the machine that the harness runs on"
    return {"name": EMULATED if host is None else host.name, "machine": machine, "run by": platform.platform()}


def not_run(name: CaseName, verdict: Verdict, why: str, seconds: float) -> CaseResult:
    """The result of a case that came to no testbed."""
    return CaseResult(
        suite=name.suite, case=name.case, claim=name.claim, verdict=verdict, sentence=why, seconds=seconds, steps=(),
        evidence="", repeat=name.repeat,
    )  # fmt: skip


def replayable(result: CaseResult, scenario: Scenario) -> CaseResult:
    """The result of a drawn scenario that did not pass, with the way to run it again."""
    if scenario.seed is None or result.verdict in (Verdict.PASS, Verdict.SKIP):
        return result
    how = f"drawn with --seed {scenario.seed} --cases 1; {result.evidence}/scenario.yaml runs it alone"
    return msgspec.structs.replace(result, sentence=f"{result.sentence} ({how})")


def qemu_version() -> str:
    """First line of ``qemu-system-x86_64 --version``; '' when there is none."""
    try:
        done = subprocess.run(
            [str(qemu_program()), "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError, InfraError):
        return ""
    return done.stdout.splitlines()[0].strip() if done.stdout else ""
