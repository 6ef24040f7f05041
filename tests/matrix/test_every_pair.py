# SPDX-License-Identifier: GPL-2.0-only
"""Every kernel passes by its own design, and by no other."""

from __future__ import annotations

import pytest

from tests.emulated.conftest import RUN_SECONDS, Gmem
from tests.matrix.designs import OWN, hold_wrong, wrong_designs

pytestmark = pytest.mark.timeout(RUN_SECONDS)


@pytest.mark.parametrize("kernel", OWN)
def test_own(gmem_cli: Gmem, kernel: str) -> None:
    ended = gmem_cli.run("designs", "--kernel", kernel)
    assert ended.code == 0, ended.said()
    assert ended.info["design"] == OWN[kernel]


@pytest.mark.parametrize(("kernel", "claimed"), wrong_designs(tuple(OWN)))
def test_wrong(gmem_cli: Gmem, kernel: str, claimed: str) -> None:
    hold_wrong(gmem_cli, kernel, claimed)
