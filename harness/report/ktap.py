# SPDX-License-Identifier: GPL-2.0-only
"""KTAP, the kernel's own test output (``Documentation/dev-tools/ktap.rst``), version 1, one flat list of cases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Final

from harness.report.junit import details
from harness.report.summary import GOOD, case_name, guest_kind_text, kernel_text, run_problem
from harness.report.text import one_line
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict

_DIAGNOSTICS: Final = 200
"""Diagnostic lines of one case."""

_ENDS: Final = re.compile(r"(List of all partitions|Kernel panic - not syncing(?=: VFS)|reboot(?=: System halted)):")
"""What ends a list to the kernel's own parser, wherever it stands (``KTAP_END``, tools/testing/kunit/kunit_parser.py):
a kernel that finds no root prints just that, and the sentence about it would hide all results behind it."""


def ktap(info: RunInfo, cases: Sequence[CaseResult]) -> str:
    """The whole list; a case that passes is ``ok``, a skipped one ``ok`` with ``# SKIP``, all others ``not ok``.

    A failure that the design means is ``ok`` with ``# XFAIL``, as kselftest.h writes it.

    ``not ok`` without a directive is a claim that does not hold; ``# ERROR`` follows where the claim was not decided.
    """
    problem = run_problem(info, cases)
    everything = [*cases, *([problem] if problem else [])]
    lines = [
        "KTAP version 1",
        f"1..{len(everything)}" if everything else "1..0 # SKIP nothing ran",
        f"# kernel: {kernel_text(info)}",
        f"# design: {one_line(info.design)}",
        f"# guest: {guest_kind_text(info.guest_kind)}",
    ]
    for number, case in enumerate(everything, 1):
        if case.verdict not in GOOD:
            lines.extend(_diagnostic(line) for line in islice(details(case), _DIAGNOSTICS))
        lines.append(_result(number, case))
    lines.append(f"# verdict: {info.verdict.value}: {one_line(info.sentence)}")
    return _ENDS.sub(r"\1 :", "\n".join(lines)) + "\n"


def _diagnostic(line: str) -> str:
    """``# Subtest: x`` would begin a nested list, whatever a suite is called."""
    return f"#  {line}" if line.startswith("Subtest") else f"# {line}"


def _result(number: int, case: CaseResult) -> str:
    # a '#' in a name would start a directive; the repetition's own number is written with one, so it goes too
    name = case_name(case).replace("#", "no.")
    word = "ok" if case.verdict in GOOD else "not ok"
    line = f"{word} {number} {name}"
    if case.verdict in (Verdict.PASS, Verdict.DEVIATES):
        return line
    if case.verdict is Verdict.XFAIL:
        return f"{line} # XFAIL {one_line(case.sentence)}"
    if case.verdict in GOOD:
        return f"{line} # SKIP {one_line(case.sentence)}"
    return f"{line} # ERROR {case.verdict.value}: {one_line(case.sentence)}"
