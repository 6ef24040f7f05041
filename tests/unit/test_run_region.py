# SPDX-License-Identifier: GPL-2.0-only
"""Ranges written as slices: what they mean, and one sentence for what means nothing."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import UsageError
from harness.scenario.region import G0, G1, Region
from harness.scenario.steps import PageRange


def test_slices_and_single_pages() -> None:
    assert G0[0:512] == PageRange("g0.r0", 0, 512)
    assert G1[511:513] == PageRange("g1.r0", 511, 2)
    assert G0[7] == PageRange("g0.r0", 7, 1)
    assert Region("g3.r0")[1:2] == PageRange("g3.r0", 1, 1)


@pytest.mark.parametrize("text", ["g0.r0[0:512]", "g0.r0[7:8]", "g0.r0[4095:4096]"])
def test_what_is_written_is_what_is_shown(text: str) -> None:
    first, end = (int(word) for word in text.removeprefix("g0.r0[").removesuffix("]").split(":"))
    assert str(G0[first:end]) == text
    assert PageRange.parse(text) == G0[first:end]


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (slice(0, 512, 2), "a range of g0.r0 is written g0.r0[first:end], without a step"),
        (slice(0, 512, 1), "without a step"),
        ("0:512", "is written g0.r0[first:end]"),
        (slice("0", 512), "is written g0.r0[first:end]"),
        (slice(None, 512), "is written g0.r0[first:end]"),
        (slice(512, None), "is written g0.r0[first:end]"),
        (slice(None), "is written g0.r0[first:end]"),
        (slice(5, 5), "a range needs at least one"),
        (slice(9, 5), "a range needs at least one"),
        (slice(-5, 5), "the first page of a region is 0"),
        (-1, "the first page of a region is 0"),
    ],
)
def test_what_means_nothing(key: Any, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        G0[key]
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_region_of_no_guest() -> None:
    with pytest.raises(UsageError, match=r"region .guest0. is not of the form g0\.r0"):
        Region("guest0")[0]
