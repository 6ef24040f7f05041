# SPDX-License-Identifier: GPL-2.0-only
"""Verdicts, their exit codes, and which of several wins.

One meaning each; the same words appear in every report.  ``docs/design.md``, "Verdicts and exit codes".
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Verdict(enum.Enum):
    """Outcome of a case or of a whole run; the value is the word used in reports."""

    PASS = "pass"
    DEVIATES = "deviates"
    INTERRUPTED = "interrupted"
    INFRA = "infra"
    USAGE = "usage"
    NOTHING_RAN = "nothing-ran"
    INCONCLUSIVE = "inconclusive"
    NO_BOOT = "no-boot"
    CRASH = "crash"
    SKIP = "skip"
    XFAIL = "xfail"
    """A selftest that fails as the design means it to."""

    @property
    def exit_code(self) -> int:
        """Exit status of ``gmem run`` when this is the outcome of the run."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Verdict.PASS: 0,
    Verdict.XFAIL: 0,
    Verdict.DEVIATES: 1,
    Verdict.INTERRUPTED: 2,
    Verdict.INFRA: 3,
    Verdict.USAGE: 4,
    Verdict.NOTHING_RAN: 5,
    Verdict.SKIP: 5,
    Verdict.INCONCLUSIVE: 6,
    Verdict.NO_BOOT: 7,
    Verdict.CRASH: 8,
}

# Worst first.  An interrupted run or a usage error ends the run by itself: both stand above what was measured so far.
_WORST_FIRST = (
    Verdict.USAGE,
    Verdict.INTERRUPTED,
    Verdict.CRASH,
    Verdict.NO_BOOT,
    Verdict.DEVIATES,
    Verdict.INFRA,
    Verdict.INCONCLUSIVE,
    Verdict.NOTHING_RAN,
    Verdict.PASS,
)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of a run whose cases ended with ``verdicts``; ``NOTHING_RAN`` when every case was skipped.

    A case only is ``xfail``: the kernel does there what its design says, so the run passes.
    """
    seen = {Verdict.PASS if v is Verdict.XFAIL else v for v in verdicts if v is not Verdict.SKIP}
    for verdict in _WORST_FIRST:
        if verdict in seen:
            return verdict
    return Verdict.NOTHING_RAN
