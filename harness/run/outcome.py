# SPDX-License-Identifier: GPL-2.0-only
"""What a walk amounts to: the verdict of its findings, of an error that ended it, or of a window that was not its own.

Pure: steps in, verdict and sentence out.
"""

from __future__ import annotations

from harness.errors import (
    CrashError,
    GmemError,
    InfraError,
    LeakError,
    NoBootError,
    NothingRanError,
    StuckError,
    UsageError,
)
from harness.run.judge import sentence
from harness.run.result import Finding, StepResult
from harness.run.verdict import Verdict, worst

CLASSES: tuple[tuple[type[GmemError], Verdict], ...] = (
    (UsageError, Verdict.USAGE),
    (CrashError, Verdict.CRASH),
    (NoBootError, Verdict.NO_BOOT),
    (LeakError, Verdict.DEVIATES),
    (StuckError, Verdict.DEVIATES),
    (NothingRanError, Verdict.SKIP),
    (InfraError, Verdict.INFRA),
)


def verdict_of_error(error: GmemError) -> Verdict:
    """The verdict that an error's class stands for."""
    return next((verdict for kind, verdict in CLASSES if isinstance(error, kind)), Verdict.INFRA)


FOREIGN = ("nr_kernel_stack", "vmalloc", "pgmajfault")
"""Counters that guest_memfd cannot move: a kernel thread came or went, or a program was read in."""
_SHAKEN = (
    "F", "pgalloc", "pgfree", "unaccounted", "nr_slab_", "movable_balance", "blocks/", "frames/back", "frames/new",
)  # fmt: skip
"""What such foreign activity moves besides; a deviation of anything else stands whatever a thread did.  The stack of a
thread comes from the same lists as a guest_memfd's pages, so that others may come back; how many go it cannot touch."""


def foreign_activity(step: StepResult) -> str:
    """What else happened in the window of a step, as text; '' for a window that was the step's alone."""
    moved = [f"{name} {step.recorded[name]:+d}" for name in FOREIGN if step.recorded.get(name)]
    return ", ".join(moved)


def rejected_window(steps: list[StepResult]) -> str:
    """Why the last step's window cannot be judged; '' when it can.

    Only where foreign activity explains every counter that is off: wrong contents, a wrong list of conversions, or a
    counter that no thread can move are judged all the same.
    """
    return foreign_activity(steps[-1]) if shaken(steps) else ""


def shaken(steps: list[StepResult]) -> bool:
    """Whether all that is off in the last step are counters that other activity on the host moves too."""
    if not steps or steps[-1].messages:
        return False
    off = [finding.counter for finding in steps[-1].findings if finding.verdict is Verdict.DEVIATES]
    return bool(off) and all(name.startswith(_SHAKEN) for name in off)


IN_FLIGHT = 8
"""Pages that the kernel may take or give back on its own between two samples.  Measured: a new slab of order 3
(nr_slab_unreclaimable +8), once; +1 and +8 whose owner was not found, once each: 3 of some 1,200 cases, all while other
programs kept the machine busy; up to 4 of 100 on two cores with a dozen programs running.  Traced: the +8 is a slab of
kmalloc-4k that a poll table of QEMU's ppoll() needs (select.c:__pollwait) when the sheaf of its CPU is empty."""
_UNNAMED = (
    "F", "pgalloc", "pgfree", "unaccounted", "nr_slab_reclaimable", "nr_slab_unreclaimable",
    "frames/back", "frames/new",
)  # fmt: skip
"""Counters that say no more than that a page is somewhere else.  Which frames come back: what anybody allocates on that
CPU between two windows takes the page that was freed last.  Seen once in some 4,000 cases: four pages were allocated
between the last sample of a step and the first of the next one, and a page that should have come back did not."""


def pages_in_flight(steps: list[StepResult]) -> str:
    """What is off in the last step when it is no more than pages in flight, as text; '' otherwise.

    It says that another measurement has to decide, nothing more: a testbed restored from the same saved state does the
    same again, so what the kernel did shows again, and what happened to be in flight does not.
    """
    if not steps or steps[-1].messages:
        return ""
    off = [finding for finding in steps[-1].findings if finding.verdict is Verdict.DEVIATES]
    if not off or any(f.counter not in _UNNAMED or _distance(f) > IN_FLIGHT for f in off):
        return ""
    return f"step {steps[-1].index}: " + ", ".join(f"{f.counter} {f.predicted}/{f.observed:+d}" for f in off)


def _distance(finding: Finding) -> int:
    """How far outside its bound an observation lies."""
    assert finding.observed is not None, "an unobserved counter does not deviate"
    return max(finding.low - finding.observed, finding.observed - finding.high)


def outcome(steps: list[StepResult]) -> tuple[Verdict, str]:
    """The worst finding of the walk, and its sentence; wrong contents and conversions deviate too."""
    rejected = rejected_window(steps)
    if rejected:
        step = steps[-1]
        return Verdict.INCONCLUSIVE, (
            f"the window of step {step.index} ({step.text}) was disturbed ({rejected}): its counters say nothing"
        )
    found: list[tuple[Verdict, str]] = []
    for step in steps:
        found += [(Verdict.DEVIATES, f"after step {step.index} ({step.text}): {message}") for message in step.messages]
        found += [
            (finding.verdict, sentence(finding, step.index, step.text))
            for finding in telling_first(step)
            if finding.verdict not in (Verdict.PASS, Verdict.SKIP)
        ]
    if not found:
        skipped = sum(finding.verdict is Verdict.SKIP for step in steps for finding in step.findings)
        unknown = f", {skipped} could not be observed" if skipped else ""
        return Verdict.PASS, f"{sum(step.held for step in steps)} predictions over {len(steps)} steps hold{unknown}"
    verdict = worst(kind for kind, _ in found)
    sentences = [text for kind, text in found if kind is verdict]
    more = f" (and {len(sentences) - 1} more findings)" if len(sentences) > 1 else ""
    return verdict, sentences[0] + more


_TELLING = ("gmem/", "nr_file_pages", "nr_unevictable", "pgfree", "F", "kvm/", "nr_anon_pages", "unaccounted")


def telling_first(step: StepResult) -> list[Finding]:
    """Findings with those in front that name the fault most directly; dozens of counters move with one page."""

    def place(finding: Finding) -> int:
        return next((n for n, name in enumerate(_TELLING) if finding.counter.startswith(name)), len(_TELLING))

    return sorted(step.findings, key=place)
