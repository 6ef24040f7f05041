# SPDX-License-Identifier: GPL-2.0-only
"""How long an exploration may go on: seconds, cases, different findings, whichever ends first."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.errors import UsageError

_PART = re.compile(r"(\d+(?:\.\d+)?)(h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def seconds_of(text: str) -> float:
    """``10m``, ``90s``, ``1h30m`` or ``90`` in seconds; raises ``UsageError`` for anything else and for nothing.

    >>> seconds_of("1m30s")
    90.0
    """
    parts = _PART.findall(text)
    if text.isdecimal():
        found = float(text)
    elif parts and "".join(map("".join, parts)) == text:
        found = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        raise UsageError(f"--time {text!r} is no time: write 90s, 10m or 1h30m")
    if found <= 0:
        raise UsageError(f"--time {text!r} leaves no time for a case")
    return found


@dataclass
class Budget:
    """What is left; the clock starts with :meth:`start`."""

    seconds: float | None = None
    cases: int | None = None
    findings: int = 5
    """Different findings after which the kernel is bad enough."""
    clock: Callable[[], float] = time.monotonic
    _began: float = field(default=0.0)

    def start(self) -> None:
        """From now on time counts."""
        self._began = self.clock()

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return self.clock() - self._began

    @property
    def until(self) -> float:
        """The time of the clock after which no testbed may be restored."""
        return math.inf if self.seconds is None else self._began + self.seconds

    def spent(self, given: int, found: int) -> bool:
        """Whether no further case may begin, after ``given`` cases were begun and ``found`` things found."""
        return (
            (self.cases is not None and given >= self.cases)
            or (self.seconds is not None and self.passed >= self.seconds)
            or found >= self.findings
        )

    def half_spent(self, given: int) -> bool:
        """Whether half of the cases or of the time is gone: the corpus may have no more than that."""
        return (self.cases is not None and 2 * given >= self.cases) or (
            self.seconds is not None and 2 * self.passed >= self.seconds
        )
