# SPDX-License-Identifier: GPL-2.0-only
"""What every report says in the same words: names of cases, facts of a run, and the few counters worth a line."""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from harness.report.text import one_line
from harness.run.result import SCENARIO, CaseResult, CounterSharpness, Finding, RunInfo, Sharpness, StepResult
from harness.run.verdict import Verdict

KEY_LIMIT: Final = 6
"""Counters in the summary of a case: what fits on a line of a wide terminal."""

# What the guest_memfd itself did comes first, then the allocator, the mappings, the shared side, then huge pages.
_ORDER: Final = (
    "nr_file_pages",
    "nr_unevictable",
    "gmem/*",
    "F",
    "pgfree",
    "nr_file_hugepages",
    "thp_split_page*",
    "kvm/*/pages_*",
    "nr_anon_pages",
    "nr_shmem",
    "nr_hugetlb",
    "unaccounted",
    "movable_balance",
    "unevictable_pgs_culled",
)

GOOD: Final = frozenset({Verdict.PASS, Verdict.XFAIL, Verdict.SKIP, Verdict.NOTHING_RAN})
"""Outcomes that no CI needs to look at: everything else is a failure or an error."""

_OF_THE_KERNEL: Final = frozenset({Verdict.DEVIATES, Verdict.CRASH})
"""Verdicts that say something of the kernel which a smaller scenario may show too."""
_MADE_SMALL: Final = frozenset({"shrink", "explore"})
"""Suites whose cases were made small where they could be."""

_GUEST_KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sw-protected": "sw-protected (SNP stand-in): no memory is encrypted",
        "snp": "snp: AMD SEV-SNP",
        "tdx": "tdx: Intel TDX",
        "plain": "plain: an ordinary VM with a guest_memfd; no memory is encrypted",
        "bare": "bare: a guest_memfd without a vCPU; no memory is encrypted",
    }
)


def guest_kind_text(kind: str) -> str:
    """The guest kind with what it means for encryption; an unknown word is shown as it is.

    >>> guest_kind_text("sw-protected (SNP stand-in)")
    'sw-protected (SNP stand-in): no memory is encrypted'
    """
    known = _GUEST_KINDS.get(kind)
    if known is not None:
        return known
    unencrypted = kind.startswith("sw-protected")  # however its conversions come about
    return one_line(kind) + (": no memory is encrypted" if unencrypted else "")


def kernel_text(info: RunInfo) -> str:
    """The kernel's exact version as one line: ``uname -r`` and ``uname -v``, the name asked for, and the patches."""
    kernel = info.kernel
    patches = f" + {kernel['patches']}" if kernel.get("patches") else ""
    exact = " ".join(kernel[key] for key in ("release", "version") if kernel.get(key)) or "unknown (it did not say)"
    return one_line(f"{exact} [{kernel['name']}{patches}]" if kernel.get("name") else exact)


def case_name(case: CaseResult) -> str:
    """``suite/case``, and the number of the repetition from the second on."""
    return one_line(f"{case.suite}/{case.case}" + (f" #{case.repeat}" if case.repeat > 1 else ""), 300)


def outside(finding: Finding) -> bool:
    """Whether a finding speaks against its prediction; a counter that the kernel does not report does not."""
    return finding.verdict not in GOOD


def moves(finding: Finding) -> bool:
    """Whether the counter was predicted to move, or may."""
    return bool(finding.low or finding.high)


def observed_text(observed: int | None) -> str:
    """``+512``, or ``?`` for a counter that the kernel does not report."""
    return "?" if observed is None else f"{observed:+d}"


@dataclass(frozen=True)
class KeyCounter:
    """One counter of a summary; texts such as ``+512`` or ``0..+40``."""

    counter: str
    predicted: str
    observed: str
    outside: bool

    def __str__(self) -> str:
        return f"{'!' if self.outside else ''}{self.counter} {self.predicted}/{self.observed}"


@dataclass(frozen=True)
class Summary:
    """The counters worth a line, and the step they are of; None when no step was judged."""

    step: StepResult | None
    counters: tuple[KeyCounter, ...]
    more: int
    """Counters of the same kind that were left out."""

    def __str__(self) -> str:
        where = f"step {self.step.index}: " if self.step is not None else ""
        more = f" … {self.more} more" if self.more else ""
        return where + "  ".join(str(counter) for counter in self.counters) + more


def summarize(case: CaseResult, limit: int = KEY_LIMIT) -> Summary:
    """The few counters that tell what happened in a case, predicted and observed, all of one step.

    Of the first step with findings outside their predictions: those.  Else of the step that was predicted to move the
    most (the last of equal ones): the counters that move.  Else, when everything was predicted to stay: counters of
    the last step judged.
    """
    for step in case.steps:
        wrong = [finding for finding in step.findings if outside(finding)]
        if wrong:
            return _summary(step, wrong, limit)
    busiest = max(reversed(case.steps), key=_movement, default=None)
    if busiest is not None and _movement(busiest) > (0, 0):
        return _summary(busiest, [finding for finding in busiest.findings if moves(finding)], limit)
    judged = next((step for step in reversed(case.steps) if step.findings or step.still), None)
    return _summary(judged, judged.findings + judged.stayed if judged else (), limit)


def _movement(step: StepResult) -> tuple[int, int]:
    """How much a step was predicted to move: exactly, and at most."""
    exact = sum(abs(finding.low) for finding in step.findings if finding.low == finding.high)
    return exact, sum(max(abs(finding.low), abs(finding.high)) for finding in step.findings)


def _summary(step: StepResult | None, findings: Sequence[Finding], limit: int) -> Summary:
    ordered = sorted(findings, key=lambda finding: counter_rank(finding.counter))
    counters = tuple(
        KeyCounter(one_line(f.counter, 100), f.predicted, observed_text(f.observed), outside(f))
        for f in ordered[:limit]
    )
    return Summary(step, counters, max(0, len(ordered) - limit))


def counter_rank(counter: str) -> tuple[int, str]:
    """Orders counters: what a reader asks for first comes first."""
    for index, pattern in enumerate(_ORDER):
        if fnmatch.fnmatchcase(counter, pattern):
            return index, counter
    return len(_ORDER), counter


def sharpness_text(told: Sharpness, limit: int = 3) -> str:
    """How sharp the predictions were, as one line; '' for a run that predicted nothing.

    ``8120 of no movement, 940 exact, 210 intervals; width to effect: nr_slab_reclaimable 3.1, F 0.02``
    """
    if not (told.still or told.exact or told.intervals):
        return ""
    wide = [
        f"{one_line(row.counter, 60)} {ratio_text(row)}" for row in told.counters[:limit] if row.intervals
    ]  # the least sharp come first
    more = f"; width to effect: {', '.join(wide)}" if wide else ""
    return f"{told.still} of no movement, {told.exact} exact, {told.intervals} intervals{more}"


def ratio_text(row: CounterSharpness) -> str:
    """Width to effect as text: ``0.02``; ``up to 4 around nothing`` where an interval's counter never moved."""
    if not row.intervals:
        return "exact"
    return f"{row.ratio:.2g}" if row.ratio is not None else f"up to {row.width_max} around nothing"


def shrink_command(case: CaseResult, folder: Path, same: Sequence[str]) -> str:
    """The command that makes small what a case with this evidence shows of the kernel; '' where there is none.

    ``same``: what it needs for the same kernel (``RunInfo.same``).
    """
    file = folder / SCENARIO
    if case.verdict not in _OF_THE_KERNEL or case.suite in _MADE_SMALL or not (case.evidence and file.is_file()):
        return ""
    return shlex.join(["gmem", "shrink", str(file), *same])


def run_problem(info: RunInfo, cases: Sequence[CaseResult]) -> CaseResult | None:
    """A case for what happened to the run itself, when its verdict is none that a case has.

    Without it a machine that reads only the cases would call a kernel good that did not come up.
    """
    if info.verdict in GOOD or any(case.verdict is info.verdict for case in cases):
        return None
    return CaseResult(
        suite="gmem",
        case="run",
        claim="the run comes to its end",
        verdict=info.verdict,
        sentence=info.sentence,
        seconds=0.0,
        steps=(),
        evidence="",
    )
