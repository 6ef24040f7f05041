# SPDX-License-Identifier: GPL-2.0-only
"""What a benchmark measures: named series of values with their median and range, and where they were taken."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Series:
    """Values of one quantity in one unit, e.g. wall times of a restore in seconds."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the wall time of the block in seconds; nothing is added when it raises."""
        began = time.perf_counter()
        yield
        self.values.append(time.perf_counter() - began)

    @property
    def median(self) -> float:
        """The median; raises ``StatisticsError`` when nothing was measured."""
        return statistics.median(self.values)

    def plain(self) -> dict[str, object]:
        """The series for ``--json``."""
        return {
            "max": max(self.values), "median": self.median, "min": min(self.values), "n": len(self.values),
            "unit": self.unit,
        }  # fmt: skip

    def line(self) -> str:
        """The series for people."""
        low, high = number(min(self.values)), number(max(self.values))
        spread = f"{low} .. {high}, n={len(self.values)}" if len(self.values) > 1 else "n=1"
        return f"  {self.name:<52} {number(self.median):>9} {self.unit:<4} ({spread})"


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def processor() -> str:
    """The processor's name as /proc/cpuinfo prints it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


class Others:
    """How much of the machine other programs took while something was measured; a busy machine spoils every figure."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def share(self) -> float:
        """CPU time of everything but this process and its ended children, as a part of what all CPUs had since."""
        wall = time.perf_counter() - self._began
        foreign = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return max(0.0, foreign) / (wall * (os.cpu_count() or 1))


def _busy_seconds() -> float:
    """CPU time spent on this machine since it was booted, other than idle and waiting for disks."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def surroundings() -> dict[str, object]:
    """The machine that measures."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "python": platform.python_version(),
        "system": platform.release(),
    }
