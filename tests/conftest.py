# SPDX-License-Identifier: GPL-2.0-only
"""Hypothesis without deadlines: a busy machine takes any time, and what things cost is for ``benchmarks/``."""

from __future__ import annotations

import os

import hypothesis

if "GMEM_MUTATION" not in os.environ:  # a campaign of tests.mutation has a profile of its own
    hypothesis.settings.register_profile("harness", deadline=None)
    hypothesis.settings.load_profile("harness")
