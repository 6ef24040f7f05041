# SPDX-License-Identifier: GPL-2.0-only
"""The judge: bounds, noise, absence, and who is at fault when lists of conversions disagree."""

from __future__ import annotations

import pytest

from harness.guest.conversions import Conversion
from harness.model.prediction import ExpectedConversion, Prediction, Reason, StepPrediction
from harness.run.judge import UNKNOWN, compare_conversions, expected_on_guest, judge, sentence
from harness.run.verdict import Verdict, worst
from harness.scenario.steps import Convert, PageRange, Side

STEP = Convert(PageRange("g0.r0", 0, 512), Side.SHARED)
PUNCH = Reason("punch", "512 present private pages of g0.r0[0:512] leave the page cache", -512)


def step(**bounds):
    """A prediction; bounds are (low, high) by counter, with ``__`` for the slash."""
    return StepPrediction(
        3, STEP, {name.replace("__", "/"): Prediction(low, high, (PUNCH,)) for name, (low, high) in bounds.items()}
    )


def one(bounds, observed, noise=0, counter="nr_file_pages"):
    found = judge(step(**{counter.replace("/", "__"): bounds}), observed, {counter: noise} if noise else {})
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("bounds", "observed", "noise", "verdict"),
    [
        ((-512, -512), -512, 0, Verdict.PASS),
        ((-512, -512), -511, 0, Verdict.DEVIATES),
        ((-512, -512), -513, 0, Verdict.DEVIATES),
        ((-512, -512), -511, 1, Verdict.INCONCLUSIVE),
        ((-512, -512), -510, 1, Verdict.DEVIATES),
        ((-512, -512), 0, 511, Verdict.DEVIATES),
        ((-512, -512), 0, 512, Verdict.INCONCLUSIVE),
        ((-522, -510), -522, 0, Verdict.PASS),
        ((-522, -510), -510, 0, Verdict.PASS),
        ((-522, -510), -509, 0, Verdict.DEVIATES),
        ((-522, -510), -523, 0, Verdict.DEVIATES),
        ((-522, -510), -524, 2, Verdict.INCONCLUSIVE),
        ((0, 0), 1, 0, Verdict.DEVIATES),
        ((0, 0), 0, 9, Verdict.PASS),
    ],
)
def test_bounds_and_noise(bounds, observed, noise, verdict):
    finding = one(bounds, {"nr_file_pages": observed}, noise)
    assert finding.verdict is verdict
    assert (finding.low, finding.high, finding.observed, finding.noise) == (*bounds, observed, noise)


def test_noise_of_another_counter_excuses_nothing():
    (finding,) = judge(step(nr_file_pages=(0, 0)), {"nr_file_pages": 1}, {"nr_anon_pages": 5})
    assert finding.verdict is Verdict.DEVIATES


@pytest.mark.parametrize(
    "counter", ["nr_file_pages", "nr_unevictable", "F", "pgfree", "gmem/g0", "gmem/g11", "kvm/g1/pages_4k"]
)
def test_a_required_counter_that_is_missing_is_a_fault_of_the_testbed(counter):
    finding = one((0, 0), {}, counter=counter)
    assert finding.verdict is Verdict.INFRA
    assert finding.observed is None


@pytest.mark.parametrize("counter", ["nr_hugetlb", "thp_split_page", "kvm/g0/pages_2m", "unaccounted"])
def test_another_counter_that_is_missing_is_unknown_and_not_judged(counter):
    finding = one((0, 0), {"other": 1}, counter=counter)
    assert finding.verdict is Verdict.SKIP
    assert finding.observed is None
    assert finding.reasons[0] == UNKNOWN
    assert worst([finding.verdict, Verdict.PASS]) is Verdict.PASS


def test_what_nobody_predicted_is_not_judged():
    assert [f.counter for f in judge(step(F=(0, 0)), {"F": 0, "nr_dirty": 7}, {})] == ["F"]


def test_findings_are_sorted_by_counter():
    found = judge(step(pgfree=(0, 0), F=(0, 0), nr_anon_pages=(0, 0)), {}, {})
    assert [f.counter for f in found] == ["F", "nr_anon_pages", "pgfree"]


def test_a_deviation_as_a_sentence():
    assert sentence(one((-512, -512), {"nr_file_pages": -511}), 3, STEP.text()) == (
        "nr_file_pages: predicted -512, observed -511 after step 3 (convert g0.r0[0:512] to shared):"
        " punch: 512 present private pages of g0.r0[0:512] leave the page cache"
    )


def test_an_interval_and_its_noise_as_a_sentence():
    said = sentence(one((-512, 3), {"nr_file_pages": 5}, 2), 0, "settle")
    assert said.startswith(
        "nr_file_pages: predicted -512..+3, observed +5 after step 0 (settle),"
        " but the idle testbed moves it by up to 2: punch: "
    )


def test_an_unknown_counter_as_a_sentence():
    said = sentence(one((0, 0), {}, counter="nr_hugetlb"), 1, "settle")
    assert said.startswith(
        "nr_hugetlb: predicted +0, not observed after step 1 (settle): unknown: this kernel does not"
    )


def call(number: int, pages: int = 1, to_private: bool = True) -> Conversion:
    return Conversion(0x200000 + number * 4096, pages, to_private)


FOUR = [call(0), call(1), call(2), call(3)]


def test_expected_conversions_as_guest_addresses():
    chunks = {"g0.r0": (0x2C00000, 0x1000000), "g1.r0": (0x600000,)}
    expected = [
        ExpectedConversion(5, 1, Side.PRIVATE, "g0.r0"),
        ExpectedConversion(512, 512, Side.SHARED, "g0.r0"),
        ExpectedConversion(0, 2, Side.PRIVATE, "g1.r0"),
    ]
    assert expected_on_guest(expected, chunks) == (
        Conversion(0x2C05000, 1, True),
        Conversion(0x1000000, 512, False),
        Conversion(0x600000, 2, True),
    )


def test_equal_lists_say_nothing():
    assert compare_conversions(FOUR, FOUR, FOUR) == []
    assert compare_conversions([], [], []) == []


def test_a_conversion_that_qemu_left_out_is_named_once():
    (said,) = compare_conversions(FOUR, FOUR, [FOUR[0], FOUR[2], FOUR[3]])
    assert said == "QEMU's conversions lack 0x201000+1 pages to private at index 1, which the guest asked for"


def test_a_conversion_that_qemu_made_twice_is_named_once():
    (said,) = compare_conversions(FOUR, FOUR, [FOUR[0], FOUR[1], FOUR[1], FOUR[2], FOUR[3]])
    assert said.startswith("QEMU's conversions have at index ")
    assert said.endswith("0x201000+1 pages to private, beyond what the guest asked for")


def test_a_wrong_size_or_side_is_named_with_both():
    wrong = [FOUR[0], call(1, pages=2), FOUR[2], call(3, to_private=False)]
    said = compare_conversions(FOUR, FOUR, wrong)
    assert said == [
        "QEMU's conversions have at index 1 0x201000+2 pages to private where the guest asked for"
        " 0x201000+1 pages to private",
        "QEMU's conversions have at index 3 0x203000+1 pages to shared where the guest asked for"
        " 0x203000+1 pages to private",
    ]


def test_a_guest_that_asked_for_something_else_is_not_qemus_fault():
    asked = [FOUR[0], FOUR[1], FOUR[2], call(9)]
    (said,) = compare_conversions(FOUR, asked, asked)
    assert said == (
        "the guest's hypercalls have at index 3 0x209000+1 pages to private where the scenario expects"
        " 0x203000+1 pages to private"
    )


def test_each_missing_call_is_named():
    said = compare_conversions(FOUR, FOUR, [])
    assert len(said) == 4
    assert all("lack" in sentence for sentence in said)
