# SPDX-License-Identifier: GPL-2.0-only
"""Frames that are nobody's RAM: on a kernel that converts in place a guest's ROM is pages of a guest_memfd too."""

from __future__ import annotations

from harness.model.frames import HELD, Frames


def test_a_census_at_the_start_counts_what_no_guest_s_ram_has() -> None:
    start = {"gmem/g0": 28672, "gmem/g1": 28672}
    assert Frames.from_sample(start, ("g0", "g1")).held == 57344
    assert Frames.from_sample({**start, HELD: 57376}, ("g0", "g1")).held == 57376


def test_without_a_census_an_unknown_guest_makes_the_frames_unknown() -> None:
    assert Frames.from_sample({"gmem/g0": 1}, ("g0", "g1")).held is None
