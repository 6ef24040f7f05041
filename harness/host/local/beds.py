# SPDX-License-Identifier: GPL-2.0-only
"""Hands out bare testbeds on this machine; nothing is saved, each case gets one of its own."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from harness.cache import ContentCache
from harness.errors import NothingRanError
from harness.host.emulated.prepare import Clock
from harness.host.emulated.state import TestbedSpec, TestbedState
from harness.host.emulated.testbed import DESCRIPTION
from harness.host.local.cgroups import MOUNTS, place, sweep
from harness.host.local.programs import Served, program
from harness.host.local.testbed import KVM, Kit, LocalTestbed, greet
from harness.host.testbed import Testbed

_PARAMETERS = Path("/sys/module/kvm/parameters")
_SLAB = Path("/sys/kernel/slab/radix_tree_node")
_USUAL_SLAB = "28,4"
"""Objects and pages of a slab where the kernel does not tell; no counter of slabs is judged here."""


class LocalBeds:
    """This machine; ``kvm`` and ``mounts`` are for tests."""

    def __init__(
        self,
        cache: ContentCache,
        *,
        notice: Callable[[str], None] | None = None,
        kvm: Path = KVM,
        mounts: Path = MOUNTS,
    ) -> None:
        self._cache = cache
        self._notice = notice
        self._kvm = kvm
        self._mounts = mounts
        self._kit: Kit | None = None

    @property
    def kit(self) -> Kit:
        """The programs, and where memory cgroups are made; on first use."""
        if self._kit is None:
            folder, what = place(self._mounts)
            if self._notice:
                lacking = "" if folder else ": pages are seen by cachestat(2) alone"
                self._notice(f"memory cgroups: {what}{lacking}")
            if folder:
                sweep(folder)
            bare, probe = (program(self._cache, name) for name in ("bare", "probe"))
            self._kit = Kit(bare, probe, self._kvm, folder)
        return self._kit

    def saved(self, spec: TestbedSpec, evidence: Path, clock: Clock) -> Path:
        """Says what this machine is; raises ``NothingRanError`` with what it lacks."""
        clock.begin("this machine")
        if os.geteuid():
            raise NothingRanError("--host local needs root: settling and reading the counters of a host does")
        served = Served([str(self.kit.bare), str(self.kit.kvm), "0", "1", "-"], peer="bare g0")
        try:
            greet(served.channel)
        finally:
            served.close()
        uname = platform.uname()
        state = TestbedState(
            release=uname.release, version=uname.version, guests=(), user_key="", user_public="", host_keys={},
            host_public={}, kernel_facts=_kernel_facts(),
        )  # fmt: skip
        state.save(evidence / DESCRIPTION)
        clock.begin("")
        return evidence

    def restored(self, spec: TestbedSpec, saved: Path, evidence: Path, clock: Clock) -> AbstractContextManager[Testbed]:
        """A testbed made now."""
        clock.begin("bare guests")
        testbed = LocalTestbed(self.kit, spec, TestbedState.load(saved / DESCRIPTION), evidence)
        clock.begin("")
        return testbed


def _kernel_facts() -> dict[str, str]:
    """As ``TestbedState.kernel_facts``."""
    facts = {"ncpu": str(os.cpu_count() or 1), "slab.radix_tree_node": _USUAL_SLAB}
    objects, order = (_text(_SLAB / name) for name in ("objs_per_slab", "order"))
    if objects.isdecimal() and order.isdecimal():
        facts["slab.radix_tree_node"] = f"{objects},{1 << int(order)}"
    if _PARAMETERS.is_dir():
        facts |= {f"kvm.{path.name}": _text(path) for path in sorted(_PARAMETERS.iterdir())}
    return facts


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
