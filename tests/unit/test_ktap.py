# SPDX-License-Identifier: GPL-2.0-only
"""What selftests print: TAP of kselftest.h and of its harness, KTAP with subtests, and assertions of KVM's library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.run.ktap import RESULTS_AT_MOST, Outcome, parse_output

# As kselftest_harness.h prints it.
HARNESS = """\
TAP version 13
1..3
# Starting 3 tests from 1 test cases.
#  RUN           gmem.single_page ...
#            OK  gmem.single_page
ok 1 gmem.single_page
#  RUN           gmem.fork ...
# conversions.c:40:fork:Expected 0 (0) == ret (-1)
# fork: Test terminated by assertion
#          FAIL  gmem.fork
not ok 2 gmem.fork
#  RUN           gmem.pinned ...
#      SKIP      no CONFIG_GUP_TEST
ok 3 gmem.pinned # SKIP no CONFIG_GUP_TEST
# FAILED: 2 / 3 tests passed.
# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:1 error:0
"""

# As lib/assert.c prints it where there is no addr2line.
GUEST_ASSERTION = """\
Random seed: 0x6b8b4567

==== Test Assertion Failure ====
  x86/private_mem_conversions_test.c:350: false
  pid=77 tid=79 errno=0 - Success
sh: addr2line: not found
  Failed guest assert: mem[i] == pattern at x86/private_mem_conversions_test.c:170
Guest expected 0x0 at offset 0 (gpa 0x100000000), got 0x22
"""

NESTED = """\
KTAP version 1
1..2
  KTAP version 1
  # Subtest: memory
  1..2
  ok 1 populate
    # Subtest: punch
    1..1
    not ok 1 - half # still there
  not ok 2 punch
not ok 1 memory
ok 2 rest
"""


def test_results_of_the_harness() -> None:
    output = parse_output(HARNESS)
    assert (output.planned, output.outermost, output.skipped, output.bail_out) == (3, 3, None, None)
    assert [(result.name, result.outcome, result.why) for result in output.results] == [
        ("gmem.single_page", Outcome.OK, ""),
        ("gmem.fork", Outcome.NOT_OK, "fork: Test terminated by assertion"),
        ("gmem.pinned", Outcome.SKIP, "no CONFIG_GUP_TEST"),
    ]


def test_subtests_have_the_name_of_their_parents() -> None:
    output = parse_output(NESTED)
    assert (output.planned, output.outermost) == (2, 2)
    assert [(result.name, result.outcome.value, result.depth) for result in output.results] == [
        ("memory/populate", "ok", 2),
        ("memory/punch/half", "not ok", 4),
        ("memory/punch", "not ok", 2),
        ("memory", "not ok", 0),
        ("rest", "ok", 0),
    ]
    assert output.results[1].why == "still there"


@pytest.mark.parametrize(
    ("line", "name", "outcome", "why"),
    [
        ("ok 1 one", "one", Outcome.OK, ""),
        ("ok 1 - one", "one", Outcome.OK, ""),
        ("ok 1", "result 1", Outcome.OK, ""),
        ("ok 1 one # a remark", "one", Outcome.OK, "a remark"),
        ("ok 1 # SKIP one", "one", Outcome.SKIP, ""),
        ("ok 1 one # skip: no memory", "one", Outcome.SKIP, "no memory"),
        ("ok 1 # XFAIL one", "one", Outcome.XFAIL, ""),
        ("ok 1 # XPASS one", "one", Outcome.OK, ""),
        ("not ok 1 one # TODO some day", "one", Outcome.XFAIL, "some day"),
        ("ok 1 one # TODO some day", "one", Outcome.OK, "some day"),
        ("not ok 1 # error one", "one", Outcome.NOT_OK, ""),
        ("not ok 1 one # TIMEOUT 45 seconds", "one", Outcome.NOT_OK, "45 seconds"),
        ("not ok 1 one#2", "one#2", Outcome.NOT_OK, ""),
    ],
)
def test_one_line(line: str, name: str, outcome: Outcome, why: str) -> None:
    (result,) = parse_output(line).results
    assert (result.name, result.outcome, result.why) == (name, outcome, why)


@pytest.mark.parametrize(
    "line", ["okay 1 one", "ok one", "# ok 1 one", "not  ok 1 one", "ok 12345678901 one", "tok 1 x"]
)
def test_what_is_no_result(line: str) -> None:
    assert parse_output(line).results == ()


def test_an_assertion_is_one_sentence() -> None:
    output = parse_output(GUEST_ASSERTION)
    assert output.assertion == (
        "x86/private_mem_conversions_test.c:350: false: Failed guest assert: mem[i] == pattern at "
        "x86/private_mem_conversions_test.c:170 Guest expected 0x0 at offset 0 (gpa 0x100000000), got 0x22"
    )
    cut = parse_output("==== Test Assertion Failure ====")
    assert cut.assertion == ""
    assert cut.last_line == "==== Test Assertion Failure ===="


def test_an_assertion_tells_why_a_result_is_not_ok() -> None:
    text = HARNESS.replace("# fork: Test", GUEST_ASSERTION + "# fork: Test")
    why = parse_output(text).results[1].why
    assert why.startswith("x86/private_mem_conversions_test.c:350: false: Failed guest assert")
    assert parse_output(text).results[0].why == ""


def test_all_of_it_skipped() -> None:
    output = parse_output("1..0 # SKIP - Requirement not met: kvm_has_cap(KVM_CAP_GUEST_MEMFD)\n")
    assert output.skipped == "Requirement not met: kvm_has_cap(KVM_CAP_GUEST_MEMFD)"
    assert parse_output("1..4 # SKIP no").skipped is None


def test_bail_out() -> None:
    assert parse_output("1..4\nBail out! no /dev/kvm\n").bail_out == "no /dev/kvm"


def test_a_flood_is_bounded() -> None:
    output = parse_output("".join(f"ok {number} {'x' * 9000}\n" for number in range(1, RESULTS_AT_MOST + 500)))
    assert len(output.results) == RESULTS_AT_MOST
    assert max(len(result.name) for result in output.results) < 600


_LINE = st.sampled_from(
    [
        "ok 1 a",
        "not ok 2 b # SKIP c",
        "  # Subtest: s",
        "  ok 1 x",
        "1..3",
        "Bail out! z",
        "==== Test Assertion Failure ====",
    ]
) | st.text(max_size=30)


@given(st.lists(_LINE, max_size=30))
def test_no_text_breaks_it(lines: list[str]) -> None:
    output = parse_output("\n".join(lines))
    assert len(output.results) <= len("\n".join(lines).splitlines())
    assert output.outermost <= len(output.results)
