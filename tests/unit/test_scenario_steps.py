# SPDX-License-Identifier: GPL-2.0-only
"""Steps and ranges: what they cover, how they read, and what they refuse."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.scenario.steps import (
    CHUNK_PAGES,
    STEP_TYPES,
    Check,
    Close,
    Convert,
    Empty,
    Fallocate,
    Migrate,
    PageRange,
    Populate,
    PunchHole,
    Settle,
    Side,
    Split,
    Touch,
)

CHUNK = PageRange("g0.r0", 0, 512)


def test_a_range_is_cut_at_chunk_boundaries():
    pieces = PageRange("g0.r0", 500, 1000).pieces()
    assert [(p.start, p.count) for p in pieces] == [(500, 12), (512, 512), (1024, 476)]
    assert {p.region for p in pieces} == {"g0.r0"}


def test_a_whole_chunk_is_one_piece():
    assert PageRange("g1.r0", 512, 512).pieces() == (PageRange("g1.r0", 512, 512),)


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_pieces_cover_the_range_once_and_cross_no_boundary(start, count):
    pieces = PageRange("g0.r0", start, count).pieces()
    assert pieces[0].start == start
    assert pieces[-1].end == start + count
    assert all(left.end == right.start for left, right in pairwise(pieces))
    assert all(p.start // CHUNK_PAGES == (p.end - 1) // CHUNK_PAGES for p in pieces)


def test_a_range_reads_as_it_is_written():
    assert str(PageRange.parse("g2.r0[7:9]")) == "g2.r0[7:9]"
    assert PageRange.parse("g2.r0[7:9]") == PageRange("g2.r0", 7, 2)
    assert PageRange("g2.r0", 7, 2).guest == "g2"


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Populate(CHUNK), "populate g0.r0[0:512]"),
        (Touch(CHUNK), "write g0.r0[0:512]"),
        (Touch(CHUNK, stride=2, write=False), "read every 2. page of g0.r0[0:512]"),
        (Convert(CHUNK, Side.PRIVATE), "convert g0.r0[0:512] to private"),
        (Convert(CHUNK, Side.SHARED), "convert g0.r0[0:512] to shared"),
        (Check(CHUNK, "pattern"), "check g0.r0[0:512] for the pattern"),
        (Check(CHUNK, "either"), "check g0.r0[0:512] for the pattern or zeroes"),
        (Fallocate(CHUNK), "fallocate g0.r0[0:512]"),
        (PunchHole(CHUNK), "punch hole g0.r0[0:512]"),
        (Settle(), "settle"),
        (Empty(), "do nothing"),
        (Close("g1"), "close g1"),
        (Migrate(CHUNK), "migrate g0.r0[0:512] to node 1"),
        (Migrate(CHUNK, node=0), "migrate g0.r0[0:512] to node 0"),
        (Split(CHUNK), "split g0.r0[0:512]"),
    ],
)
def test_each_step_says_what_it_does(step, text):
    assert step.text() == text
    assert eval(repr(step)) == step


def test_every_step_type_has_a_word_of_its_own():
    words = [t.__struct_config__.tag for t in STEP_TYPES]
    assert len(set(words)) == len(words) == 18


def test_ranges_and_guests_of_steps():
    assert Touch(CHUNK).ranges() == (CHUNK,)
    assert Touch(CHUNK).guest_names() == ("g0",)
    assert Settle().ranges() == ()
    assert Close("g1").guest_names() == ("g1",)


def test_touch_names_its_pages():
    assert list(Touch(PageRange("g0.r0", 3, 8), stride=3).pages()) == [3, 6, 9]


def test_sides_have_an_opposite():
    assert Side.PRIVATE.other is Side.SHARED
    assert Side.SHARED.other is Side.PRIVATE
    assert Side.UNSET.other is Side.UNSET


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PageRange("r0", 0, 1), "region 'r0' is not of the form g0.r0"),
        (lambda: PageRange("g0.r0", -1, 1), "starts at page -1"),
        (lambda: PageRange("g0.r0", 4, 0), "0 pages"),
        (lambda: PageRange.parse("g0.r0[0-5]"), "not of the form g0.r0[0:512]"),
        (lambda: PageRange.parse("g0.r0[5:5]"), "is empty"),
        (lambda: Touch(CHUNK, stride=0), "stride 0"),
        (lambda: Convert(CHUNK, Side.UNSET), "say private or shared"),
        (lambda: Close("guest"), "guests are called g0, g1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, says):
    with pytest.raises(UsageError) as error:
        make()
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_conversion_by_few_pages_is_cut_from_the_beginning_of_each_piece() -> None:
    calls = Convert(PageRange("g0.r0", 500, 20), Side.PRIVATE, by=8).calls()
    assert [(call.start, call.count) for call in calls] == [(500, 8), (508, 4), (512, 8)]
    assert Convert(PageRange("g0.r0", 0, 3), Side.SHARED, by=1).text() == "convert g0.r0[0:3] to shared by 1"
    for by in (0, 513):
        with pytest.raises(UsageError, match="1 to 512"):
            Convert(PageRange("g0.r0", 0, 3), Side.SHARED, by=by)
