# SPDX-License-Identifier: GPL-2.0-only
"""Memory pressure on the host under test, and the proof that it is there.

``gmem-pressure`` (harness/native/pressure) takes memory and keeps it.  A stimulus that may have done nothing proves
nothing, so that each has to show in the samples around its step before anything behind it is judged.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.counters import buddyinfo, pagetypeinfo, zoneinfo
from harness.counters.sample import Sample
from harness.errors import InfraError
from harness.host.emulated.control import Control
from harness.host.probe import ProbeClient
from harness.model.allocator.metrics import contiguous, unusable_pages
from harness.model.allocator.migratetype import BLOCK_PAGES, PAGEBLOCK_ORDER
from harness.scenario.steps import PIECES, Pressure

PROGRAM = "/bin/gmem-pressure"
TAKE_SECONDS = 240.0
"""Deadline for taking all memory of the emulated host; the slowest kind takes 8 s on a machine at rest."""
_END_SECONDS = 60.0
_POLL = 0.02
_PROACTIVE = "/proc/sys/vm/compaction_proactiveness"
_ROUNDS = 8
"""Times that what is left of whole blocks is counted and taken."""
ARENA = 576
"""Whole blocks of which ``percent`` is a share: the others are taken as they are, which takes no time.  Of so many the
watermarks are less than what may stay whole when 95 % are in pieces."""
PIECES_OF = 60 * BLOCK_PAGES
"""Pages that ``leave`` puts into pieces; everything else is taken in whole blocks, which is a hundred times faster.
Half of them come back: enough above the watermarks for some thousand single pages that a guest gets instead."""
MOVABLE_LEFT = 16
"""Free pages in movable blocks that ``pinned`` may leave: compaction moves pages to nowhere else."""

Proof = Callable[[Sample, Sample], str]
"""From the samples before and after a step: what did not happen, as a sentence; '' if all did."""


@dataclass(frozen=True)
class Taken:
    """One process that holds memory; both numbers in pages, as it says."""

    pid: int
    holds: int
    gave: int


@dataclass
class Held:
    """The processes that hold memory, by kind of pressure."""

    by_kind: dict[str, list[Taken]] = field(default_factory=dict)
    made: int = 0


def press(control: Control, probe: ProbeClient, step: Pressure, held: Held) -> Proof:
    """Carry one step out; raises ``InfraError`` when the host does not follow."""
    if step.gives_back:
        for taken in held.by_kind.pop(step.kind, []):
            _end(control, taken)
        return lambda before, after: ""
    mine = held.by_kind.setdefault(step.kind, [])
    start = _Take(control, held, mine)
    if step.kind in PIECES:  # kcompactd would mend them at its leisure, without anybody who asks for a large folio
        probe.write(_PROACTIVE, "0", timeout=_END_SECONDS)
    if step.leave is not None:
        _leave(start, probe, step)
        _all_there(control, step, held)
        return lambda before, after: _prove_left(step, before, after)
    if step.percent:
        probe.settle()
        _take_whole(start, probe, ARENA)
    zones = zoneinfo.parse(_text(probe, "zoneinfo"))
    wanted = amount(step, zones)
    _enough(step, wanted, zones)
    taken = start(step.kind, wanted)
    _all_there(control, step, held)
    return lambda before, after: prove(step, wanted, taken, before, after)


def _enough(step: Pressure, wanted: int, zones: Sequence[zoneinfo.Zone]) -> None:
    if wanted > takeable(zones):
        raise InfraError(
            f"{step.text()} takes {wanted} pages, and the host has {takeable(zones)} before it begins to reclaim"
        )


def _all_there(control: Control, step: Pressure, held: Held) -> None:
    """Nobody who holds memory was ended for want of it."""
    for kind, several in held.by_kind.items():
        for taken in several:
            if (state := control.status(taken.pid)) != "running":
                raise InfraError(f"{step.text()}: the process that held {taken.holds} pages of {kind} was {state}")


@dataclass(frozen=True)
class _Take:
    """Starts a process that takes memory, and remembers it."""

    control: Control
    held: Held
    mine: list[Taken]

    def __call__(self, kind: str, wanted: int) -> Taken:
        """Raises ``InfraError`` with what the program says when it does not get what it wants."""
        self.held.made += 1
        log = f"/run/gmem-pressure-{self.held.made}.log"
        pid = self.control.spawn([PROGRAM, kind, str(wanted)], {}, log)
        end = time.monotonic() + TAKE_SECONDS
        while True:
            state = self.control.status(pid)
            said = self.control.get(log).decode("utf-8", "replace").strip()
            if match := re.fullmatch(r"holds=([0-9]+) gave=([0-9]+)", said):
                break
            if state != "running":
                raise InfraError(f"pressure by {kind}, {wanted} wanted: {said[:300] or 'nothing was said'} ({state})")
            if time.monotonic() > end:
                raise InfraError(f"pressure by {kind}, {wanted} wanted: it did not get them in {TAKE_SECONDS:g} s")
            time.sleep(_POLL)
        taken = Taken(pid, int(match[1]), int(match[2]))
        self.mine.append(taken)
        return taken


def _end(control: Control, taken: Taken) -> None:
    """End a process, and wait until its memory is back."""
    control.signal(taken.pid, signal.SIGKILL)
    end = time.monotonic() + _END_SECONDS
    while control.status(taken.pid) == "running":
        if time.monotonic() > end:
            raise InfraError(f"the process that held {taken.holds} pages did not end within {_END_SECONDS:g} s")
        time.sleep(_POLL)


# -- how much


def takeable(zones: Sequence[zoneinfo.Zone]) -> int:
    """Free pages above the high watermark of each zone, and above what it protects: taking them wakes nobody."""
    floor = [zone.values.get("high", 0) + max(zone.protection, default=0) for zone in zones]
    return sum(max(0, zone.free - kept) for zone, kept in zip(zones, floor, strict=True))


def amount(step: Pressure, zones: Sequence[zoneinfo.Zone]) -> int:
    """Pages that a pressure of a number or of a share takes."""
    if step.pages:
        return step.pages
    if step.kind not in PIECES:
        return takeable(zones) * step.percent // 100
    # n taken and n/2 given back, in pieces: n/2 of the F - n/2 pages that are free then.  Rounded up.
    free = sum(zone.free + zone.pcp for zone in zones)
    return -(-2 * free * step.percent // (100 + step.percent)) + 2


def _leave(take: _Take, probe: ProbeClient, step: Pressure) -> None:
    """All whole blocks are taken but ``step.leave``, and what is free besides is in pieces."""
    control, leave = take.control, step.leave or 0
    probe.write("/proc/sys/vm/drop_caches", "3", timeout=_END_SECONDS)  # then there is nothing to reclaim
    reserve = take("blocks", leave) if leave else None
    probe.settle()
    zones = zoneinfo.parse(_text(probe, "zoneinfo"))
    kept = sum(zone.free for zone in zones) - takeable(zones)
    _take_whole(take, probe, -(-(PIECES_OF + kept) // BLOCK_PAGES) + len(zones))
    _enough(step, PIECES_OF, zoneinfo.parse(_text(probe, "zoneinfo")))
    take(step.kind, PIECES_OF)
    for _ in range(_ROUNDS):
        probe.settle()
        whole, movable = whole_blocks(probe), _free_movable(probe) if step.kind == "pinned" else 0
        if not whole and movable <= MOVABLE_LEFT:
            break
        if whole:
            take("blocks", whole)
        elif movable:
            take("anon", movable)
    if reserve is not None:
        take.mine.remove(reserve)
        _end(control, reserve)
        probe.settle()


def _take_whole(take: _Take, probe: ProbeClient, spared: int) -> None:
    """All whole blocks but so many, as they are."""
    surplus = whole_blocks(probe) - spared
    if surplus > 0:
        take("blocks", surplus)


def whole_blocks(probe: ProbeClient) -> int:
    """Free blocks of 2 MiB in all zones; one of 4 MiB counts as two."""
    return contiguous(buddyinfo.free_per_order(buddyinfo.parse(_text(probe, "buddyinfo"))), PAGEBLOCK_ORDER).suitable


def _free_movable(probe: ProbeClient) -> int:
    """Free pages in movable blocks; those of lists that nobody counted to the end are as good as none."""
    return pagetypeinfo.parse(_text(probe, "pagetypeinfo")).free_pages().get("Movable", 0)


def _text(probe: ProbeClient, name: str) -> str:
    return probe.read(f"/proc/{name}").decode("utf-8", "replace")


# -- proof


def prove(step: Pressure, wanted: int, taken: Taken, before: Sample, after: Sample) -> str:
    """What of a pressure of pages or of a share does not show in the samples; '' when all of it does."""
    moved = {name: _rose(name, before, after) for name in _SHOWN}
    gone = -moved["F"]
    if taken.holds + taken.gave < wanted:
        return f"{step.text()} did not happen: {taken.holds + taken.gave} of {wanted} pages were taken"
    if gone < taken.holds:
        return f"{step.text()} did not happen: {gone} pages less are free, where {taken.holds} are said to be held"
    for counters in _SHOWS[step.kind]:
        rose = sum(moved[counter] for counter in counters)
        if rose < taken.holds:
            return (
                f"{step.text()} did not happen: {' and '.join(counters)} rose by {rose}, where {taken.holds} pages are"
                " said to be held"
            )
    if step.kind in PIECES:
        return _prove_pieces(step, after)
    return ""


_FILE_LISTS = ("nr_inactive_file", "nr_active_file")
_SHOWS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "anon": (("nr_anon_pages",),),
    "cache": (("nr_file_pages",), _FILE_LISTS),
    "fragment": (("nr_anon_pages",),),
    "pinned": (("unaccounted",),),
}
"""By kind the counters, or sums of them, that must rise by what is held."""
_POOL = "hugetlb/2048kB/nr_hugepages"
_SHOWN = ("F", *dict.fromkeys(name for sums in _SHOWS.values() for counters in sums for name in counters))


def _rose(counter: str, before: Sample, after: Sample) -> int:
    """How much a counter rose.  Pages of pipes are in none, nor are those of the hugetlb pool, taken along."""
    rose = after.values.get(counter, 0) - before.values.get(counter, 0)
    return rose if counter != "unaccounted" else rose - BLOCK_PAGES * _rose(_POOL, before, after)


def _prove_pieces(step: Pressure, after: Sample) -> str:
    """Whether the asked share of the free memory is in pieces."""
    free = buddyinfo.free_per_order(buddyinfo.parse(after.raw["buddyinfo"]))
    pages, pieces = contiguous(free, PAGEBLOCK_ORDER).pages, unusable_pages(free)
    if pieces * 100 < pages * step.percent:
        share = pieces * 100 // max(pages, 1)
        return f"{step.text()} did not happen: {share} % of the free memory are in pieces of less than 2 MiB"
    return ""


def _prove_left(step: Pressure, before: Sample, after: Sample) -> str:
    """Whether as many whole blocks are left as were asked for."""
    free = buddyinfo.free_per_order(buddyinfo.parse(after.raw["buddyinfo"]))
    whole = contiguous(free, PAGEBLOCK_ORDER).suitable
    if whole != step.leave:
        return f"{step.text()} did not happen: {whole} are left"
    # Half of the pieces stay.  Half of these have to show: what others have in no counter may shrink meanwhile.
    if step.kind == "pinned" and _rose("unaccounted", before, after) < PIECES_OF // 4:
        return f"{step.text()} did not happen: the pages that nobody can move are not there"
    return ""
