# SPDX-License-Identifier: GPL-2.0-only
"""JUnit XML, as Jenkins, GitLab and Buildbot read it: one test suite per suite of the run.

A case that deviates is a *failure*.  Outcomes that say nothing about the claim are an *error* whose type is the
verdict's word; so a CI that counts only failures never blames a kernel for a broken testbed.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Final

from harness.report.summary import case_name, guest_kind_text, kernel_text, observed_text, outside, run_problem
from harness.report.text import bounded, one_line
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict

_ELEMENT: Final = {
    Verdict.PASS: None,
    Verdict.SKIP: "skipped",
    Verdict.XFAIL: "skipped",  # as pytest writes an expected failure; the type says which of the two it is
    Verdict.NOTHING_RAN: "skipped",
    Verdict.DEVIATES: "failure",
}
"""Every verdict that is not listed is an ``error``."""

_DETAIL_LIMIT: Final = 20_000
"""Characters of a failure's text: all findings of a step with their reasons fit, a flood does not."""


def junit_xml(info: RunInfo, cases: Sequence[CaseResult]) -> str:
    """The document; every text in it is cleaned of what XML 1.0 forbids, and bounded."""
    problem = run_problem(info, cases)
    everything = [*cases, *([problem] if problem else [])]
    root = ET.Element("testsuites", {"name": "gmem", **_numbers(everything)})
    for suite in dict.fromkeys(case.suite for case in everything):
        members = [case for case in everything if case.suite == suite]
        facts = {"name": one_line(suite), "timestamp": one_line(info.started), **_numbers(members)}
        element = ET.SubElement(root, "testsuite", facts)
        _properties(element, info)
        for case in members:
            _case(element, case)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _numbers(cases: Sequence[CaseResult]) -> dict[str, str]:
    kinds = [_ELEMENT.get(case.verdict, "error") for case in cases]
    return {
        "tests": str(len(cases)),
        "failures": str(kinds.count("failure")),
        "errors": str(kinds.count("error")),
        "skipped": str(kinds.count("skipped")),
        "time": f"{sum(case.seconds for case in cases):.3f}",
    }


def _properties(suite: ET.Element, info: RunInfo) -> None:
    properties = ET.SubElement(suite, "properties")
    values = {
        "design": info.design,
        "guest": guest_kind_text(info.guest_kind),
        "host": ", ".join(f"{key}={value}" for key, value in sorted(info.host.items())),
        "kernel": kernel_text(info),
        "seed": str(info.seed),
        "verdict": info.verdict.value,
    }
    for name, value in values.items():
        ET.SubElement(properties, "property", name=name, value=one_line(value))


def _case(suite: ET.Element, case: CaseResult) -> None:
    name = one_line(case.case, 300) + (f" #{case.repeat}" if case.repeat > 1 else "")
    element = ET.SubElement(suite, "testcase", classname=one_line(case.suite), name=name, time=f"{case.seconds:.3f}")
    kind = _ELEMENT.get(case.verdict, "error")
    if kind is None:
        return
    outcome = ET.SubElement(element, kind, message=one_line(case.sentence), type=case.verdict.value)
    if kind != "skipped":
        outcome.text = bounded("\n".join(details(case)), _DETAIL_LIMIT)


def details(case: CaseResult) -> list[str]:
    """What speaks against a case, one line each: findings outside their prediction with the reasons, and messages."""
    lines = [f"{case_name(case)}: {one_line(case.claim)}"]
    for step in case.steps:
        wrong = [finding for finding in step.findings if outside(finding)]
        if wrong or step.messages:
            lines.append(f"step {step.index}: {one_line(step.text)}")
        for finding in wrong:
            lines.append(
                f"  {one_line(finding.counter, 100)}: predicted {finding.predicted}, observed "
                f"{observed_text(finding.observed)} (noise {finding.noise}): {finding.verdict.value}"
            )
            lines.extend(f"    because {one_line(reason)}" for reason in finding.reasons)
        lines.extend(f"  {one_line(message)}" for message in step.messages)
    if case.evidence:
        lines.append(f"evidence: {one_line(case.evidence)}")
    return lines
