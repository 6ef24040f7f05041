# SPDX-License-Identifier: GPL-2.0-only
"""A command's deadline holds although something that is not killed with it has its pipes."""

from __future__ import annotations

import time

import pytest

from harness.host.reach import LocalReach, ReachError


def test_a_process_that_holds_the_pipes() -> None:
    began = time.monotonic()
    with pytest.raises(ReachError, match=r"did not end within 0\.5 s"):
        LocalReach().run(["sh", "-c", "setsid sleep 20 & sleep 20"], timeout=0.5)
    assert time.monotonic() - began < 10
