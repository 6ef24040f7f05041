# SPDX-License-Identifier: GPL-2.0-only
"""How many passes make a commit good, when the fault does not always show.  Pure.

The bad end was measured: the fault showed in ``shown`` of ``trials`` attempts.  How often it shows on a bad commit is
not known better than that, so nothing is computed from shown/trials as if it were the rate (5 of 5 is no proof of
always).  With Jeffreys' prior, Beta(1/2, 1/2), the rate's distribution after the trials is Beta(shown + 1/2,
trials - shown + 1/2), and a bad commit passes ``passes`` times in a row with the probability

    product over i < passes of (trials - shown + 1/2 + i) / (trials + 1 + i)

A wrong "good" makes the whole answer wrong, and there is at most one for each halving; so each gets its part of what
may go wrong (1 - confidence).
"""

from __future__ import annotations

import math

MOST_PASSES = 200
"""Of one commit.  A fault that shows in one of fifty attempts or fewer is not bisected in any sensible time."""


def miss(shown: int, trials: int, passes: int) -> float:
    """The probability that a bad commit passes ``passes`` times in a row.

    >>> round(miss(5, 5, 1), 3), round(miss(5, 5, 3), 4)
    (0.083, 0.0056)
    """
    return math.prod((trials - shown + 0.5 + i) / (trials + 1 + i) for i in range(passes))


def halvings(candidates: int) -> int:
    """Verdicts that a bisection of that many candidates needs."""
    return max(1, math.ceil(math.log2(max(1, candidates))))


def passes_needed(shown: int, trials: int, *, candidates: int, confidence: float) -> int:
    """Passes that make one commit good, so that the answer is right with ``confidence``; :data:`MOST_PASSES` at most.

    >>> passes_needed(5, 5, candidates=64, confidence=0.95)
    3
    """
    risk = (1 - confidence) / halvings(candidates)
    return next((k for k in range(1, MOST_PASSES) if miss(shown, trials, k) <= risk), MOST_PASSES)


def confidence_of(shown: int, trials: int, passes: list[int]) -> float:
    """Of an answer that rests on commits called good after that many passes each: at least that.

    >>> round(confidence_of(5, 5, [3, 3]), 3)
    0.989
    """
    return max(0.0, 1 - sum(miss(shown, trials, k) for k in passes))
