# SPDX-License-Identifier: GPL-2.0-only
"""What a case tells: the right step, sums over several, and nothing where the walk did not come."""

from __future__ import annotations

import msgspec
import pytest
from report_records import case, finding, step

from harness.errors import UsageError
from harness.run.result import CaseResult
from harness.run.tell import Tell, check_tells, with_tells
from harness.run.verdict import Verdict

STEPS = (
    step(0, finding("nr_file_hugepages", 8, 8), finding("F", -4100, -4096, high=-4090)),
    step(1, finding("nr_file_hugepages", -1, 0, verdict=Verdict.DEVIATES)),
    msgspec.structs.replace(step(2), still={"nothing moves it": ("nr_file_hugepages",)}, messages=("a page is wrong",)),
)
RESULT = case("x", Verdict.PASS, *STEPS)


def said(tell: Tell, result: CaseResult = RESULT, steps: int = 3) -> str:
    return with_tells([tell], steps, result).tells[0].text


@pytest.mark.parametrize(
    ("tell", "text"),
    [
        (Tell(0, "nr_file_hugepages"), "nr_file_hugepages +8 (predicted +8)"),
        (Tell(1, "nr_file_hugepages", "{observed}/{predicted} at {step}"), "+0/-1 at 1"),
        (Tell(-1, "nr_file_hugepages"), "nr_file_hugepages +0 (predicted +0)"),
        (Tell(-1, "nr_file_hugepages", first=0), "nr_file_hugepages +8 (predicted +7)"),
        (Tell(0, "F", "{predicted}"), "-4100..-4090"),
        (Tell(1, "pgfault"), "pgfault +3 (predicted ?)"),
        (Tell(1, "no_such_counter"), "no_such_counter ? (predicted ?)"),
        (Tell(2, "messages"), "messages +1 (predicted +0)"),
        (Tell(1, "{step}"), "{step} ? (predicted ?)"),
    ],
)
def test_text(tell: Tell, text: str) -> None:
    assert said(tell) == text


def test_where_the_walk_did_not_come() -> None:
    assert said(Tell(4, "nr_file_hugepages"), steps=5) == "nr_file_hugepages not reached (predicted ?)"
    assert said(Tell(4, "nr_file_hugepages", first=0), steps=5) == "nr_file_hugepages not reached (predicted ?)"


@pytest.mark.parametrize(
    ("tell", "sentence"),
    [
        (Tell(3, "F"), "there is no step 3, the scenario has 3 steps"),
        (Tell(-4, "F"), "there is no step -4"),
        (Tell(1, "F", first=7), "there is no step 7"),
        (Tell(0, "F", first=1), "its first step 1 comes after its last, 0"),
    ],
)
def test_a_step_that_is_not_there(tell: Tell, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        check_tells([tell], 3)


@pytest.mark.parametrize("text", ["{seen}", "{observed", "{0}", "{}"])
def test_a_format_that_cannot_be_filled(text: str) -> None:
    with pytest.raises(UsageError, match="Tell of F: the format"):
        Tell(0, "F", text)


def test_a_place_needs_an_axis() -> None:
    with pytest.raises(UsageError, match="go together"):
        Tell(0, "F", x=3.0)


def test_a_sum_that_is_not_whole_is_no_number() -> None:
    told = with_tells([Tell(4, "nr_file_hugepages", first=0)], 5, RESULT).tells[0]
    assert (told.low, told.high, told.observed) == (None, None, None)
