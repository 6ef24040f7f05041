# SPDX-License-Identifier: GPL-2.0-only
"""What a run leaves behind, as records: findings per counter, steps, cases, and the run itself.

These are written as JSON (``results.jsonl``: one :class:`CaseResult` a line; ``run.json``: one :class:`RunInfo`)
and read back by every report.  Field order is the order on disk; mappings are written with sorted keys.
"""

from __future__ import annotations

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
    findings: tuple[Finding, ...]
    recorded: dict[str, int]
    """Differences of counters that moved and that nobody predicted."""
    messages: tuple[str, ...] = ()
    """Findings that are not a counter: contents of a page, list of conversions, witnesses that disagree."""


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
