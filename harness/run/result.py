# SPDX-License-Identifier: GPL-2.0-only
"""What a run leaves behind, as records: findings per counter, steps, cases, and the run itself.

These are written as JSON (``results.jsonl``: one :class:`CaseResult` a line; ``run.json``: one :class:`RunInfo`)
and read back by every report.  Field order is the order on disk; mappings are written with sorted keys.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from harness.run.verdict import Verdict


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One counter over one step: what was predicted, what was seen, what follows."""

    counter: str
    low: int
    high: int
    observed: int | None
    noise: int
    verdict: Verdict
    reasons: tuple[str, ...]
    """Sentences of the rules that made the bound, e.g. ``punch: 512 present pages of g0.r0 leave the page cache``."""

    @property
    def predicted(self) -> str:
        """The bound as text: ``+512`` or ``0..+40``."""
        return f"{self.low:+d}" if self.low == self.high else f"{self.low:+d}..{self.high:+d}"


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a scenario as it was walked."""

    index: int
    text: str
    """The step as a sentence, e.g. ``convert g0.r0[0:512] to private``."""
    seconds: float
    """Of the whole step, with settling, sampling and judging."""
    findings: tuple[Finding, ...]
    """Counters that were predicted to move, or may, and those that are not as predicted."""
    recorded: dict[str, int]
    """Differences of counters that moved and that nobody predicted."""
    messages: tuple[str, ...] = ()
    """Findings that are not a counter: contents of a page, list of conversions, witnesses that disagree."""
    still: dict[str, tuple[str, ...]] = {}
    """Counters that were predicted to stay and stayed, in a testbed without noise, by the reason why they must.
    They are nine of ten findings, and their reason is one and the same."""
    conversions: int = 0
    """Conversions that the guest asked for in this step."""
    act_seconds: float = 0.0
    """Of what the step does, alone: from the first request to the last answer; 0 where it was not measured."""

    @property
    def held(self) -> int:
        """Predictions that hold."""
        return sum(finding.verdict is Verdict.PASS for finding in self.findings) + sum(map(len, self.still.values()))

    @property
    def stayed(self) -> tuple[Finding, ...]:
        """``still`` as findings."""
        return tuple(
            Finding(counter=name, low=0, high=0, observed=0, noise=0, verdict=Verdict.PASS, reasons=(reason,))
            for reason, counters in self.still.items()
            for name in counters
        )


def apart(findings: Iterable[Finding]) -> tuple[tuple[Finding, ...], dict[str, tuple[str, ...]]]:
    """The ``findings`` and the ``still`` of a StepResult."""
    told: list[Finding] = []
    still: dict[str, list[str]] = {}
    for finding in findings:
        zero = finding.low == finding.high == finding.observed == finding.noise == 0
        if zero and finding.verdict is Verdict.PASS and len(finding.reasons) == 1:
            still.setdefault(finding.reasons[0], []).append(finding.counter)
        else:
            told.append(finding)
    return tuple(told), {reason: tuple(counters) for reason, counters in still.items()}


class CounterSharpness(msgspec.Struct, frozen=True, kw_only=True):
    """How sharp the predictions of one counter are, over all steps of a run; see ``harness.run.sharpness``."""

    counter: str
    exact: int
    """Predictions of one value."""
    intervals: int
    width_mean: float
    """Highest less lowest value of an interval, on average."""
    width_max: int
    effect_mean: float
    """What the counter moved by, up or down, on average over the steps with an interval."""
    effect_max: int
    """The most that it moved by in any step."""
    ratio: float | None
    """Width to effect, both summed over the intervals; None when there is none or the counter never moved in one."""


class Sharpness(msgspec.Struct, frozen=True, kw_only=True):
    """How sharp the predictions of a run are."""

    still: int = 0
    """Predictions that a counter stays where it is."""
    exact: int = 0
    """Predictions of one value other than 0."""
    intervals: int = 0
    counters: tuple[CounterSharpness, ...] = ()
    """Those that moved or had an interval, the least sharp first."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a case tells for the table of claims: one counter over one step or several, see ``harness.run.tell``."""

    counter: str
    first: int
    step: int
    """Index of the first and of the last step that it is about."""
    low: int | None
    high: int | None
    """The prediction; None when nobody predicted it or the walk did not come that far."""
    observed: int | None
    text: str
    """The sentence for the table, with the numbers in it."""
    x: float | None = None
    axis: str = ""
    """Where the case stands on the horizontal axis of a curve that several cases make, and what that axis is."""

    @property
    def predicted(self) -> str:
        """The bound as text, ``?`` for none."""
        if self.low is None or self.high is None:
            return "?"
        return f"{self.low:+d}" if self.low == self.high else f"{self.low:+d}..{self.high:+d}"


AGAIN = "(measured "
"""In the sentence of a case that was measured more than once, before the number of times."""


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """One case of a suite."""

    suite: str
    case: str
    claim: str
    """First line of the case's docstring."""
    verdict: Verdict
    sentence: str
    """Why, in one sentence."""
    seconds: float
    steps: tuple[StepResult, ...]
    evidence: str
    """Folder relative to the output directory, '' when there is none."""
    repeat: int = 1
    claim_id: str = ""
    """Which claim of ``harness.report.claims`` it decides, e.g. ``C1``; '' for none."""
    tells: tuple[Told, ...] = ()
    design: str = ""
    kernel: str = ""
    """What it was judged by and what it ran on, e.g. ``7.3.4 [7.3-thp-discard]``; '' when it came to no testbed."""

    @property
    def again(self) -> bool:
        """Whether it was measured more than once."""
        return AGAIN in self.sentence


SCENARIO = "scenario.yaml"
"""File in the evidence of a case: what was run, by itself."""


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What ran on what."""

    started: str
    finished: str
    verdict: Verdict
    exit_code: int
    sentence: str
    kernel: dict[str, str]
    """name, release (uname -r), version (uname -v), config_hash, patches, origin."""
    design: str
    design_evidence: tuple[str, ...]
    host: dict[str, str]
    guest_kind: str
    qemu: dict[str, str]
    seed: int
    versions: dict[str, str]
    command: tuple[str, ...]
    counts: dict[str, int]
    """Number of cases per verdict word."""
    sharpness: Sharpness = Sharpness()
    same: tuple[str, ...] = ()
    """What ``gmem run FILE`` needs behind it for the same kernel, host, design and guests."""
