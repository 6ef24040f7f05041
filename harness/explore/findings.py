# SPDX-License-Identifier: GPL-2.0-only
"""What an exploration found, and the file that shows it again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from harness.errors import InfraError
from harness.explore.case import CaseReport, ShrinkReport
from harness.explore.signature import Signature
from harness.report.text import one_line
from harness.run.options import RunOptions
from harness.scenario.scenario import Scenario

FOUND = "found"


class Found(msgspec.Struct, kw_only=True):
    """One thing that the kernel does otherwise than the model says."""

    name: str
    signature: Signature
    sentence: str
    """Of the smallest scenario that showed it."""
    scenario: Scenario
    """The one that showed it first."""
    smallest: Scenario
    evidence: str
    again: int = 0
    """Further cases that showed the same."""
    tries: int = 0
    """Scenarios that were run to make it smaller."""
    shown_again: bool = False
    """Whether it showed a second time at all."""
    unfinished: str = "it was not made smaller"
    """Why the smallest one may not be the smallest there is; '' when no smaller one shows it."""

    def shrunk(self, report: ShrinkReport) -> None:
        """Take what shrinking gave."""
        self.smallest, self.tries, self.unfinished = report.smallest, report.tries, report.ended
        if report.result is not None:
            self.shown_again = True
            self.sentence, self.evidence = report.result.sentence, report.result.evidence

    def left(self, report: ShrinkReport | None, why: str) -> None:
        """Shrinking ended before its end; ``report`` is how far it came."""
        if report is not None:
            self.shrunk(report)
        self.unfinished = why


def replay_command(file: Path, options: RunOptions) -> str:
    """The command that runs a scenario as the exploration did, in any folder."""
    return shlex.join(["gmem", "run", str(file), *options.words()])


@dataclass
class Findings:
    """All of them, each with its file ``OUT/found/NAME.yaml``."""

    out: Path
    options: RunOptions
    origin: str
    """The command that the scenarios come from, e.g. ``gmem explore --seed 7``."""
    kernel: str
    design: str
    all: dict[Signature, Found] = field(default_factory=dict)

    def add(self, report: CaseReport) -> Found | None:
        """A case that showed something: what it found, None when that is known."""
        assert report.signature is not None, "a case that shows nothing is no finding"
        known = self.all.get(report.signature)
        if known is not None:
            known.again += 1
            return None
        taken = {found.name for found in self.all.values()}
        stem = report.signature.name
        names = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
        found = self.all[report.signature] = Found(
            name=next(name for name in names if name not in taken),
            signature=report.signature,
            sentence=report.result.sentence,
            scenario=report.scenario,
            smallest=report.scenario,
            evidence=report.result.evidence,
        )
        self.save(found)
        return found

    def file(self, found: Found) -> Path:
        """Where its scenario is."""
        return self.out / FOUND / f"{found.name}.yaml"

    def save(self, found: Found) -> None:
        """Write the scenario with what it shows; raises ``InfraError`` when it cannot be kept."""
        path = self.file(found)
        scenario = msgspec.structs.replace(found.smallest, name=found.name, seed=None)
        first = f"first: {found.scenario.name} of {self.origin}, {len(found.scenario.steps)} steps"
        how = f"{first}; {len(scenario.steps)} steps after {found.tries} tries"
        lines = [
            f"shows: {found.signature}",
            f"says: {found.sentence}",
            f"kernel: {self.kernel}; design: {self.design}",
            f"{how}{f' ({found.unfinished})' if found.unfinished else ''}",
            f"again: {replay_command(path, self.options)}",
        ]
        text = "".join(f"# {one_line(line, 2000)}\n" for line in lines)
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{text}{scenario.to_yaml()}", encoding="utf-8")
        except OSError as error:
            raise InfraError(f"{path} cannot be written: {error.strerror}") from error
