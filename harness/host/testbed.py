# SPDX-License-Identifier: GPL-2.0-only
"""What a run needs of a testbed, whatever it is made of: the seam between ``harness.run`` and the kinds of hosts.

``harness/host/emulated`` restores one from a saved state for each case; another kind makes one afresh.  All of a
testbed's ways in have deadlines, and every method raises a ``GmemError``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from harness.counters.sample import Sample
from harness.guest.agent import GuestAgent
from harness.guest.qmp import QmpSession
from harness.host.emulated.control import Control
from harness.host.emulated.prepare import Clock
from harness.host.emulated.state import GuestState, TestbedSpec, TestbedState
from harness.host.probe import ProbeClient

T = TypeVar("T")


class Ways(Protocol):
    """The ways into a running testbed."""

    @property
    def probe(self) -> ProbeClient:
        """The reader of counters on the host under test."""

    @property
    def control(self) -> Control:
        """Starts processes and moves files there; raises ``InfraError`` where there is none."""

    @property
    def agents(self) -> Mapping[str, GuestAgent]:
        """By the guest's name."""

    def monitor(self, guest: str, /) -> AbstractContextManager[QmpSession]:
        """A QMP session with a guest's QEMU; raises ``InfraError`` where there is none."""


class Machine(Protocol):
    """The host under test as a process, or as a machine that is reached or not."""

    @property
    def running(self) -> bool:
        """Whether it can still answer; False explains every other trouble."""

    def last_words(self) -> str:
        """A part of a sentence on what became of it."""


class Testbed(Protocol):
    """A host under test and its guests, ready for one scenario."""

    @property
    def spec(self) -> TestbedSpec:
        """Its shape."""

    @property
    def state(self) -> TestbedState:
        """What is known of the kernel and of the guests."""

    @property
    def channels(self) -> Ways:
        """The ways in."""

    @property
    def machine(self) -> Machine:
        """Whether it is still there."""

    @property
    def judges(self) -> tuple[str, ...]:
        """Patterns of the counters that a verdict may rest on here; the others are recorded.

        ``("*",)`` on a host at rest that is ours alone.
        """

    @property
    def answers_at_once(self) -> bool:
        """Whether the time from a request to its answer is that of the work, so that it may be compared.

        Not where a window was carried out before (``undisturbed``): its answers are there when they are asked for.
        """

    def guest(self, name: str) -> GuestState:
        """What is known of a guest by name."""

    def trace_log(self, guest: str) -> Path:
        """Where a guest's QEMU traces its conversions, as a file on this side; only of launches that trace."""

    def check_consoles(self) -> None:
        """Raises ``CrashError`` when the kernel of host or guest printed an oops, WARN, BUG, lockup or panic."""

    def undisturbed(self, work: Callable[[], T], *, rehearsal: Callable[[], T]) -> T:
        """The result of ``work``, which samples, acts and samples again.

        A host whose network would show in its counters sees no traffic meanwhile.  For that it may call ``rehearsal``
        before: the same work, which gets answers that nobody gave, and whose result is not wanted.
        """

    def cap_lists(self, fraction: int) -> None:
        """Let the lists of each CPU keep that part of a zone at most (``percpu_pagelist_high_fraction``)."""

    def settle(self, *, rcu: bool = True) -> None:
        """Bring the kernel's counters to rest; ``rcu``: also wait out what was given to RCU."""

    def sample(self, slot: int) -> None:
        """Read all counters into a slot."""

    def fetch(self, slot: int) -> Sample:
        """The counters of a slot, by the names of the guests."""

    def fallocate(self, guest: str, mode: str, offset: int, length: int, *, timeout: float) -> None:
        """``mode`` "alloc" or "punch" on bytes of the guest_memfd; ``ProbeError.code`` names the errno of a refusal."""

    def end_guest(self, name: str, *, timeout: float) -> None:
        """End a guest and wait until its process is gone; nothing keeps its guest_memfd afterwards."""

    def save(self, folder: Path) -> None:
        """Save the whole state, for ``--keep``; raises ``InfraError`` where it cannot be saved."""


class Testbeds(Protocol):
    """Hands out testbeds of one kernel under test (``Lab`` of the emulated host, and what stands in its place)."""

    def saved(self, spec: TestbedSpec, evidence: Path, clock: Clock) -> Path:
        """A folder with ``testbed.json`` of that shape (a ``TestbedState``), made if need be.

        Raises what keeps such a testbed from coming up: ``NothingRanError`` where the host lacks something.
        """

    def restored(self, spec: TestbedSpec, saved: Path, evidence: Path, clock: Clock) -> AbstractContextManager[Testbed]:
        """A testbed of that shape, ready; leaving the context gives everything back."""
