# SPDX-License-Identifier: GPL-2.0-only
"""What an exploration amounts to: ``explore.json``, and the same as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from harness.explore.exploration import Exploration
from harness.explore.findings import FOUND, Findings, Found, replay_command
from harness.report.summary import kernel_text
from harness.report.text import one_line, storable
from harness.run.result import RunInfo
from harness.run.verdict import Verdict

SUMMARY = "explore.json"


class FoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was found."""

    name: str
    kind: str
    what: str
    rule: str
    sentence: str
    file: str
    """Scenario that shows it, relative to the output directory."""
    evidence: str
    first: str
    """The scenario that showed it first, e.g. ``random-17``."""
    steps_first: int
    steps: int
    tries: int
    again: int
    shown_again: bool
    unfinished: str


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What the records of explorations and of shrinking say of their run."""

    verdict: Verdict
    exit_code: int
    sentence: str
    kernel: dict[str, str]
    design: str

    def text(self) -> str:
        """As JSON, clean and sorted."""
        plain = storable(msgspec.to_builtins(self))
        return msgspec.json.format(msgspec.json.encode(plain, order="sorted"), indent=1).decode()


def of_run(info: RunInfo) -> dict[str, Any]:
    """The fields of :class:`Ended`."""
    return {name: getattr(info, name) for name in Ended.__struct_fields__}


class Summary(Ended, frozen=True, kw_only=True):
    """What is written as ``explore.json``."""

    seed: int
    seeds_used: int
    """Seeds from ``seed`` on that were drawn."""
    seeds_left: tuple[int, ...]
    """Those of them whose scenarios were not run to their end: the exploration was over before."""
    jobs: int
    together: int
    """Cases on one restored testbed at most."""
    seconds: float
    """From the first case to the end of the last one; what came up before it is not in it."""
    cases: int
    cases_per_minute: float
    case_seconds_mean: float
    counts: dict[str, int]
    """Cases per verdict word, and ``lost`` (their worker died, or could not run them)."""
    retried: int
    """Cases that were run again because their testbed failed."""
    again: int
    """Testbeds whose cases were measured again because something else moved counters too."""
    found: tuple[FoundRecord, ...]
    rules: dict[str, int]
    """Rule to the cases that met it."""
    never: dict[str, str]
    """Rules of the design that no case met, with what a scenario needs for them."""
    combinations: int
    corpus: str
    corpus_loaded: int
    corpus_added: int


def summary(exploration: Exploration, info: RunInfo, jobs: int) -> Summary:
    """The record of an exploration whose run is ``info``."""
    done, seconds = exploration.done, exploration.seconds
    counts = {kind.value: count for kind, count in exploration.counts.items()}
    return Summary(
        **of_run(info),
        seed=exploration.seed,
        seeds_used=exploration.drawn,
        seeds_left=tuple(
            seed
            for seed in range(exploration.seed, exploration.seed + exploration.drawn)
            if seed not in exploration.seeds_run
        ),
        jobs=jobs,
        together=exploration.together,
        seconds=round(seconds, 1),
        cases=done,
        cases_per_minute=round(60 * done / seconds, 1) if seconds else 0.0,
        case_seconds_mean=round(exploration.case_seconds / done, 3) if done else 0.0,
        counts=counts | ({"lost": exploration.lost} if exploration.lost else {}),
        retried=exploration.retried,
        again=exploration.again,
        found=tuple(map(found_record, exploration.findings.all.values())),
        rules=dict(exploration.coverage.met),
        never=dict(exploration.coverage.never),
        combinations=len(exploration.coverage.combinations),
        corpus=str(exploration.corpus.folder),
        corpus_loaded=exploration.corpus.loaded,
        corpus_added=exploration.corpus.added,
    )


def found_record(one: Found) -> FoundRecord:
    """The record of one thing that was found."""
    return FoundRecord(
        name=one.name,
        kind=one.signature.kind,
        what=one.signature.what,
        rule=one.signature.rule,
        sentence=one.sentence,
        file=f"{FOUND}/{one.name}.yaml",
        evidence=one.evidence,
        first=one.scenario.name,
        steps_first=len(one.scenario.steps),
        steps=len(one.smallest.steps),
        tries=one.tries,
        again=one.again,
        shown_again=one.shown_again,
        unfinished=one.unfinished,
    )


def found_text(one: Found, findings: Findings) -> list[str]:
    """One thing that was found, as lines for people: what, the steps that show it, their origin, the command."""
    how = f"{len(one.scenario.steps)} steps as {one.scenario.name}, {len(one.smallest.steps)} after {one.tries} tries"
    how += f"; shown by {one.again} further cases" if one.again else ""
    how += f"; {one.unfinished}" if one.unfinished else ""
    return [
        f"found:   {one.signature}",
        f"         {one_line(one.sentence)}",
        *(f"         {step.text()}" for step in one.smallest.steps),
        f"         {how}",
        f"         {replay_command(findings.file(one), findings.options)}",
        "",
    ]


def summary_text(told: Summary, exploration: Exploration, info: RunInfo, out: Path) -> str:
    """The end of an exploration for people."""
    lines: list[str] = [""]
    for one in exploration.findings.all.values():
        lines += found_text(one, exploration.findings)
    met = ", ".join(f"{rule} {count}" for rule, count in told.rules.items())
    never = ", ".join(f"{rule} (needs {needs})" if needs else rule for rule, needs in told.never.items())
    counts = ", ".join(f"{count} {word}" for word, count in sorted(told.counts.items()))
    speed = f"{told.cases_per_minute:.0f} a minute with {told.jobs} at a time, {told.case_seconds_mean:.2f} s each"
    seeds = f"{told.seed} to {told.seed + told.seeds_used - 1}" if told.seeds_used else "none"
    if told.seeds_left:
        seeds += f" without {', '.join(map(str, told.seeds_left))}"
    repeated = [f"{told.retried} run again for trouble of the testbed"] if told.retried else []
    repeated += [f"measured again on {told.again} testbeds: something else moved counters too"] if told.again else []
    facts = {
        "verdict": f"{told.verdict.value} (exit code {told.exit_code}): {one_line(told.sentence)}",
        "kernel": kernel_text(info),
        "design": one_line(told.design),
        "cases": f"{told.cases} in {told.seconds:.0f} s, {speed}",
        "": "; ".join([counts or "none", *repeated]),
        "seeds": f"{seeds}; corpus: {told.corpus_loaded} known, {told.corpus_added} new, in {told.corpus}",
        "rules": f"{met or 'none'}; {told.combinations} combinations",
        "never": never,
        "report": str(out / SUMMARY),
    }
    lines += [f"{f'{name}:' if name else '':<9}{value}" for name, value in facts.items() if value]
    return "\n".join(lines)
