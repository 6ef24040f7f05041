# SPDX-License-Identifier: GPL-2.0-only
"""Curves: what a stream of conversions does to a guest of any size, with state only for what the stream touches.

A second, independent reading of the designs beside the step model of ``harness.model.predict``: that one says what
every counter does in a step and why, this one counts folios, frames and blocks over a million conversions.  Tests hold
the two against each other on small guests.
"""
