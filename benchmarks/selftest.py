# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own ``private_mem_conversions_test``: built from the source of the kernel under test, run beside it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from series import Series

from harness.errors import InfraError
from harness.host.emulated.control import Control
from harness.kernel.record import Kernel
from harness.kernel.selftests import build_selftest
from harness.kernel.store import KernelStore
from harness.run.selftest_run import deliver

TEST = "private_mem_conversions_test"
_THERE = f"/tmp/{TEST}"
_RUN_SECONDS = 120.0
"""Deadline of one run inside the emulated host; it takes 3 s on an idle machine."""

_TRACING = "/sys/kernel/tracing"
_MAP_GPA_RANGE = 12
_SET_ATTRIBUTES = 1
"""Bit 0 of the hypercall's flags, as the test means it: convert.  Without it the host side is only punched."""


def build(store: KernelStore, kernel: Kernel) -> Path:
    """The test program for ``kernel``, from the cache or built now; raises ``InfraError`` for what is missing."""
    program = build_selftest(store, kernel, f"x86/{TEST}")
    if program is None:
        raise InfraError(f"the source of kernel {kernel.name} has no selftest x86/{TEST}")
    return program


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InfraError(otherwise)


class Selftest:
    """The test program inside a running emulated host."""

    def __init__(self, control: Control, program: Path) -> None:
        self._control = control
        deliver(control, program, _THERE)
        self.start = Series("the selftest's program started and ended (-h)", "s")
        self.whole = Series("the selftest, whole run", "s")

    def count(self) -> tuple[int, int]:
        """Conversions and mere hole punches of one run, counted by KVM's tracepoint of hypercalls."""
        with self._traced():
            self._control.check([_THERE], _RUN_SECONDS)
        text = self._control.check(["cat", f"{_TRACING}/trace"])
        flags = [int(match, 16) for match in re.findall(r"kvm_hypercall: nr 0xc a0 \S+ a1 \S+ a2 (0x[0-9a-f]+)", text)]
        conversions = sum(1 for flag in flags if flag & _SET_ATTRIBUTES)
        _require(conversions > 0, f"{TEST} made no conversion that the tracepoint kvm_hypercall shows")
        return conversions, len(flags) - conversions

    @contextmanager
    def _traced(self) -> Iterator[None]:
        event = f"{_TRACING}/events/kvm/kvm_hypercall"
        self._shell(f"echo 'nr == {_MAP_GPA_RANGE}' > {event}/filter; : > {_TRACING}/trace; echo 1 > {event}/enable")
        try:
            yield
        finally:
            self._shell(f"echo 0 > {event}/enable")

    def _shell(self, script: str) -> None:
        self._control.check(["sh", "-ec", script])

    def measure(self) -> None:
        """One run, and one start of the program that does nothing."""
        with self.whole.timed():
            self._control.check([_THERE], _RUN_SECONDS)
        with self.start.timed():
            self._control.run([_THERE, "-h"], _RUN_SECONDS)

    @property
    def seconds(self) -> float:
        """Median of a run without its start."""
        return max(self.whole.median - self.start.median, 1e-3)


def settle_down() -> None:
    """Give the machine a moment after a build, so that its writes do not fall into the first measurement."""
    time.sleep(1.0)
