# SPDX-License-Identifier: GPL-2.0-only
"""Cutting holes out of large folios: which folios are left, and which pages go."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model import pages
from harness.model.aligned import Blocks
from harness.model.splitting import buddy_pieces, cut


@pytest.mark.parametrize("page", [0, 100, 256, 511])
def test_a_hole_of_one_page_leaves_a_folio_of_each_order(page):
    """Measured on shmem: one each of order 8 to 0."""
    done = cut(Blocks().add(9, 1), page, page + 1, dirty=0, held=0, uniform=False)
    assert [(order, starts.bit_count()) for order, starts in done.folios] == [(order, 1) for order in range(1, 9)]
    assert done.splits == (9,)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10), st.integers(0, 1023), st.integers(1, 1024), st.booleans())
def test_a_cut_leaves_exactly_what_is_outside_the_hole(order, start, count, uniform):
    folios = Blocks().add(order, pages.strided(0, 1024, 1 << order))
    end = min(1024, start + count)
    done = cut(folios, start, end, dirty=0, held=0, uniform=uniform)
    hole = pages.span(start, end - start)
    left = done.folios.without(done.folios.inside(done.removed))
    assert done.removed == hole
    assert not left.covered() & hole
    covered = 0
    for below, starts in left:
        for first, length in pages.runs(starts):
            assert length == 1 or below == 0
            block = pages.span(first, 1 << below)
            assert not covered & block
            covered |= block
    if uniform:
        assert all(below == order for below, _ in left)
    assert len(done.splits) <= 3


def test_pieces_of_a_folio_and_two_pages_are_the_folio():
    for page in range(512):
        assert buddy_pieces(9, page).covered() == pages.span(0, 512) & ~(0b11 << (page & ~1))
