# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that is judged by a design which it is not of deviates, and the sentence names the rule that it broke."""

from __future__ import annotations

import pytest

from harness.run.verdict import Verdict
from tests.emulated.conftest import Gmem


@pytest.mark.parametrize(
    ("kernel", "claimed", "case", "counter", "rule"),
    [
        ("7.3", "thp-discard", "one_page", "gmem/g0: predicted +512, observed +1", "large-folio: 1 empty window"),
        ("7.3-thp-discard", "order0", "one_page", "gmem/g0: predicted +1, observed +512", "allocate: 1 absent"),
    ],
)
def test_a_wrong_design_is_found_out_by_its_rule(
    gmem_cli: Gmem, kernel: str, claimed: str, case: str, counter: str, rule: str
) -> None:
    ended = gmem_cli.run("smoke", "-k", case, "--kernel", kernel, "--design", claimed)
    assert ended.code == Verdict.DEVIATES.exit_code, ended.stdout + ended.stderr
    sentence = ended.case(case)["sentence"]
    assert counter in sentence
    assert rule in sentence
    assert ended.info["design"] == claimed


def test_the_same_kernel_judged_by_its_own_design_passes(gmem_cli: Gmem) -> None:
    """What deviates above is the design, not the kernel."""
    ended = gmem_cli.run("smoke", "-k", "one_page", "--kernel", "7.3-thp-discard")
    assert ended.code == 0, ended.said()
    assert ended.info["design"] == "thp-discard"
