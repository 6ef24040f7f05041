# SPDX-License-Identifier: GPL-2.0-only
"""Reads what a selftest prints: TAP 13 and KTAP (``Documentation/dev-tools/ktap.rst``), and ``TEST_ASSERT`` of KVM's.

What a program prints is data: lines and results are bounded, and a text that follows no rule gives no result.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

RESULTS_AT_MOST = 1000
"""Results of one program that are kept; ``x86/guest_memfd_conversions_test`` has some 20."""
_LINE_LIMIT = 500

_RESULT = re.compile(r"(?P<indent> {0,64})(?P<word>not ok|ok) +(?P<number>\d{1,9})(?: +- +| +|$)(?P<rest>.*)")
_PLAN = re.compile(r"(?P<indent> {0,64})1\.\.(?P<count>\d{1,9})(?: *# *SKIP\b(?P<why>.*))?\s*$", re.I)
_DIRECTIVE = re.compile(r"(?:^|(?<=\s))#\s*(?P<word>SKIP|XFAIL|XPASS|TODO|TIMEOUT|error)\b:?\s*(?P<why>.*)$", re.I)
_SUBTEST = re.compile(r"(?P<indent> {0,64})# Subtest: *(?P<name>.*)")
_BAIL = re.compile(r" *Bail out!(?P<why>.*)")
_ASSERTION = "==== Test Assertion Failure ===="
_STACK = re.compile(r"\d+\s|\(stack trace|\S*sh: .*addr2line")
_MESSAGE_LINES = 2


class Outcome(enum.Enum):
    """What one result line says."""

    OK = "ok"
    NOT_OK = "not ok"
    SKIP = "skip"
    XFAIL = "xfail"


@dataclass(frozen=True)
class Result:
    """One result; those of subtests are named ``SUBTEST/NAME`` and stand before the result of the subtest itself."""

    name: str
    outcome: Outcome
    why: str
    """What follows the directive; for a failure, the diagnostic line before it."""
    depth: int


@dataclass(frozen=True)
class Output:
    """What a program printed, understood."""

    results: tuple[Result, ...]
    """At most ``RESULTS_AT_MOST``."""
    planned: int | None
    """How many results of the outermost level were announced; None when nothing was."""
    skipped: str | None
    """Why all of it was skipped (``1..0 # SKIP why``); None when it was not."""
    bail_out: str | None
    """What ``Bail out!`` said."""
    assertion: str
    """The first failed assertion as one sentence; '' when there is none."""
    last_line: str

    @property
    def outermost(self) -> int:
        """Results of the outermost level."""
        return sum(result.depth == 0 for result in self.results)


def parse_output(text: str) -> Output:
    """Understand what a program printed; never raises."""
    lines = [line[:_LINE_LIMIT].rstrip() for line in text.splitlines()]
    results: list[Result] = []
    subtests: dict[int, str] = {}
    """Depth to the name of the subtest whose results have it."""
    planned: int | None = None
    skipped = bail_out = None
    since = 0
    for at, line in enumerate(lines):
        if subtest := _SUBTEST.fullmatch(line):
            subtests[len(subtest["indent"])] = subtest["name"].strip()
        elif plan := _PLAN.fullmatch(line):
            if not plan["indent"] and planned is None:
                planned = int(plan["count"])
                skipped = plan["why"].strip(" -") if plan["why"] is not None and planned == 0 else None
        elif (match := _RESULT.fullmatch(line)) and len(results) < RESULTS_AT_MOST:
            results.append(_result(match, subtests, lines[since:at]))
            since = at + 1
        elif (bail := _BAIL.fullmatch(line)) and bail_out is None:
            bail_out = bail["why"].strip()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Output(tuple(results), planned, skipped, bail_out, _assertion(lines), last)


def _result(match: re.Match[str], subtests: dict[int, str], before: list[str]) -> Result:
    """The result of one line; ``before`` are the lines since the last one."""
    depth, rest = len(match["indent"]), match["rest"]
    name, why, word = rest, "", ""
    directive = _DIRECTIVE.search(rest)
    if directive:
        name, word, why = rest[: directive.start()], directive["word"].upper(), directive["why"].strip()
        if not name.strip():  # "ok 1 # SKIP name" is what ksft_test_result_skip() prints
            name, why = why, ""
    else:
        name, _, why = (part.strip() for part in rest.partition(" # "))
    outcome = _outcome(match["word"], word)
    if outcome is Outcome.NOT_OK:
        why = why or _assertion(before) or _diagnosis(before)
    for deeper in [known for known in subtests if known > depth]:  # they end with the result of their parent
        del subtests[deeper]
    parents = [subtests[known] for known in sorted(subtests) if known]
    return Result("/".join((*parents, name.strip() or f"result {match['number']}")), outcome, why, depth)


def _outcome(said: str, directive: str) -> Outcome:
    if directive == "SKIP":
        return Outcome.SKIP
    if directive == "XFAIL" or (directive == "TODO" and said == "not ok"):
        return Outcome.XFAIL
    return Outcome.OK if said == "ok" else Outcome.NOT_OK


def _diagnosis(lines: list[str]) -> str:
    """The last diagnostic line that says more than which test it is about."""
    said = (line.lstrip("# ") for line in reversed(lines) if line.lstrip().startswith("#"))
    return next((text for text in said if text and not re.match(r"(FAIL|OK|RUN)\b", text)), "")


def _assertion(lines: list[str]) -> str:
    """The first failed ``TEST_ASSERT`` (lib/assert.c:test_assert) as ``FILE:LINE: CONDITION: MESSAGE``.

    Behind the condition come pid and errno, the stack with a number in front of each line, where it could be had, and
    the message; a guest's own assertion is a message of two lines.
    """
    if _ASSERTION not in lines:
        return ""
    at = lines.index(_ASSERTION)
    where, *_ = [line.strip() for line in lines[at + 1 : at + 2]] or [""]
    message: list[str] = []
    for line in lines[at + 3 : at + 40]:
        text = line.strip()
        if message and not text:
            break
        if text and not _STACK.match(text):
            message.append(text)
        if len(message) == _MESSAGE_LINES:
            break
    return ": ".join([where, " ".join(message)] if message else [where])
