# SPDX-License-Identifier: GPL-2.0-only
"""One run: the kernel under test, its testbeds, and the cases that were run on them.

A shape of testbed (how many guests, how large) that cannot be brought up is tried once: its first case carries the
reason, further cases that need it are skipped with that reason's name.  What no shape could change (a kernel that
cannot be made, does not come up, or is of a design that nobody modelled) is tried once for all shapes.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec

from harness import __version__
from harness.cache import ContentCache
from harness.errors import GmemError, NoBootError, NothingRanError, UsageError
from harness.guest.backing import ANON_4K, backing_record
from harness.guest.launch import IN_PLACE_PARAMETER, LaunchRecord, guest_named, launch_on
from harness.guest.tee.kinds import tee_kind
from harness.host.capabilities.recording import to_text
from harness.host.capabilities.visit import check_host, visit
from harness.host.config.host import HostConfig
from harness.host.config.load import load_host
from harness.host.emulated.prepare import Clock, Phase
from harness.host.emulated.state import TestbedSpec, TestbedState
from harness.host.emulated.testbed import DESCRIPTION, Lab
from harness.host.local.beds import LocalBeds
from harness.host.remote.tee import TeeGuests
from harness.host.remote.testbed import RemoteTestbeds
from harness.host.testbed import Testbeds
from harness.kernel.progress import Progress, silent
from harness.kernel.record import Kernel
from harness.model.designs import design_named
from harness.run import account
from harness.run.account import host_told, not_run, replayable, sum_up
from harness.run.bare import check_bare
from harness.run.facts import choose_design, host_facts
from harness.run.handover import reach_with_kernel
from harness.run.lab import CONFIDENTIAL_GUEST, make_lab, remote_testbeds
from harness.run.options import EMULATED, RunOptions, check_options
from harness.run.outcome import pages_in_flight, rejected_window, shaken, verdict_of_error
from harness.run.result import AGAIN, CaseResult, RunInfo
from harness.run.runner import CaseName, chainable, run_scenario
from harness.run.sharpness import sharpness
from harness.run.tee import check_tee
from harness.run.tell import check_tells, with_tells
from harness.run.verdict import Verdict
from harness.run.walk import check_supported
from harness.scenario.scenario import Scenario

_ANY = ""
"""In place of a shape: all of them."""
MEASURE_AT_MOST = 3
"""Times that a case is measured when foreign activity disturbs it.  Seen once in 28 cases on a busy machine, so three
disturbed windows in a row mean a host that is not at rest: then the case is inconclusive."""


class BackingError(UsageError):
    """A backing that guests on the kernel under test cannot have; other shapes of testbed are not concerned."""


@dataclass(frozen=True)
class Ready:
    """A shape of testbed whose saved state exists."""

    spec: TestbedSpec
    saved: Path
    state: TestbedState


@dataclass
class Session:
    """One run.  ``evidence`` makes a folder for the evidence of a name; ``relative`` says how a result refers to it."""

    options: RunOptions
    evidence: Callable[[str], Path]
    relative: Callable[[Path], str]
    notice: Callable[[str], None]
    progress: Progress = silent
    cases: list[CaseResult] = field(default_factory=list)
    started: datetime = field(default_factory=lambda: datetime.now().astimezone())
    design: str = ""
    design_evidence: tuple[str, ...] = ()
    kernel: Kernel | None = None
    phases: list[Phase] = field(default_factory=list)
    host: HostConfig | None = None
    """The file of ``--host``; None is the emulated host."""
    _lab: Lab | None = None
    _remote: RemoteTestbeds | None = None
    _local: LocalBeds | None = None
    _qemu: str = ""
    """Version of the host's own QEMU, where that starts the guests."""
    _ready: dict[str, Ready] = field(default_factory=dict)
    _broken: dict[str, GmemError] = field(default_factory=dict)
    """Shape to the reason why it does not come up; ``_ANY`` stands for every shape."""
    _broke_in: dict[str, str] = field(default_factory=dict)
    """Shape to the case that has the reason."""

    def __post_init__(self) -> None:
        check_options(self.options)
        if self.options.host != EMULATED:
            self.host = load_host(self.options.host)

    @property
    def launch(self) -> LaunchRecord:
        """How guests are started."""
        return guest_named(self.options.guest)

    @property
    def lab(self) -> Lab:
        """Kernel and images of the emulated host; made on first use."""
        if self._lab is None:
            self._lab = self._make_lab()
        return self._lab

    @property
    def testbeds(self) -> Testbeds:
        """Where the testbeds of ``--host`` come from; made on first use."""
        if self.host is None or self.host.transport == EMULATED:
            return self.lab
        if self.launch.bare:
            if self._local is None:
                self._local = LocalBeds(ContentCache(notify=self.notice), notice=self.notice)
            return self._local
        if self._remote is None:
            self._remote = self._make_remote(self.host)
        return self._remote

    def _make_remote(self, host: HostConfig) -> RemoteTestbeds:
        clock = Clock()
        clock.begin("kernel")
        reached = reach_with_kernel(
            host,
            self.options.kernel,
            notice=self.notice,
            patches=self.options.patches,
            command_line=self.options.command_line,
            progress=self.progress,
        )
        self.kernel, reach = reached.kernel, reached.reach
        make = partial(
            remote_testbeds,
            reach,
            host,
            self.options.host,
            clock=clock,
            notice=self.notice,
            progress=self.progress,
        )
        try:
            if not self.launch.tee:
                return make()
            clock.begin("host")
            probe = visit(reach, host)
            (self.evidence("host") / "host.txt").write_text(to_text(probe), errors="surrogateescape")
            check_host(host, probe, self.launch.name)
            guests = TeeGuests(reach, host.qemu.binary, {str(kind): path for kind, path in host.qemu.firmware.items()})
            planned = guests.planned(self.launch, ANON_4K)
            self._qemu = planned.qemu
            self.notice(f"{planned.qemu}; firmware {planned.firmware.path or 'SeaBIOS'}: {planned.firmware.reason}")
            return make(guest_kernel=CONFIDENTIAL_GUEST, starter=guests)
        except BaseException:
            reach.close()
            raise
        finally:
            clock.begin("")
            self.phases += clock.phases

    def close(self) -> None:
        """Give back what the run holds of a host."""
        if self._remote is not None:
            self._remote.close()

    def not_given_back(self, error: GmemError) -> CaseResult:
        """A result of its own: a deviation that was found stands, whatever becomes of the host afterwards."""
        name = CaseName("host", "given back", "What a run borrows of a host it gives back.")
        return self.named(not_run(name, verdict_of_error(error), str(error), 0.0), name)

    def _make_lab(self) -> Lab:
        clock = Clock()
        options = self.options
        made = make_lab(
            options.kernel,
            clock=clock,
            notice=self.notice,
            patches=options.patches,
            progress=self.progress,
            launch=self.launch,
        )
        self.kernel = made.kernel
        self.phases += clock.phases
        return made.lab

    def spec(self, *, guests: int, chunks: int, backing: str = ANON_4K.name, nodes: int = 1) -> TestbedSpec:
        """A testbed of that shape; raises ``UsageError`` for a backing that no testbed has."""
        return TestbedSpec.of(
            guests=guests,
            chunks=chunks,
            launch=self.launch,
            command_line=self.options.command_line,
            backing=backing_record(backing),
            nodes=nodes,
        )

    def spec_for(self, scenario: Scenario) -> TestbedSpec:
        """The testbed that a scenario needs."""
        return self.spec(guests=scenario.guests, chunks=scenario.chunks, backing=scenario.backing, nodes=scenario.nodes)

    def ready(self, spec: TestbedSpec) -> Ready:
        """The saved testbed of that shape, made if need be; raises the ``GmemError`` that kept it from coming up."""
        key = spec.text()
        known = self._known_broken(spec)
        if known is not None:
            raise self._broken[known]
        if key not in self._ready:
            clock = Clock()
            whose = _ANY
            try:
                testbeds = self.testbeds
                whose = key
                folder = self.evidence(_boot_folder(spec))
                saved = testbeds.saved(spec, folder, clock)
                state = TestbedState.load(saved / DESCRIPTION)
                self.design, self.design_evidence = choose_design(self.options.design, state.kernel_facts)
                if spec.guests:
                    self._say_launch(state)
                self._check_backing(spec, state)
            except GmemError as error:
                for_all = isinstance(error, (NoBootError, UsageError)) and not isinstance(error, BackingError)
                self._broken[_ANY if for_all else whose] = error
                raise
            self.phases += clock.phases
            self._ready[key] = Ready(spec, saved, state)
        return self._ready[key]

    def _say_launch(self, state: TestbedState) -> None:
        """Once per run, where the kernel wants its guests started in another way than was asked for."""
        used = launch_on(self.launch, state.kernel_facts)
        if used != self.launch and not self._ready:
            value = state.kernel_facts[IN_PLACE_PARAMETER]
            self.notice(f"{IN_PLACE_PARAMETER} is {value}: guests are started as {used.name}, {used.kind_text}")

    def _check_backing(self, spec: TestbedSpec, state: TestbedState) -> None:
        """Where the guest_memfd is the RAM there is no other shared side."""
        if spec.backing != ANON_4K and launch_on(self.launch, state.kernel_facts).in_place:
            raise BackingError(
                f"backing {spec.backing.name} cannot be had on this kernel: its guest_memfd holds both sides"
                f" ({IN_PLACE_PARAMETER} is {state.kernel_facts[IN_PLACE_PARAMETER]})"
            )

    def _known_broken(self, spec: TestbedSpec) -> str | None:
        """The key under which a shape is known not to come up."""
        return next((key for key in (_ANY, spec.text()) if key in self._broken), None)

    def run(self, scenario: Scenario, name: CaseName, *, chained: bool = False) -> CaseResult:
        """Run one case; its result is also kept in ``cases``.

        ``chained`` spares half of the samples of a case that passes: see :meth:`_measured`.
        """
        scenario.check()
        check_tells(name.tells, len(scenario.steps))
        spec = self.spec_for(scenario)
        if not self.launch.bare:
            check_supported(scenario, spec.machine.cpus)
        began = time.monotonic()
        try:
            if self.launch.bare:
                check_bare(scenario)
            if self.launch.tee:
                check_tee(scenario, tee_kind(self.launch.name))
            ready = self.ready(spec)
        except NothingRanError as error:  # every case says what is lacking: none of them is there for the others
            result = not_run(name, Verdict.SKIP, str(error), time.monotonic() - began)
        except GmemError as error:
            broken = self._known_broken(spec) or _ANY
            told = self._broke_in.get(broken)
            self._broke_in.setdefault(broken, f"{name.suite}/{name.case}")
            verdict = verdict_of_error(error) if told is None else Verdict.SKIP
            why = str(error) if told is None else f"no testbed{' of this shape' if broken else ''}: see {told}"
            result = not_run(name, verdict, why, time.monotonic() - began)
        else:
            result = replayable(self._measured(ready, scenario, name, chained=chained), scenario)
        if self.options.require and result.verdict is Verdict.SKIP:
            result = msgspec.structs.replace(
                result, verdict=Verdict.INFRA, sentence=f"required, and skipped: {result.sentence}"
            )
        result = with_tells(name.tells, len(scenario.steps), self.named(result, name))
        self.cases.append(result)
        return result

    def named(self, result: CaseResult, name: CaseName) -> CaseResult:
        """The result with what the table of claims wants to know: which claim, judged by what, on which kernel."""
        release = next((ready.state.release for ready in self._ready.values()), "")
        kernel = f"{release} [{self.kernel.name}]" if release and self.kernel else release
        return msgspec.structs.replace(result, claim_id=name.claim_id, design=self.design, kernel=kernel)

    def _measured(self, ready: Ready, scenario: Scenario, name: CaseName, *, chained: bool = False) -> CaseResult:
        """Run a case; a window that was not the step's alone is measured again, on a fresh testbed.

        That is no rerun of a failed case.  A window is rejected by counters that guest_memfd cannot move, where they
        explain all that is off; and a few pages that no counter names have to show twice, from the same saved state: in
        the same step, the same counters by the same amounts.  What is in flight shows elsewhere, or not at all.
        Every attempt keeps its evidence, and the result says that it was not the first.

        ``chained``: first with one sample between two steps, where that can be.  Such windows touch each other, so that
        they miss nothing, but requests of the harness are in them too: what deviates in counters that other activity
        moves is measured again in windows of its own, and only that counts.
        """
        before: list[str] = []
        in_chain = ""
        if chained and self.may_chain(scenario):
            result = self._attempt(ready, scenario, name, chained=True)
            if result.verdict not in (Verdict.DEVIATES, Verdict.INCONCLUSIVE) or not shaken(list(result.steps)):
                return result
            in_chain = f"with one sample between two steps: {result.sentence}"
        for attempt in range(1, MEASURE_AT_MOST + 1):
            result = self._attempt(ready, scenario, name)
            steps = list(result.steps)
            rejected, in_flight = rejected_window(steps), pages_in_flight(steps)
            stands = not (rejected or in_flight) or (not rejected and in_flight in before)
            if stands or attempt == MEASURE_AT_MOST:
                break
            before.append(rejected or in_flight)
            self.notice(f"{name.suite}/{name.case}: {result.sentence}; measuring again")
        if in_chain and result.verdict is Verdict.PASS:
            before.insert(0, in_chain)
            self.notice(f"{name.suite}/{name.case} was measured again, {in_chain}")
        if before:
            told = f"{result.sentence} {AGAIN}{len(before) + 1} times; before: {'; '.join(before)})"
            result = msgspec.structs.replace(result, sentence=told)
        return result

    def may_chain(self, scenario: Scenario) -> bool:
        """Whether one sample between two steps will do: an emulated host is at rest and ours alone, another is not."""
        return (self.host is None or self.host.transport == EMULATED) and chainable(scenario)

    def _attempt(self, ready: Ready, scenario: Scenario, name: CaseName, *, chained: bool = False) -> CaseResult:
        """One measurement of a case, with evidence of its own."""
        folder = self.evidence(f"{name.suite}-{name.case}" + (f"-{name.repeat}" if name.repeat > 1 else ""))
        return run_scenario(
            self.testbeds,
            ready.saved,
            ready.spec,
            scenario,
            design_named(self.design),
            host_facts(ready.state.kernel_facts, ready.spec),
            name=name,
            evidence=folder,
            relative=self.relative(folder),
            keep=self.options.keep,
            deadline=self.options.deadline,
            chained=chained,
        )

    def info(self, command: tuple[str, ...], *, ended_by: tuple[Verdict, str] | None = None) -> RunInfo:
        """The record of the run; ``ended_by`` overrides the verdict when the run ended before its cases did."""
        verdict, why = ended_by or sum_up(self.cases)
        states = [ready.state for ready in self._ready.values()]
        kernel = {key: str(value) for key, value in self.kernel.describe().items()} if self.kernel else {}
        if self.kernel:
            kernel["patches"] = ", ".join(self.kernel.patches)
        if states:
            kernel["release"], kernel["version"] = states[0].release, states[0].version
        return RunInfo(
            started=self.started.isoformat(timespec="seconds"),
            finished=datetime.now().astimezone().isoformat(timespec="seconds"),
            verdict=verdict,
            exit_code=verdict.exit_code,
            sentence=why,
            kernel=kernel,
            design=self.design or self.options.design,
            design_evidence=self.design_evidence,
            host=host_told(self.host),
            guest_kind=launch_on(self.launch, states[0].kernel_facts if states else {}).kind_text,
            qemu={"version": "" if self.launch.bare else self._qemu or account.qemu_version()},
            seed=self.options.seed,
            versions={"gmem-harness": __version__, "python": platform.python_version(), "pytest": version("pytest")},
            command=command,
            counts={kind.value: sum(case.verdict is kind for case in self.cases) for kind in Verdict},
            sharpness=sharpness(self.cases),
            same=self.options.words(),
        )


def _boot_folder(spec: TestbedSpec) -> str:
    """Name of the evidence of a shape's boot."""
    kind = "" if spec.backing == ANON_4K else f"-{spec.backing.name}"
    return f"boot-{len(spec.guests)}-guests{kind}"
