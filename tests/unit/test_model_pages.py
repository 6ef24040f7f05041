# SPDX-License-Identifier: GPL-2.0-only
"""Sets of pages as integers agree with Python's sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from harness.model import pages, physics
from harness.model.state import Patterns, chunks_of, page_set, whole_chunks
from harness.scenario.steps import PageRange

sets = st.sets(st.integers(0, 1500), max_size=40)


def as_int(numbers) -> int:
    return sum(1 << n for n in set(numbers))


def as_set(number: int) -> set[int]:
    return {n for n in range(number.bit_length()) if number >> n & 1}


@given(st.integers(0, 900), st.integers(1, 900), st.integers(1, 99))
def test_spans_and_strides(start, count, stride):
    assert as_set(pages.span(start, count)) == set(range(start, start + count))
    assert as_set(pages.strided(start, start + count, stride)) == set(range(start, start + count, stride))


@given(sets)
def test_runs_rebuild_the_set_and_do_not_touch(numbers):
    runs = pages.runs(as_int(numbers))
    assert as_int(n for start, count in runs for n in range(start, start + count)) == as_int(numbers)
    assert all(a + n < b for (a, n), (b, _) in pairwise(runs))
    assert pages._few_runs(as_int(numbers)) == runs


@given(sets, st.sampled_from([0, 3, 6, 9]))
def test_groups_that_hold_a_page(numbers, order):
    assert as_set(pages.groups(as_int(numbers), order)) == {n >> order << order for n in numbers}


@given(sets)
def test_chunks(numbers):
    assert as_set(chunks_of(as_int(numbers))) == {n // 512 for n in numbers}


@given(st.integers(0, 2000), st.integers(1, 2000))
def test_whole_chunks(start, count):
    where = page_set(PageRange("g0.r0", start, count))
    whole = {c for c in range(9) if start <= c * 512 and (c + 1) * 512 <= start + count}
    assert as_set(whole_chunks(where)) == whole


def test_patterns_replace_one_another():
    patterns = Patterns().write(0b1111, 1).write(0b0110, 2).clear(0b1000)
    assert dict(patterns.within(0b1111)) == {1: 0b0001, 2: 0b0110, None: 0b1000}
    assert Patterns().write(0, 1) == Patterns()


def test_pages_that_a_discard_lists_its_pages_in():
    """mm/mmu_gather.c: 7 on the stack, then 509 to a page, 19 pages at most."""
    steps = {0: 0, 6: 0, 7: 1, 512: 1, 515: 1, 516: 2, 1025: 3, 10**6: 19}
    assert {n: physics.gather_pages(n) for n in steps} == steps


def test_the_first_page_of_a_set():
    assert [pages.first(1 << n | 1 << 900) for n in (0, 1, 8, 899)] == [0, 1, 8, 899]
