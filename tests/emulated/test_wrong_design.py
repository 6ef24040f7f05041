# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that is judged by a design which it is not of deviates, and the sentence names the rule that it broke.

Here on the two kernels that every run of the tests has, by designs that have a kernel; tests/matrix has all of them.
"""

from __future__ import annotations

import pytest

from tests.emulated.conftest import Gmem
from tests.matrix.designs import OWN, hold_wrong, wrong_designs

HERE = ("7.3", "7.3-thp-discard")


@pytest.mark.parametrize(("kernel", "claimed"), wrong_designs(HERE, dict.fromkeys(OWN.values())))
def test_a_wrong_design_is_found_out_by_its_rule(gmem_cli: Gmem, kernel: str, claimed: str) -> None:
    hold_wrong(gmem_cli, kernel, claimed)


@pytest.mark.parametrize("kernel", HERE)
def test_the_same_kernel_judged_by_its_own_design_passes(gmem_cli: Gmem, kernel: str) -> None:
    """What deviates above is the design, not the kernel."""
    ended = gmem_cli.run("designs", "--kernel", kernel)
    assert ended.code == 0, ended.said()
    assert ended.info["design"] == OWN[kernel]
