# SPDX-License-Identifier: GPL-2.0-only
"""Curves that a case records itself: one line of ``series.jsonl`` each."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from harness.errors import UsageError
from harness.run.result import CaseResult

Numbers = Sequence[float | tuple[float, float]]
"""Predictions along a curve: a number, or the lowest and the highest."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded curve; ``low`` and ``high`` are empty when nothing was predicted, else as long as ``x``."""

    claim_id: str
    suite: str
    case: str
    repeat: int
    name: str
    """What ``observed`` is, e.g. ``fallback rate``."""
    axis: str
    """What ``x`` counts."""
    x: tuple[float, ...]
    observed: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


def series(
    case: CaseResult, name: str, axis: str, x: Sequence[float], y: Sequence[float], predicted: Numbers | None
) -> Series:
    """The curve of a case; raises ``UsageError`` for parts of different lengths."""
    if len(x) != len(y) or (predicted is not None and len(predicted) != len(x)):
        raise UsageError(
            f"{case.suite}/{case.case}: the curve {name!r} has {len(x)} places, {len(y)} values and "
            f"{len(x) if predicted is None else len(predicted)} predictions: they go together"
        )
    bounds = [(part, part) if isinstance(part, int | float) else part for part in predicted or ()]
    return Series(
        claim_id=case.claim_id,
        suite=case.suite,
        case=case.case,
        repeat=case.repeat,
        name=name,
        axis=axis,
        x=tuple(map(float, x)),
        observed=tuple(map(float, y)),
        low=tuple(float(low) for low, _ in bounds),
        high=tuple(float(high) for _, high in bounds),
    )
