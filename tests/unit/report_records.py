# SPDX-License-Identifier: GPL-2.0-only
"""Records for the tests of reports: a small honest run, and texts as a hostile guest or kernel would print them."""

from __future__ import annotations

from typing import Final

import msgspec

from harness.run.result import CaseResult, Finding, RunInfo, StepResult
from harness.run.verdict import Verdict

HOSTILE: Final = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'></details></body><!--",
    "&lt;b&gt; ]]> <![CDATA[",
    "{{ 7 * 7 }}{% raw %}",
    "[bold red]x[/nothing]",
    "\x1b]0;owned\x07\x1b[2J\x1b[31mred",
    "\x1b]0;an unfinished string hides the rest",
    "\x00\x01\x08\x0b\x0c\x7f\x85\x9b31m",
    "lone \ud800 and \udc80 surrogates, \ufffe \uffff",
    "\u202egnorw eht yaw \u2066 round",
    "a\nok 99 not a result\r\n1..7\rBail out!",
    "name # SKIP not really",
    "\N{GRINNING FACE} \u00e9 \N{COMBINING ACUTE ACCENT}",
    "x" * 300_000,
)


def finding(
    counter: str,
    low: int,
    observed: int | None,
    *,
    high: int | None = None,
    verdict: Verdict = Verdict.PASS,
    reasons: tuple[str, ...] = ("punch: 512 present pages of g0.r0 leave the page cache",),
) -> Finding:
    return Finding(
        counter=counter,
        low=low,
        high=low if high is None else high,
        observed=observed,
        noise=0,
        verdict=verdict,
        reasons=reasons,
    )


def step(index: int, *findings: Finding, text: str = "convert g0.r0[0:512] to shared") -> StepResult:
    return StepResult(index=index, text=text, seconds=0.25, findings=findings, recorded={"pgfault": 3})


def case(name: str = "whole_chunk", verdict: Verdict = Verdict.PASS, *steps: StepResult, **more: object) -> CaseResult:
    usual = CaseResult(
        suite="conversions",
        case=name,
        claim="A conversion of a whole chunk gives every page back.",
        verdict=verdict,
        sentence=f"sentence of {name}",
        seconds=1.5,
        steps=steps,
        evidence="",
    )
    return msgspec.structs.replace(usual, **more)


def run_info(verdict: Verdict = Verdict.PASS, **more: object) -> RunInfo:
    usual = RunInfo(
        started="2026-01-02T03:04:05+00:00",
        finished="2026-01-02T03:04:15+00:00",
        verdict=verdict,
        exit_code=verdict.exit_code,
        sentence="sentence of the run",
        kernel={"name": "7.3", "release": "7.3.4", "version": "#1 SMP PREEMPT_DYNAMIC", "patches": ""},
        design="order0",
        design_evidence=("kvm_gmem_get_pfn gives order 0",),
        host={"kind": "emulated", "cpus": "2"},
        guest_kind="sw-protected",
        qemu={"version": "10.0.2"},
        seed=7,
        versions={"gmem": "0.1.0"},
        command=("gmem", "run", "a suite"),
        counts={"pass": 1},
    )
    return msgspec.structs.replace(usual, **more)


def hostile_case(text: str, verdict: Verdict = Verdict.DEVIATES) -> CaseResult:
    """``text`` in every place where a record holds text."""
    wrong = finding(text, 1, 2, verdict=Verdict.DEVIATES, reasons=(text, text))
    bad = StepResult(index=0, text=text, seconds=0.1, findings=(wrong,), recorded={text: 1}, messages=(text,))
    return CaseResult(
        suite=text, case=text, claim=text, verdict=verdict, sentence=text, seconds=0.1, steps=(bad,), evidence=text
    )


def hostile_run(text: str) -> RunInfo:
    table = {text: text, "release": text, "version": text, "name": text}
    return run_info(
        Verdict.DEVIATES,
        started=text,
        finished=text,
        sentence=text,
        kernel=table,
        design=text,
        design_evidence=(text,),
        host=table,
        guest_kind=text,
        qemu=table,
        versions=table,
        command=(text,),
        counts={text: 1},
        same=(text,),
    )
