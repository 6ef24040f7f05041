# SPDX-License-Identifier: GPL-2.0-only
"""From exit status and output of a selftest to verdicts; the list of tests and of the failures that designs mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.model.designs import DESIGNS
from harness.run.selftest_list import ExpectedFailure, SelftestList, load_selftests
from harness.run.selftests import decide
from harness.run.verdict import Verdict, worst
from tests.unit.test_ktap import GUEST_ASSERTION, HARNESS

TEST = "x86/private_mem_conversions_test"
KNOWN = SelftestList(
    {TEST: "conversions", "other": "else"},
    (
        ExpectedFailure(("thp-2m-truncate",), TEST, because="holes are narrowed", shows="Guest expected 0x0"),
        ExpectedFailure(("inplace",), "other", because="no fork", shows="terminated", result="gmem.fork"),
    ),
)


def program(code: int, text: str, *, design: str = "order0", test: str = TEST) -> tuple[Verdict, str]:
    first = decide(KNOWN, design, test, code, text)[0]
    assert first.result == ""
    return first.verdict, first.sentence


@pytest.mark.parametrize(
    ("code", "text", "verdict", "sentence"),
    [
        (0, "", Verdict.PASS, "exit status 0"),
        (0, "Testing ADD of 32764 slots\n", Verdict.PASS, "exit status 0"),
        (0, "1..2\nok 1 a\nok 2 b\n", Verdict.PASS, "exit status 0, 2 results"),
        (0, "1..3\nok 1 a\nok 2 b\n", Verdict.DEVIATES, "it ends with status 0, announced 3 results and printed 2"),
        (0, "1..1\nnot ok 1 a\n", Verdict.DEVIATES, "it ends with status 0 although 1 results are not ok: a"),
        (0, "1..1\nnot ok 1 a # TODO later\n", Verdict.PASS, "exit status 0, 1 results"),
        (1, HARNESS, Verdict.DEVIATES, "1 of 3 results: gmem.fork"),
        (1, "1..2\nok 1 a\nok 2 b\n", Verdict.DEVIATES, "exit status 1: ok 2 b"),
        (1, "1..2\nnot ok 1 a\nBail out! no\n", Verdict.DEVIATES, "exit status 1: bail out: no"),
        (4, "1..0 # SKIP - Requirement not met: X\n", Verdict.SKIP, "skipped by itself: Requirement not met: X"),
        (4, "", Verdict.SKIP, "skipped by itself: it gave no reason"),
        (254, "", Verdict.DEVIATES, "exit status 254: it printed nothing"),
        (127, "sh: /tmp/selftest: not found\n", Verdict.DEVIATES, "exit status 127: sh: /tmp/selftest: not found"),
        (139, "", Verdict.DEVIATES, "killed by signal 11: it printed nothing"),
        (2, "x", Verdict.DEVIATES, "exit status 2: x"),
    ],
)
def test_exit_status(code: int, text: str, verdict: Verdict, sentence: str) -> None:
    assert program(code, text) == (verdict, sentence)


def test_an_assertion_is_the_reason() -> None:
    verdict, sentence = program(254, GUEST_ASSERTION)
    assert verdict is Verdict.DEVIATES
    assert sentence.startswith("exit status 254: x86/private_mem_conversions_test.c:350: false: Failed guest assert")


def test_a_failure_that_the_design_means() -> None:
    verdict, sentence = program(254, GUEST_ASSERTION, design="thp-2m-truncate")
    assert verdict is Verdict.XFAIL
    assert sentence.startswith("as design thp-2m-truncate means it: holes are narrowed (exit status 254: ")
    assert program(254, GUEST_ASSERTION, design="thp-2m-truncate:4")[0] is Verdict.XFAIL
    assert program(254, GUEST_ASSERTION, design="thp-2m-truncate-noop")[0] is Verdict.DEVIATES


def test_another_failure_than_the_one_that_is_meant_deviates() -> None:
    verdict, sentence = program(
        254, "==== Test Assertion Failure ====\n  a.c:1: x\n\n  KVM_RUN\n", design="thp-2m-truncate"
    )
    assert verdict is Verdict.DEVIATES
    said = "(design thp-2m-truncate makes it fail in another way: with 'Guest expected 0x0')"
    assert sentence == f"exit status 254: a.c:1: x: KVM_RUN {said}"


def test_a_pass_where_a_failure_is_meant_is_told() -> None:
    verdict, sentence = program(0, "", design="thp-2m-truncate")
    assert verdict is Verdict.PASS
    assert sentence == "exit status 0, although design thp-2m-truncate is said to make it fail (holes are narrowed)"


def test_a_skip_is_no_expected_failure() -> None:
    assert program(4, "1..0 # SKIP no", design="thp-2m-truncate")[0] is Verdict.SKIP


def test_one_result_that_the_design_means() -> None:
    whole, *results = decide(KNOWN, "inplace", "other", 1, HARNESS)
    assert [result.verdict for result in results] == [Verdict.PASS, Verdict.XFAIL, Verdict.SKIP]
    assert (whole.verdict, whole.sentence) == (Verdict.XFAIL, "1 of 3 results: gmem.fork")
    more = HARNESS.replace("ok 1 gmem.single_page", "not ok 1 gmem.single_page")
    assert decide(KNOWN, "inplace", "other", 1, more)[0].verdict is Verdict.DEVIATES


def test_an_expected_failure_is_a_pass_of_the_run() -> None:
    assert worst([Verdict.XFAIL, Verdict.SKIP]) is Verdict.PASS
    assert worst([Verdict.XFAIL, Verdict.DEVIATES]) is Verdict.DEVIATES
    assert Verdict.XFAIL.exit_code == 0


def test_the_list_of_the_project_is_sound() -> None:
    known = load_selftests()
    assert "guest_memfd_test" in known.tests
    for fail in known.fails:
        assert set(fail.designs) <= set(DESIGNS)
        assert fail.because[0].islower() or fail.because.startswith("KVM")
    assert all(known.expected("order0", test) is None for test in known.tests)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tests: {a: b}\nfail: []\n", "unknown field `fail`"),
        ("tests: {a: b}\nfails: [{designs: [order1], test: a, because: x, shows: y}]\n", "names design order1"),
        ("tests: {a: b}\nfails: [{designs: [order0], test: b, because: x, shows: y}]\n", "a failure of b is expected"),
        (
            "tests: {a: b}\nfails: [{designs: [order0], test: a, because: x, shows: ''}]\n",
            "needs 'because' and 'shows'",
        ),
        ("tests: {a: b}\nfails: [{designs: [order0], test: a, because: x}]\n", "missing required field `shows`"),
        ("tests: {a: [\n", "line 2"),
    ],
)
def test_a_list_that_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    place = tmp_path / "selftests.yaml"
    place.write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        load_selftests(place)
    assert str(place) in str(caught.value)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_selftests(tmp_path / "none.yaml")
