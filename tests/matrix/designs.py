# SPDX-License-Identifier: GPL-2.0-only
"""Which kernel is of which design, and how a wrong one is held to be found out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.model.designs import DESIGNS
from harness.run.verdict import Verdict
from tests.emulated.conftest import Gmem

OWN = {
    "7.3": "order0",
    "6.12": "order0",
    "7.3-thp-discard": "thp-discard",
    "6.12-thp-discard": "thp-discard",
    "7.3-thp-2m-truncate": "thp-2m-truncate-noop",
    "7.3-inplace": "inplace",
    "7.3-inplace-thp": "inplace-thp-noop",
}
"""Kernel to the design that it shows."""
RULE = re.compile(
    r"after step \d+ \([^()]*(?:\([^()]*\)[^()]*)*\)[^:]*:"
    r"(?: [a-z0-9-]+(?: \([a-z0-9-]+\))?: | the kernel did what it must refuse: .* \([a-z0-9-]+: )"
)
"""In the sentence of a deviation: the step, then the rule of the model, as ``docs/model.md`` calls it."""


def wrong_designs(kernels: Sequence[str], designs: Iterable[str] = DESIGNS) -> list[tuple[str, str]]:
    """Each of the kernels with each of the designs that it is not of."""
    return [(kernel, design) for kernel in kernels for design in designs if design != OWN[kernel]]


def hold_wrong(gmem: Gmem, kernel: str, claimed: str) -> None:
    """Exit code 1, and a sentence with the rule that the kernel broke."""
    ended = gmem.run("designs", "--kernel", kernel, "--design", claimed)
    assert ended.code == Verdict.DEVIATES.exit_code, ended.stdout + ended.stderr
    (case,) = ended.cases
    assert ended.info["design"] == claimed
    assert RULE.search(case["sentence"]), case["sentence"]
