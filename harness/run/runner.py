# SPDX-License-Identifier: GPL-2.0-only
"""Runs one scenario on one restored testbed: observes every step, judges it, keeps the evidence.

    scenario -> prediction per step --+
       |                              +-> judge -> findings -> verdict
       +-> steps on the testbed ------+

Order of blame when something breaks: a console that shows a crash makes it a crash, whatever else failed; a testbed
that does not answer is ``infra`` and never a failed assertion.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import msgspec

from harness.counters.sample import Sample, difference
from harness.errors import CrashError, GmemError, InfraError, StuckError
from harness.guest.conversions import NotTraced
from harness.host.calibrate import largest_moves
from harness.host.emulated.prepare import PCP_FRACTION, Clock
from harness.host.emulated.state import TestbedSpec
from harness.host.frames import ChannelTimeout
from harness.host.testbed import Testbed, Testbeds
from harness.model.bare import bare_regions, with_cgroups
from harness.model.context import Backing, Design
from harness.model.course import Course, looks
from harness.model.designs import backing_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.prediction import StepPrediction
from harness.model.prepared import prepared_regions
from harness.model.reread import reread
from harness.run.evidence import keep_predictions, keep_sample, thin_out
from harness.run.frames import ROOM_FRACTION, FrameWatch, list_cap, list_limits
from harness.run.held import check_pins
from harness.run.judge import judge
from harness.run.judged import MACHINE_WIDE, NO_GUEST_MEMFD, judged_only
from harness.run.locate import misplaced
from harness.run.outcome import CLASSES, outcome, verdict_of_error
from harness.run.outlived import outlived
from harness.run.result import SCENARIO, CaseResult, Finding, StepResult, apart
from harness.run.stuck import check_stuck
from harness.run.tell import Tell
from harness.run.verdict import Verdict, worst
from harness.run.walk import STEP_SECONDS, Done, Walker
from harness.run.witnesses import Witnesses
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Close, PageRange, Step

IDLE_WINDOWS, IDLE_WINDOWS_CALIBRATED = 3, 1
"""Empty windows observed before the first step, one behind the other: the largest movement of a counter in one of them
is its noise.  One is enough where the noise of the testbed was measured when it was made."""
KEPT = "testbed"
"""Folder in the evidence with the saved state of a testbed that was kept."""
_BEFORE, _AFTER = 0, 1
_GO_ON = (Verdict.PASS, Verdict.SKIP)
"""Verdicts of findings after which the next step is walked; SKIP is a counter that this kernel does not report."""


@dataclass(frozen=True)
class CaseName:
    """Which case a scenario is run for."""

    suite: str
    case: str
    claim: str
    repeat: int = 1
    claim_id: str = ""
    """Which claim of the table it decides, e.g. ``C1``; '' for none."""
    tells: tuple[Tell, ...] = ()
    """What it tells there."""


@dataclass
class ScenarioRun:
    """One walk of one scenario; made by :func:`run_scenario`."""

    testbed: Testbed
    scenario: Scenario
    design: Design
    facts: HostFacts
    evidence: Path
    deadline: float = STEP_SECONDS
    walker: Walker = field(init=False)
    witnesses: Witnesses = field(init=False)
    frames: FrameWatch = field(init=False)
    chained: bool = False
    """One sample between two steps ends the first and begins the next: see :func:`chainable`."""
    end: Sample | None = None
    """The last sample, from which a chained step begins; None where the host was asked for more than that since."""
    course: Course | None = None
    """Predicts step by step, where a look at the host in between makes it sharper."""
    noise: dict[str, int] = field(default_factory=dict)
    steps: list[StepResult] = field(default_factory=list)
    act_seconds: float = 0.0
    """Of the last action."""

    def __post_init__(self) -> None:
        self.walker = Walker(self.testbed, self.deadline)
        self.witnesses = Witnesses(self.testbed)
        self.frames = FrameWatch(self.testbed.channels.probe, self.evidence, self.scenario.frames)

    @property
    def backing(self) -> Backing:
        """The model's rules of what the shared side is made of."""
        return backing_named(self.testbed.spec.backing.name)

    # -- observing

    def observe(self, action: Callable[[Walker], Done]) -> tuple[Done, Sample, Sample]:
        """Settle, sample, act, settle, sample; nothing but the action happens between the two samples.

        What the action gave to RCU is waited for behind it, so the settling before it need not wait again.  A chained
        step begins with the last sample: the transfer of that one, and the judging, are in the window too.
        """
        testbed = self.testbed
        begin = self.end if self.chained and self.end and self.end.steady else None

        def window(walker: Walker) -> Done:
            if begin is None:
                testbed.settle(rcu=False)
                testbed.sample(_BEFORE)
            began = time.monotonic()
            done = action(walker)
            self.act_seconds = time.monotonic() - began if testbed.answers_at_once else 0.0
            testbed.settle()
            testbed.sample(_AFTER)
            return done

        done = testbed.undisturbed(lambda: window(self.walker), rehearsal=lambda: window(self.walker.twin()))
        begin = begin or testbed.fetch(_BEFORE)
        self.end = testbed.fetch(_AFTER)
        return done, begin, self.end

    def measure_noise(self) -> Sample:
        """Observe nothing happening for a while; returns the last sample, from which the scenario starts."""
        testbed = self.testbed
        known = testbed.state.noise
        last = IDLE_WINDOWS if known is None else IDLE_WINDOWS_CALIBRATED

        def windows() -> None:
            for slot in range(last + 1):
                testbed.settle(rcu=slot in (0, last))
                testbed.sample(slot)

        testbed.undisturbed(windows, rehearsal=windows)
        samples = [testbed.fetch(slot) for slot in range(last + 1)]
        self.noise = dict(known or {})
        for counter, moved in largest_moves(pairwise(samples)).items():
            self.noise[counter] = max(self.noise.get(counter, 0), moved)
        self.end = samples[-1]
        return self.end

    # -- walking

    def walk(self) -> None:
        """All steps, until one deviates: what follows a deviation starts from a state nobody predicted."""
        self.testbed.check_consoles()
        if self.scenario.pcp_room:
            self.testbed.cap_lists(ROOM_FRACTION)
        start = self.measure_noise()
        self.frames.begin()
        keep_sample(self.evidence, "start", start)
        values, self.facts = self.known(start)
        bare = any(guest.launch.bare for guest in self.testbed.spec.guests)
        beginning = bare_regions if bare else partial(prepared_regions, backing=self.backing)
        regions = beginning(design=self.design, facts=self.facts)
        known = self.scenario, self.design, values, self.facts
        predictions = predict(*known, backing=self.backing, regions=regions)
        if bare:
            predictions = with_cgroups(predictions, regions, values)
        predictions = [self.judged(step) for step in predictions]
        keep_predictions(self.evidence, predictions)
        check_pins(predictions, self.testbed.state.kernel_facts)
        if any(map(looks, self.scenario.steps)):
            self.course = Course(*known, backing=self.backing, regions=regions)
        for index in range(len(predictions)):
            if self.course:
                predictions[index] = self.judged(self.course.predict())
                keep_predictions(self.evidence, predictions)
            result = self.one_step(predictions[index])
            self.steps.append(result)
            self.testbed.check_consoles()
            if result.messages or any(finding.verdict not in _GO_ON for finding in result.findings):
                break
        self.check_tracing()

    def check_tracing(self) -> None:
        """Whether the lists of conversions can be believed; a deviation of a counter needs no such witness."""
        told = any(step.messages for step in self.steps)
        off = any(finding.verdict is Verdict.DEVIATES for step in self.steps for finding in step.findings)
        if off or not (told or not any(step.conversions for step in self.steps)):
            return
        ended = frozenset(step.guest for step in self.scenario.steps if isinstance(step, Close))
        try:
            self.witnesses.check_tracing(ended)
        except NotTraced:
            raise
        except InfraError:
            if not told:  # a QEMU that is silent afterwards hides nothing that was found
                raise

    def judged(self, prediction: StepPrediction) -> StepPrediction:
        """The prediction for what can be seen here, and is this run's doing."""
        prediction = judged_only(prediction, self.testbed.judges)
        if any(guest.launch.tee and not guest.launch.confidential for guest in self.testbed.spec.guests):
            return judged_only(prediction, MACHINE_WIDE, NO_GUEST_MEMFD)
        return prediction

    def known(self, start: Sample) -> tuple[Mapping[str, int], HostFacts]:
        """What the model is told: the first sample, and the facts with what this case made of the per-CPU lists."""
        zones = start.raw.get("zoneinfo", "") if self.scenario.frames or self.scenario.pcp_room else ""
        fraction = ROOM_FRACTION if self.scenario.pcp_room else PCP_FRACTION
        facts = replace(self.facts, pcp_cap=list_cap(zones, fraction)) if self.scenario.pcp_room else self.facts
        return {**start.values, **list_limits(zones, fraction), **self.frames.held}, facts

    def one_step(self, prediction: StepPrediction) -> StepResult:
        """Carry one step out and judge it; raises ``InfraError`` for a step that did not do what it is there for."""
        step: Step = prediction.step
        began = time.monotonic()
        offsets = self.witnesses.offsets()
        done, before, after = self.observe(lambda walker: walker.carry_out(step, prediction))
        keep_sample(self.evidence, f"step{prediction.index}-before", before)
        keep_sample(self.evidence, f"step{prediction.index}-after", after)
        if done.proof and (lacking := done.proof(before, after)):
            raise InfraError(f"step {prediction.index}: {lacking}")
        if self.course and looks(step):
            self.course.seen(after.raw, after.values)
        prediction = self.judged(reread(prediction, before.values, self.facts))
        observed = {**difference(before, after), **self.frames.after_step(prediction.index)}
        findings, still = apart(self.locate(finding, prediction) for finding in judge(prediction, observed, self.noise))
        messages = list(done.problems)
        if isinstance(step, Close):
            messages += outlived(self.testbed, step.guest)
            self.testbed.settle()  # a process was started to look: what its end gave to RCU is not the next step's
            self.end = None
        if done.refused:
            self.end = None  # a file of the host is read to see how far it came
        messages += self.witnesses.compare_refusals(prediction, done)
        if not messages:
            messages += self.witnesses.compare(prediction, done, offsets)
        return StepResult(
            index=prediction.index,
            text=step.text(),
            seconds=time.monotonic() - began,
            findings=findings,
            still=still,
            recorded={name: moved for name, moved in observed.items() if moved and name not in prediction.predictions},
            messages=tuple(messages),
            conversions=len(done.asked),
            act_seconds=self.act_seconds,
        )

    def locate(self, finding: Finding, prediction: StepPrediction) -> Finding:
        """The finding with the pages that are off, where it is one on the pages of a guest_memfd."""
        kind, _, guest = finding.counter.partition("/")
        if kind != "gmem" or finding.verdict is not Verdict.DEVIATES:
            return finding

        def count(where: PageRange) -> int:
            ((offset, length),) = self.walker.extents(where)
            return self.testbed.channels.probe.cachestat(self.walker.pid(where.region), offset, length)

        said = misplaced(guest, prediction.regions, count)
        return msgspec.structs.replace(finding, reasons=(*finding.reasons, f"seen: {said}")) if said else finding


_LAST_WORDS_SECONDS = 0.5
"""How long a console may take to show why a channel went silent: a panic prints for some tens of milliseconds."""


def chainable(scenario: Scenario) -> bool:
    """Whether one sample between two steps is enough, on a host that is at rest and ours alone.

    Not where something is done on the host between two steps, or where the step before has to be told apart from all
    else: frames are counted there, and pressure has to prove itself.
    """
    return not scenario.frames and not any(map(looks, scenario.steps))


def run_scenario(
    lab: Testbeds,
    saved: Path,
    spec: TestbedSpec,
    scenario: Scenario,
    design: Design,
    facts: HostFacts,
    *,
    name: CaseName,
    evidence: Path,
    relative: str,
    keep: bool = False,
    deadline: float = STEP_SECONDS,
    chained: bool = False,
) -> CaseResult:
    """Take a testbed, walk the scenario, judge it.

    ``keep`` saves a testbed that does not pass beside its evidence; ``deadline`` bounds each request in seconds;
    ``chained`` as in :class:`ScenarioRun`, for a scenario that is :func:`chainable`.

    Never raises for what happens to the testbed or the kernel: that is the verdict.  ``KeyboardInterrupt`` passes.
    """
    began = time.monotonic()
    (evidence / SCENARIO).write_text(scenario.to_yaml())
    steps: list[StepResult] = []
    verdict, why = Verdict.INFRA, ""
    try:
        with lab.restored(spec, saved, evidence, Clock()) as testbed:
            run = ScenarioRun(testbed, scenario, design, facts, evidence, deadline, steps=steps, chained=chained)
            try:
                verdict, why = _walk(run)
            except GmemError as error:
                error = _explain(run, error)
                verdict, why = verdict_of_error(error), str(error)
            if keep and verdict not in _GO_ON and testbed.machine.running:
                why += _keep(testbed, evidence / KEPT)
            if verdict is Verdict.PASS:
                thin_out(evidence)
    except GmemError as error:  # while it was brought up, or given back: what is amiss then hides no deviation
        late = verdict_of_error(error)
        why = f"{why}; {error}" if why and verdict is not Verdict.PASS else str(error)
        verdict = late if verdict is Verdict.PASS or not steps else worst((verdict, late))
    return CaseResult(
        suite=name.suite,
        case=name.case,
        claim=name.claim,
        verdict=verdict,
        sentence=why,
        seconds=time.monotonic() - began,
        steps=tuple(steps),
        evidence=relative,
        repeat=name.repeat,
    )


def _keep(testbed: Testbed, folder: Path) -> str:
    """Save a testbed that did not pass; that it cannot be saved is added to the sentence and hides no verdict."""
    try:
        folder.mkdir()
        testbed.save(folder)
    except (GmemError, OSError) as error:
        return f" (the testbed could not be kept: {error})"
    return ""


def _walk(run: ScenarioRun) -> tuple[Verdict, str]:
    """The verdict of a walk that the testbed survived, with its sentence."""
    for guest in run.testbed.state.guests:
        if guest.leftover:
            return Verdict.DEVIATES, (
                f"gmem/{guest.name}: predicted 0, observed {guest.leftover} pages in region r0 before the first step: "
                "all of it was converted to private, touched and converted back, and the punched holes freed too little"
            )
    run.walk()
    return outcome(run.steps)


def _explain(run: ScenarioRun, error: GmemError) -> GmemError:
    """A crash explains every other trouble; otherwise say what became of the machine."""
    end = time.monotonic() + _LAST_WORDS_SECONDS
    while True:
        try:
            run.testbed.check_consoles()
        except CrashError as crash:
            return crash
        if not run.testbed.machine.running:
            kind = next((kind for kind, _ in CLASSES if isinstance(error, kind)), InfraError)
            return kind(f"{error}; {run.testbed.machine.last_words()}")  # a subclass may want more than a text
        if time.monotonic() > end:
            return _silent(run, error)
        time.sleep(0.02)


def _silent(run: ScenarioRun, error: GmemError) -> GmemError:
    """Where the kernel under test keeps a guest from answering, that instead of the silence."""
    if not (isinstance(error, ChannelTimeout) or isinstance(error.__cause__, ChannelTimeout)):
        return error
    try:
        check_stuck(run.testbed)
    except StuckError as stuck:
        return StuckError(f"{stuck}; {error}")
    return error
