# SPDX-License-Identifier: GPL-2.0-only
"""Placement: whatever CPU a guest moves to in between, the kernel does to the page what the reference model says."""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.scenario.generate import random_scenario

CPUS = 2
"""Of the emulated host."""

pytestmark = pytest.mark.gmem(designs=["order0"])


def test_order0(gmem: Case, gmem_seed: int) -> None:
    """A random sequence of steps of guests that are moved from CPU to CPU moves every counter as the model says."""
    gmem.run_scenario(random_scenario(gmem_seed, cpus=CPUS))
