# SPDX-License-Identifier: GPL-2.0-only
"""Decides what a selftest's exit status and output amount to: verdicts.

One for the program, and one for each result that it printed.  Pure: an ending in, verdicts out.

* Exit status 0 passes, 4 (``KSFT_SKIP``) is skipped, every other one deviates; so does a program that ends well
  although a result is not ok, or although it printed fewer results than it announced.
* A failure that the design means (``host-configs/selftests.yaml``) is ``xfail`` if the output shows what is expected of
  it, and deviates otherwise.  A test that passes although its failure is expected passes, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.run.ktap import Outcome, Output, Result, parse_output
from harness.run.selftest_list import ExpectedFailure, SelftestList
from harness.run.verdict import Verdict

KSFT_PASS, KSFT_FAIL, KSFT_SKIP = 0, 1, 4
"""Exit statuses of tools/testing/selftests/kselftest.h.  KVM's own assertions (lib/assert.c) end with 254."""
_SIGNALLED = 128
"""A shell adds the number of the signal that ended a program to this."""
_NAMES_AT_MOST = 5


@dataclass(frozen=True)
class Decided:
    """A verdict with its sentence; ``result`` is '' for the program as a whole."""

    result: str
    verdict: Verdict
    sentence: str


def decide(known: SelftestList, design: str, test: str, code: int, text: str) -> tuple[Decided, ...]:
    """The program's verdict first, then those of its results, in the order in which they were printed."""
    output = parse_output(text)
    results = tuple(_of_result(known, design, test, result, text) for result in output.results)
    verdict, why = _of_program(code, output, results)
    expected = known.expected(design, test)
    if expected is not None:
        verdict, why = _held_against(expected, design, verdict, why, text)
    return Decided("", verdict, why), *results


def _of_program(code: int, output: Output, results: tuple[Decided, ...]) -> tuple[Verdict, str]:
    """What the exit status says, where the results do not contradict it."""
    bad = [result for result in results if result.verdict is Verdict.DEVIATES]
    meant = [result for result in results if result.verdict is Verdict.XFAIL]
    if code == KSFT_SKIP:
        return Verdict.SKIP, f"skipped by itself: {output.skipped or output.last_line or 'it gave no reason'}"
    if code == KSFT_FAIL and output.bail_out is None and (bad or meant):
        # The results explain the status; those that the design means are no more than that.
        named = bad or meant
        verdict = Verdict.DEVIATES if bad else Verdict.XFAIL
        return verdict, f"{len(named)} of {len(results)} results: {_names(named)}"
    if code != KSFT_PASS:
        return Verdict.DEVIATES, f"{_ended(code)}: {_reason(output)}"
    if bad:
        return Verdict.DEVIATES, f"it ends with status 0 although {len(bad)} results are not ok: {_names(bad)}"
    if output.planned is not None and output.planned != output.outermost:
        return Verdict.DEVIATES, (
            f"it ends with status 0, announced {output.planned} results and printed {output.outermost}"
        )
    return Verdict.PASS, "exit status 0" + (f", {len(results)} results" if results else "")


def _of_result(known: SelftestList, design: str, test: str, result: Result, text: str) -> Decided:
    why = f": {result.why}" if result.why else ""
    verdict, sentence = {
        Outcome.OK: (Verdict.PASS, f"ok{why}"),
        Outcome.NOT_OK: (Verdict.DEVIATES, f"not ok{why}"),
        Outcome.SKIP: (Verdict.SKIP, f"skipped by itself{why}"),
        Outcome.XFAIL: (Verdict.XFAIL, f"the test itself expects this failure{why}"),
    }[result.outcome]
    expected = known.expected(design, test, result.name)
    if expected is not None:
        verdict, sentence = _held_against(expected, design, verdict, sentence, text)
    return Decided(result.name, verdict, sentence)


def _held_against(expected: ExpectedFailure, design: str, verdict: Verdict, why: str, text: str) -> tuple[Verdict, str]:
    """A verdict in the light of the failure that is expected."""
    if verdict is Verdict.PASS:
        return verdict, f"{why}, although design {design} is said to make it fail ({expected.because})"
    if verdict is not Verdict.DEVIATES:
        return verdict, why
    if expected.shows not in text:
        return verdict, f"{why} (design {design} makes it fail in another way: with {expected.shows!r})"
    return Verdict.XFAIL, f"as design {design} means it: {expected.because} ({why})"


def _ended(code: int) -> str:
    return f"killed by signal {code - _SIGNALLED}" if _SIGNALLED < code <= _SIGNALLED + 64 else f"exit status {code}"


def _reason(output: Output) -> str:
    if output.assertion:
        return output.assertion
    if output.bail_out is not None:
        return f"bail out: {output.bail_out}"
    return output.last_line or "it printed nothing"


def _names(results: list[Decided]) -> str:
    more = f" and {len(results) - _NAMES_AT_MOST} more" if len(results) > _NAMES_AT_MOST else ""
    return ", ".join(result.result for result in results[:_NAMES_AT_MOST]) + more
