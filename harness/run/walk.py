# SPDX-License-Identifier: GPL-2.0-only
"""Carries the steps of a scenario out on a testbed, one function per step.

A step returns what the guest and the host did, so that it can be compared with what was predicted; it judges nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace

from harness.errors import InfraError, UsageError
from harness.guest.agent import CALLS_AT_ONCE, CHUNK_PAGES, PAGE_SIZE, ConversionRefused, GuestAgent
from harness.guest.conversions import Conversion
from harness.host.probe import ProbeClient, ProbeError
from harness.host.testbed import Testbed
from harness.model.prediction import StepPrediction
from harness.model.state import page_set
from harness.run import held, shared_side
from harness.run.host_view import peek
from harness.run.pressure import Held, Proof, press
from harness.run.refusal import Refusal
from harness.run.shared_side import Holds
from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    Check,
    Close,
    Compact,
    Convert,
    DropCaches,
    Empty,
    Fallocate,
    Migrate,
    PageRange,
    Peek,
    Pin,
    Place,
    Populate,
    Pressure,
    PunchHole,
    Settle,
    Side,
    Split,
    Step,
    Touch,
    Unpin,
)

STEP_SECONDS = 60.0
"""Default deadline for one request to a guest or to the probe; 4096 pages take 0.3 s on an idle machine."""
_CLOSE_SECONDS = 30.0


@dataclass(frozen=True)
class Done:
    """What carrying a step out gave."""

    asked: tuple[Conversion, ...] = ()
    """Hypercalls the guest made, in order."""
    problems: tuple[str, ...] = ()
    """Sentences about wrong contents, and references that were not taken or not given back."""
    refused: Refusal | None = None
    """The error that ended the step."""
    proof: Proof | None = None
    """What the samples before and after have to show: otherwise the step did not do what the case is about."""


@dataclass
class Walker:
    """Walks steps on one testbed."""

    testbed: Testbed
    deadline: float = STEP_SECONDS
    closed: set[str] = field(default_factory=set)
    holds: Holds = field(default_factory=Holds)
    referred: set[str] = field(default_factory=set)
    """Guests of whose guest_memfd pages were pinned."""
    vain: set[str] = field(default_factory=set)
    """Ranges that were pinned when no page of them was there."""
    taken: Held = field(default_factory=Held)
    """What pressure keeps of the host's memory."""

    def twin(self) -> Walker:
        """One that knows what this one knows, for a rehearsal: what it learns there is not this one's."""
        return replace(
            self,
            closed=set(self.closed),
            holds=Holds(dict(self.holds.taken)),
            referred=set(self.referred),
            vain=set(self.vain),
            taken=deepcopy(self.taken),
        )

    @property
    def probe(self) -> ProbeClient:
        """The probe of the host under test."""
        return self.testbed.channels.probe

    def agent(self, region: str) -> tuple[GuestAgent, int]:
        """The guest of a region such as ``g0.r0`` and the region's number in it."""
        guest, _, name = region.partition(".")
        return self.testbed.channels.agents[guest], int(name[1:])

    def carry_out(self, step: Step, prediction: StepPrediction) -> Done:
        """Do one step; raises ``InfraError`` when the testbed does not follow."""
        return _HOW[type(step)](self, step, prediction)

    def extents(self, pages: PageRange) -> list[tuple[int, int]]:
        """(offset, length) in bytes in the guest_memfd of each chunk piece of a range.

        The guest_memfd of a RAM starts at guest physical address 0, and nothing of it lies above a hole, since no RAM
        has 2 GiB or more (``LaunchRecord.memory_mib``): offset and address are the same.
        """
        chunks = self.testbed.guest(pages.guest).chunks
        return [
            (chunks[piece.start // CHUNK_PAGES] + piece.start % CHUNK_PAGES * PAGE_SIZE, piece.count * PAGE_SIZE)
            for piece in pages.pieces()
        ]

    def pid(self, region: str) -> int:
        """Process id of the QEMU that owns a region."""
        return self.testbed.guest(region.partition(".")[0]).pid

    def running(self) -> Mapping[int, str]:
        """Pid to name of the guests that are not closed."""
        return {guest.pid: guest.name for guest in self.testbed.state.guests if guest.name not in self.closed}


def _populate(walker: Walker, step: Populate, prediction: StepPrediction) -> Done:
    agent, region = walker.agent(step.range.region)
    gen = _generation(prediction)
    agent.touch(region, step.range.start, step.range.count, stride=1, write=True, gen=gen, timeout=walker.deadline)
    return Done()


def _touch(walker: Walker, step: Touch, prediction: StepPrediction) -> Done:
    agent, region = walker.agent(step.range.region)
    gen = _generation(prediction) if step.write else 0
    start, count = step.range.start, step.range.count
    touched = agent.touch(region, start, count, stride=step.stride, write=step.write, gen=gen, timeout=walker.deadline)
    if touched != len(step.pages()):
        raise InfraError(f"{agent.name}: touched {touched} pages where the step names {len(step.pages())}")
    return Done()


def _convert(walker: Walker, step: Convert, prediction: StepPrediction) -> Done:
    agent, region = walker.agent(step.range.region)
    made: list[Conversion] = []
    for part in batched_calls(step):
        private = step.to is Side.PRIVATE
        try:
            made += agent.convert(region, part.start, part.count, private=private, by=step.by, timeout=walker.deadline)
        except ConversionRefused as error:
            made += error.made
            code = errno.errorcode.get(-error.ret, str(error.ret))
            return Done(asked=tuple(made), refused=Refusal(code, f"the conversion of {made[-1]}"))
    return Done(asked=tuple(made))


def batched_calls(step: Convert) -> list[PageRange]:
    """The step's range in parts of at most ``CALLS_AT_ONCE`` hypercalls, each cut as the whole would be."""
    calls = step.calls()
    parts = [calls[first : first + CALLS_AT_ONCE] for first in range(0, len(calls), CALLS_AT_ONCE)]
    return [PageRange(part[0].region, part[0].start, part[-1].end - part[0].start) for part in parts]


def _check(walker: Walker, step: Check, prediction: StepPrediction) -> Done:
    problems: list[str] = []
    for run in prediction.contents:
        agent, region = walker.agent(run.region)
        result = agent.verify(region, run.start, run.count, gen=run.generation, timeout=walker.deadline)
        if result.pages != run.count:
            raise InfraError(f"{agent.name}: verified {result.pages} pages where {run.count} were asked")
        if result.wrong:
            expected = "zeroes" if run.generation is None else f"the pattern of generation {run.generation}"
            shown = "; ".join(f"page {bad.page}, word {bad.word}: {bad.got}" for bad in result.shown)
            problems.append(
                f"contents: {result.wrong} of the {run.count} pages of "
                f"{run.region}[{run.start}:{run.start + run.count}] do not hold {expected}: {shown}"
            )
    return Done(problems=tuple(problems))


def _fallocate(walker: Walker, step: Fallocate, prediction: StepPrediction) -> Done:
    return _host_side(walker, step.range, "alloc")


def _punch(walker: Walker, step: PunchHole, prediction: StepPrediction) -> Done:
    return _host_side(walker, step.range, "punch")


def _host_side(walker: Walker, pages: PageRange, mode: str) -> Done:
    for offset, length in walker.extents(pages):
        try:
            walker.testbed.fallocate(pages.guest, mode, offset, length, timeout=walker.deadline)
        except ProbeError as error:
            if not error.code.startswith("E"):  # not an errno: the probe itself is in trouble
                raise
            return Done(refused=Refusal(error.code, f"fallocate({mode}) at {offset:#x}+{length:#x}"))
    return Done()


def _peek(walker: Walker, step: Peek, prediction: StepPrediction) -> Done:
    return Done(problems=peek(walker, prediction.views))


def _nothing(walker: Walker, step: Step, prediction: StepPrediction) -> Done:
    """``settle`` and ``empty``: the observation around every step settles anyway."""
    return Done()


def _pin(walker: Walker, step: Pin, prediction: StepPrediction) -> Done:
    """Each page on the side that it has; a pin of pages that are not there is one of nothing."""
    region, where = prediction.regions[step.range.region], page_set(step.range)
    if region.private_held & where:
        return Done(problems=held.pin(walker, step, prediction))
    if region.shared_held & where:
        return Done(problems=shared_side.pin(walker, step, prediction))
    walker.vain.add(str(step.range))
    return Done()


def _unpin(walker: Walker, step: Unpin, prediction: StepPrediction) -> Done:
    if step.range.guest in walker.referred and str(step.range) not in walker.holds.taken:
        return Done(problems=held.unpin(walker, step, prediction))
    if str(step.range) in walker.vain - walker.holds.taken.keys():
        walker.vain.remove(str(step.range))
        return Done()
    return Done(problems=shared_side.unpin(walker, step, prediction))


def _migrate(walker: Walker, step: Migrate, prediction: StepPrediction) -> Done:
    return Done(problems=shared_side.migrate(walker, step, prediction))


def _split(walker: Walker, step: Split, prediction: StepPrediction) -> Done:
    return Done(problems=shared_side.split(walker, step, prediction))


def _close(walker: Walker, step: Close, prediction: StepPrediction) -> Done:
    walker.testbed.end_guest(step.guest, timeout=_CLOSE_SECONDS)
    walker.closed.add(step.guest)
    return Done()


def _place(walker: Walker, step: Place, prediction: StepPrediction) -> Done:
    """All threads of the guest's QEMU, and what the probe does to its guest_memfd from here on."""
    threads = walker.probe.place(walker.testbed.guest(step.guest).pid, step.cpu, timeout=walker.deadline)
    if threads < 2:  # a QEMU has a thread for the machine and one for each vCPU
        raise InfraError(f"QEMU of {step.guest} has {threads} thread where it must have one for each vCPU besides")
    return Done()


def _compact(walker: Walker, step: Compact, prediction: StepPrediction) -> Done:
    walker.probe.write("/proc/sys/vm/compact_memory", "1", timeout=walker.deadline)
    return Done()


def _drop_caches(walker: Walker, step: DropCaches, prediction: StepPrediction) -> Done:
    """1: page cache only; 2 would drop the slabs of inodes and entries too."""
    walker.probe.write("/proc/sys/vm/drop_caches", "1", timeout=walker.deadline)
    return Done()


def _pressure(walker: Walker, step: Pressure, prediction: StepPrediction) -> Done:
    channels = walker.testbed.channels
    return Done(proof=press(channels.control, channels.probe, step, walker.taken))


def _generation(prediction: StepPrediction) -> int:
    if prediction.generation is None:
        raise InfraError(f"the model names no generation for step {prediction.index} ({prediction.step.text()})")
    return prediction.generation


_HOW: Mapping[type, Callable[..., Done]] = {
    Populate: _populate,
    Touch: _touch,
    Convert: _convert,
    Check: _check,
    Fallocate: _fallocate,
    PunchHole: _punch,
    Peek: _peek,
    Settle: _nothing,
    Empty: _nothing,
    Close: _close,
    Place: _place,
    Compact: _compact,
    DropCaches: _drop_caches,
    Pin: _pin,
    Unpin: _unpin,
    Migrate: _migrate,
    Split: _split,
    Pressure: _pressure,
}


def check_supported(scenario: Scenario, cpus: int) -> None:
    """Raises ``UsageError`` for the first step that a testbed of ``cpus`` host CPUs cannot carry out."""
    for index, step in enumerate(scenario.steps):
        where = f"step {index} ({step.text()}) of scenario {scenario.name!r}"
        if type(step) not in _HOW:
            raise UsageError(f"{where} cannot be carried out: this testbed cannot {_word(step)} yet")
        if isinstance(step, Place) and step.cpu >= cpus:
            raise UsageError(f"{where} names a CPU that the host does not have: it has {cpus}, counted from 0")


def _word(step: Step) -> str:
    """The step's word in YAML."""
    return str(type(step).__struct_config__.tag).replace("_", " ")
