# SPDX-License-Identifier: GPL-2.0-only
"""Page identity: which physical frames the guest_memfds of a host hold, and what a step made of them.

A census by page flags sees every guest_memfd page of the machine, of all guests together, and nothing else; it is taken
between the windows of two steps.  The counters are numbers of frames, not differences of two readings:

    frames/kept   held before the step and after it
    frames/gone   held before, not after
    frames/new    held after, and never before in this case
    frames/back   held after, not before, but earlier in this case: given up, and back again
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.counters import zoneinfo
from harness.host.probe import FrameRun, ProbeClient
from harness.model.frames import BATCH, COUNT, HELD, HIGH

FOLDER = "frames"
ROOM_FRACTION = 8
"""percpu_pagelist_high_fraction: an eighth of a zone for the lists of all its CPUs, the most that the kernel accepts
and what it lets its lists grow to when nobody sets it (mm/page_alloc.c:MIN_PERCPU_PAGELIST_HIGH_FRACTION)."""
Frames = npt.NDArray[np.int64]
"""Page frame numbers, rising, each once."""


def frame_numbers(runs: Iterable[FrameRun]) -> Frames:
    """Every frame of the runs."""
    spans = [np.arange(run.pfn, run.pfn + run.pages, dtype=np.int64) for run in runs]
    return np.unique(np.concatenate(spans)) if spans else np.zeros(0, dtype=np.int64)


def moved(before: Frames, after: Frames, ever: Frames) -> dict[str, int]:
    """The counters of a step; ``ever``: all frames that were held so far in the case, ``before`` among them."""
    arrived = np.setdiff1d(after, before, assume_unique=True)
    back = np.intersect1d(arrived, ever, assume_unique=True).size
    kept = after.size - arrived.size
    return {
        "frames/back": int(back),
        "frames/gone": int(before.size - kept),
        "frames/kept": int(kept),
        "frames/new": int(arrived.size - back),
    }


def list_limits(text: str, fraction: int) -> dict[str, int]:
    """What ``harness.model.frames`` wants to know of the per-CPU lists, from the text of zoneinfo; {} if it lacks it.

    Of the zone that GFP_HIGHUSER asks first: the last one with lists.  ``fraction``: see ``_highest``.
    """
    zones = [zone for zone in zoneinfo.parse(text) if zone.pagesets] if text else []
    if not zones:
        return {}
    sets = zones[-1].pagesets
    if any("batch" not in each.limits for each in sets):
        return {}
    return {
        BATCH: min(each.limits["batch"] for each in sets),
        COUNT: max(each.count for each in sets),
        HIGH: min(_highest(zones[-1], each, fraction, "high_min") for each in sets),
    }


def list_cap(text: str, fraction: int) -> int:
    """Most pages that one CPU's lists of any zone may keep; ``fraction``: see ``_highest``."""
    zones = zoneinfo.parse(text)
    return max((_highest(zone, each, fraction, "high_max") for zone in zones for each in zone.pagesets), default=0)


def _highest(zone: zoneinfo.Zone, pageset: zoneinfo.Pageset, fraction: int, name: str) -> int:
    """What a list may hold, as the kernel shows it, or before it did so (Linux 6.13) as it makes it.

    Of a ``percpu_pagelist_high_fraction`` that is set, highest and lowest are one (mm/page_alloc.c:zone_highsize): the
    fraction of the zone, by CPUs, and at least four batches.  The testbed has all its CPUs on the zone's node.
    """
    if name in pageset.limits:
        return pageset.limits[name]
    share = zone.values.get("managed", 0) // fraction // len(zone.pagesets)
    return max(share, 4 * pageset.limits.get("batch", 0))


@dataclass
class FrameWatch:
    """Takes the censuses of one case; one that is not ``wanted`` asks nothing and says nothing."""

    probe: ProbeClient
    evidence: Path
    wanted: bool
    _held: Frames = field(default_factory=lambda: frame_numbers(()))
    _ever: Frames = field(default_factory=lambda: frame_numbers(()))

    def begin(self) -> None:
        """Before the first step, at rest."""
        if self.wanted:
            self._held = self._ever = self._census("start")

    @property
    def held(self) -> dict[str, int]:
        """What ``harness.model.frames`` wants to know of the last census; {} where none is taken."""
        return {HELD: int(self._held.size)} if self.wanted else {}

    def after_step(self, index: int) -> Mapping[str, int]:
        """The counters of a step; its window has ended."""
        if not self.wanted:
            return {}
        now = self._census(f"step{index}")
        counters = moved(self._held, now, self._ever)
        self._held, self._ever = now, np.union1d(self._ever, now)
        return counters

    def _census(self, name: str) -> Frames:
        runs = self.probe.frames()
        folder = self.evidence / FOLDER
        folder.mkdir(exist_ok=True)
        lines = [f"{run.pfn:#x} {run.pages} {run.order}\n" for run in runs]
        (folder / f"{name}.txt").write_text("# first frame, pages, order of their folios\n" + "".join(lines))
        return frame_numbers(runs)
