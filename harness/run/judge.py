# SPDX-License-Identifier: GPL-2.0-only
"""Holds what was observed against what was predicted; pure.

An observation inside the bound passes.  Outside, the idle testbed's own noise decides whether anything can be said:
a distance no larger than the noise is inconclusive, anything else deviates.  Noise never widens a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from fnmatch import fnmatchcase

from harness.guest.conversions import Conversion
from harness.model.prediction import ExpectedConversion, Prediction, StepPrediction
from harness.run.result import Finding
from harness.run.verdict import Verdict
from harness.scenario.steps import CHUNK_PAGES, Side

REQUIRED = ("nr_file_pages", "nr_unevictable", "F", "pgfree", "gmem/*", "kvm/*/pages_4k")
"""Counters without which no verdict on a kernel is worth anything; their absence is a fault of the testbed."""

UNKNOWN = "unknown: this kernel does not report it"

PAGE_SIZE = 4096


def judge(prediction: StepPrediction, observed: Mapping[str, int], noise: Mapping[str, int]) -> list[Finding]:
    """One Finding per predicted counter, sorted by name.

    ``observed``: differences over the step.  ``noise``: largest absolute difference seen in idle windows; absent is 0.
    A predicted counter that was not observed gives verdict ``skip``, or ``infra`` when it is one of REQUIRED.
    """
    return [
        _finding(counter, bound, observed.get(counter), noise.get(counter, 0))
        for counter, bound in sorted(prediction.predictions.items())
    ]


def _finding(counter: str, bound: Prediction, observed: int | None, noise: int) -> Finding:
    reasons = tuple(str(reason) for reason in bound.reasons)
    if observed is None:
        reasons = (UNKNOWN, *reasons)
    return Finding(
        counter=counter,
        low=bound.low,
        high=bound.high,
        observed=observed,
        noise=noise,
        verdict=_verdict(counter, bound, observed, noise),
        reasons=reasons,
    )


def _verdict(counter: str, bound: Prediction, observed: int | None, noise: int) -> Verdict:
    if observed is None:
        required = any(fnmatchcase(counter, pattern) for pattern in REQUIRED)
        return Verdict.INFRA if required else Verdict.SKIP
    if observed in bound:
        return Verdict.PASS
    distance = bound.low - observed if observed < bound.low else observed - bound.high
    return Verdict.INCONCLUSIVE if distance <= noise else Verdict.DEVIATES


def sentence(finding: Finding, index: int, step: str) -> str:
    """The finding as one sentence for reports; ``step`` is the step's text.

    ``nr_file_pages: predicted -512, observed -511 after step 3 (convert g0.r0[0:512] to shared): punch: 512 present
    private pages of g0.r0[0:512] leave the page cache``
    """
    place = f"step {index} ({step})"
    why = "; ".join(finding.reasons)
    if finding.observed is None:
        return f"{finding.counter}: predicted {finding.predicted}, not observed after {place}: {why}"
    said = f"{finding.counter}: predicted {finding.predicted}, observed {finding.observed:+d} after {place}"
    if finding.verdict is Verdict.INCONCLUSIVE:
        said += f", but the idle testbed moves it by up to {finding.noise}"
    return f"{said}: {why}"


def expected_on_guest(
    expected: Sequence[ExpectedConversion], chunks: Mapping[str, Sequence[int]]
) -> tuple[Conversion, ...]:
    """The expected conversions as guest physical addresses.

    ``chunks``: region to the guest physical address of each of its chunks, as the guest says.
    """
    return tuple(
        Conversion(
            chunks[call.region][call.start_page // CHUNK_PAGES] + call.start_page % CHUNK_PAGES * PAGE_SIZE,
            call.pages,
            call.to is Side.PRIVATE,
        )
        for call in expected
    )


def compare_conversions(
    expected: Sequence[Conversion], asked_by_guest: Sequence[Conversion], done_by_qemu: Sequence[Conversion]
) -> list[str]:
    """Disagreements, one sentence each; empty when the three lists are equal.

    The guest is held against the scenario and QEMU against the guest, so that each sentence names who is at fault.
    """
    return [
        *_differences("the guest's hypercalls", "the scenario expects", expected, asked_by_guest),
        *_differences("QEMU's conversions", "the guest asked for", asked_by_guest, done_by_qemu),
    ]


def _differences(name: str, other: str, wanted: Sequence[Conversion], seen: Sequence[Conversion]) -> list[str]:
    """Sentences on the list ``name`` (``seen``) against ``wanted``; a missing entry does not shift the blame."""
    same = 0
    while same < min(len(wanted), len(seen)) and wanted[same] == seen[same]:
        same += 1
    said = []
    matcher = SequenceMatcher(None, wanted[same:], seen[same:], autojunk=False)
    for what, first, last, at, end in matcher.get_opcodes():
        if what == "equal":
            continue
        gone, extra = wanted[same + first : same + last], seen[same + at : same + end]
        for offset in range(max(len(gone), len(extra))):
            index = same + at + offset
            if offset >= len(extra):
                said.append(f"{name} lack {gone[offset]} at index {same + at + len(extra)}, which {other}")
            elif offset >= len(gone):
                said.append(f"{name} have at index {index} {extra[offset]}, beyond what {other}")
            else:
                said.append(f"{name} have at index {index} {extra[offset]} where {other} {gone[offset]}")
    return said
