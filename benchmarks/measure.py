# SPDX-License-Identifier: GPL-2.0-only
"""The measurements on a testbed: coming up, restoring, one case, one sample, conversions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from series import Series

from harness.counters.sample import build_sample
from harness.counters.sections import encode_sections
from harness.errors import InfraError
from harness.guest.agent import CHUNK_PAGES, GuestAgent
from harness.host.emulated.prepare import Clock
from harness.host.emulated.testbed import Testbed
from harness.run.runner import CaseName
from harness.run.session import Ready, Session
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Check, Convert, PageRange, Populate, Side

_T = TypeVar("_T")

_SECONDS = 60.0
"""Deadline of a request to the guest; the longest takes 1 s on an idle machine."""

PAGE = PageRange("g0.r0", 7, 1)
CASE = Scenario(
    "one page there and back",
    (
        Convert(PAGE, Side.PRIVATE), Populate(PAGE), Check(PAGE, "pattern"), Convert(PAGE, Side.SHARED),
        Check(PAGE, "zero"),
    ),
)  # fmt: skip
"""The fixed case whose cost is reported: five steps on one page, so that it costs what every case costs."""


def cold_start(session: Session, ready: Ready, scratch: Path, times: int) -> list[Series]:
    """Power-on to user space, to guests that are ready, and to the saved state on disk."""
    up, guests, saved = (Series(f"power-on to {what}", "s") for what in ("user space", "guests ready", "saved"))
    for number in range(times):
        evidence = scratch / f"cold-{number}"
        clock = Clock()
        began = time.perf_counter()
        with session.lab.booted(ready.spec, evidence, clock) as testbed:
            guests.values.append(time.perf_counter() - began)
            folder = scratch / f"saved-{number}"
            folder.mkdir()
            testbed.save(folder)
            saved.values.append(time.perf_counter() - began)
        up.values.append(next(phase.seconds for phase in clock.phases if phase.name == "kernel"))
    return [up, guests, saved]


def restore(session: Session, ready: Ready, scratch: Path, times: int) -> list[Series]:
    """Start of QEMU to the first answers of probe and guest, out of the saved state; and giving all of it back."""
    whole, close = Series("start to first answered request", "s"), Series("giving everything back", "s")
    phases: dict[str, Series] = {}
    for number in range(times):
        clock = Clock()
        with whole.timed():
            testbed = session.lab.restored(ready.spec, ready.saved, scratch / f"restored-{number}", clock)
        with close.timed():
            testbed.close()
        for phase in clock.phases:
            phases.setdefault(phase.name, Series(f"  of it {phase.name}", "s")).values.append(phase.seconds)
    return [whole, *phases.values(), close]


def case(session: Session, times: int) -> list[Series]:
    """One whole case: restore, noise, five observed and judged steps, evidence, end."""
    seconds = Series(f"one case of {len(CASE.steps)} steps", "s")
    for repeat in range(1, times + 1):
        with seconds.timed():
            result = session.run(CASE, CaseName("benchmark", "one_page", CASE.name, repeat))
        if result.verdict is not Verdict.PASS:
            raise InfraError(
                f"the fixed case does not pass on this kernel, so its cost says nothing: {result.sentence}"
            )
    return [seconds]


def sample(testbed: Testbed, times: int) -> list[Series]:
    """What one observation is made of, in milliseconds of wall time; the reading also as the host's clock saw it."""
    probe = testbed.channels.probe
    guests = {guest.pid: guest.name for guest in testbed.state.guests}
    names = (
        "settle, with RCU grace periods", "settle, without", "sample (read on the host)", "  of it by the host's clock",
        "fetch and parse", "  of it parse", "request that does nothing",
    )  # fmt: skip
    settle, short, take, inside, fetch, parse, empty = (Series(name, "ms") for name in names)
    for _ in range(times):
        add_ms(settle, probe.settle)
        add_ms(short, lambda: probe.settle(rcu=False))
        taken = add_ms(take, lambda: probe.sample(0))
        inside.values.append((taken.end_ns - taken.start_ns) / 1e6)
        fetched = add_ms(fetch, lambda: probe.fetch(0, guests))
        blob = encode_sections(fetched.raw)
        add_ms(parse, partial(build_sample, blob, guests))
        add_ms(empty, probe.hello)
    return [settle, short, take, inside, fetch, parse, empty]


def add_ms(series: Series, work: Callable[[], _T]) -> _T:
    """Do the work and add its wall time in milliseconds."""
    began = time.perf_counter()
    result = work()
    series.values.append((time.perf_counter() - began) * 1e3)
    return result


@dataclass(frozen=True)
class Pieces:
    """A way to convert a part of the region with one request: pages, cut into hypercalls of ``by`` pages each."""

    name: str
    pages: int
    by: int

    @property
    def calls(self) -> int:
        """Hypercalls it takes."""
        return self.pages // self.by


def ways(chunks: int) -> tuple[Pieces, ...]:
    """One chunk by single pages, and the whole region by chunks."""
    return (Pieces("4 KiB", CHUNK_PAGES, 1), Pieces("2 MiB", chunks * CHUNK_PAGES, CHUNK_PAGES))


class Conversions:
    """Conversions per second of one guest on one testbed, through QEMU and KVM.

    "And written": the guest writes every page after each request, the time includes it; so the other side's pages are
    present when the next request discards them.
    """

    def __init__(self, agent: GuestAgent, chunks: int) -> None:
        self._agent = agent
        self._ways = ways(chunks)
        self.series = {
            (way.name, private, touch): Series(
                f"{way.name} to {'private' if private else 'shared'}{', and written' if touch else ''}", "/s"
            )
            for way in self._ways
            for touch in (False, True)
            for private in (True, False)
        }
        self.request = Series("request to the guest that does nothing", "ms")

    def measure(self) -> None:
        """One round of every kind; the region is empty and shared before and after."""
        add_ms(self.request, self._agent.info)
        for way in self._ways:
            for touch in (False, True):
                for private in (True, False):
                    seconds = self._seconds(way, private=private, touch=touch)
                    self.series[way.name, private, touch].values.append(way.calls / seconds)
            for private in (True, False):  # what the last round wrote to the shared side goes
                self._seconds(way, private=private, touch=False)

    def _seconds(self, way: Pieces, *, private: bool, touch: bool) -> float:
        began = time.perf_counter()
        calls = len(self._agent.convert(0, 0, way.pages, private=private, by=way.by, timeout=_SECONDS))
        if touch:
            self._agent.touch(0, 0, way.pages, stride=1, write=True, gen=1, timeout=_SECONDS)
        seconds = time.perf_counter() - began
        if calls != way.calls:
            raise InfraError(f"the guest made {calls} hypercalls where the benchmark counts {way.calls}")
        return seconds
