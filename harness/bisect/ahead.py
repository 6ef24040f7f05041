# SPDX-License-Identifier: GPL-2.0-only
"""What to try at once when several testbeds are free: the next candidate, and those that would follow it.  Pure.

Three at a time are the middle and the middles of both halves: one of these two is wasted, and two halvings are done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from harness.bisect.decide import Candidate, Mark, Try, decide


def ahead(
    candidates: Callable[[str, Collection[str]], Sequence[Candidate]],
    bad: str,
    goods: Collection[str],
    marks: Mapping[str, Mark],
    count: int,
) -> list[str]:
    """At most ``count`` names, what :func:`decide` says first; empty when it says that the end is reached.

    ``candidates``: of a bad end and good ones, as :func:`decide` wants them.  What is bad is taken for likelier.

    >>> from functools import partial
    >>> from harness.bisect.decide import in_a_row
    >>> ahead(partial(in_a_row, list("abcdefghi")), "i", ["a"], {}, 3)
    ['e', 'c', 'g']
    """
    names: list[str] = []
    suppositions = deque([(bad, tuple(goods), dict(marks))])
    while suppositions and len(names) < count:
        end, known, supposed = suppositions.popleft()
        decision = decide(candidates(end, known), end, supposed)
        if isinstance(decision, Try):
            names.append(decision.name)
            suppositions.append((decision.name, known, {**supposed, decision.name: Mark.BAD}))
            suppositions.append((end, (*known, decision.name), {**supposed, decision.name: Mark.GOOD}))
    return names


def earliest(
    candidates: Callable[[str, Collection[str]], Sequence[Candidate]],
    bad: str,
    bads: Sequence[str],
    goods: Collection[str],
) -> str:
    """Of several bad ones the one that the others come after; ``bad`` is the bad end.

    Those that were tried ahead and lie behind another bad one say nothing new.
    """
    for name in bads:
        if name != bad and name in {candidate.name for candidate in candidates(bad, goods)}:
            bad = name
    return bad
