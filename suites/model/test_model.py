# SPDX-License-Identifier: GPL-2.0-only
"""Model: the kernel does to the page what the reference model says, wherever chance leads.

Each case is drawn from its seed, the same everywhere: ``gmem run model --seed 123 --cases 1`` is ``random-123``.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import Case
from harness.scenario.generate import random_scenario

pytestmark = pytest.mark.gmem(designs=["order0"])


def test_order0(gmem: Case, gmem_seed: int) -> None:
    """A random sequence of conversions, touches, fallocates and hole punches moves every counter as the model says."""
    gmem.run_scenario(random_scenario(gmem_seed))
