# SPDX-License-Identifier: GPL-2.0-only
"""A page too many or too few is found by its number in the region."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.model import pages
from harness.model.state import RegionState
from harness.run.locate import misplaced, present_pages
from harness.scenario.steps import PageRange


class Census:
    """Counts as the kernel would, and how often it was asked."""

    def __init__(self, present: int) -> None:
        self.present = present
        self.asked = 0

    def __call__(self, where: PageRange) -> int:
        assert where.start // 512 == (where.end - 1) // 512, "one request lies within one chunk"
        self.asked += 1
        return (self.present & pages.span(where.start, where.count)).bit_count()


@given(st.integers(0, (1 << 1024) - 1), st.sets(st.integers(0, 1023), max_size=3))
def test_extra_pages_are_found_exactly(expected: int, extra: set[int]) -> None:
    present = expected
    for page in extra:
        present |= 1 << page
    assert present_pages("g0.r0", 2, Census(present), expected) == present


def test_a_healthy_region_costs_one_request_per_chunk() -> None:
    census = Census(pages.span(0, 700))
    assert present_pages("g0.r0", 8, census, pages.span(0, 700)) == pages.span(0, 700)
    assert census.asked == 8


@pytest.mark.parametrize(
    ("expected", "present", "sentence"),
    [
        (0, 1 << 7, "page 7 of g0.r0 is present and should not be"),
        (pages.span(0, 512), pages.span(0, 512) & ~(1 << 64), "page 64 of g0.r0 is absent and should be present"),
        (0, pages.span(512, 2) | 1, "pages 0, 512-513 of g0.r0 are present and should not be"),
        (
            0,
            pages.strided(0, 512, 64) | pages.strided(512, 1024, 64),
            "pages 0, 64, 128, 192, 256, 320, 384, 448 and 8 more of g0.r0 are present and should not be",
        ),
        (5, 5, ""),
    ],
)
def test_the_sentence_names_the_pages(expected: int, present: int, sentence: str) -> None:
    state = replace(RegionState.empty(8), private=expected)
    others = replace(RegionState.empty(8), private=1)
    assert misplaced("g0", {"g0.r0": state, "g1.r0": others}, Census(present)) == sentence
