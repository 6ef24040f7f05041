# SPDX-License-Identifier: GPL-2.0-only
"""The status of many cases as one: its verdict, its sentence, and what is worth a look.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from harness.history.judgement import CaseStatus
from harness.run.verdict import Verdict, worst

_NOTHING = (Verdict.SKIP, Verdict.NOTHING_RAN)


@dataclass(frozen=True)
class Status:
    """What the history says today."""

    today: date
    cases: tuple[CaseStatus, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of what decides; ``nothing-ran`` when all there is was skipped or is in quarantine."""
        return decides(verdict for case in self.cases for verdict in case.deciding)

    @property
    def deviating(self) -> list[CaseStatus]:
        """Deviations that decide, those of the newest spell first."""
        found = [case for case in self.cases if case.spell is not None and case.quarantine is None]
        return sorted(found, key=lambda case: case.spell.first.place if case.spell else "", reverse=True)

    @property
    def quarantined(self) -> list[CaseStatus]:
        return [case for case in self.cases if case.quarantine is not None]

    @property
    def undecided(self) -> list[CaseStatus]:
        """Cases that do not deviate and whose newest result decided nothing, though it was meant to."""
        return [
            case
            for case in self.cases
            if case.spell is None and case.newest is not case.decided and case.newest.verdict not in _NOTHING
        ]

    @property
    def flaky(self) -> list[CaseStatus]:
        """Cases that pass now, and deviated on a build on which they passed as well."""
        return [case for case in self.cases if case.flaky and case.spell is None]

    @property
    def sentence(self) -> str:
        """In one sentence, with what does not decide."""
        bad, lines = self.deviating, {case.line for case in self.cases}
        several = f" on {len(lines)} lines" if len(lines) != 1 else ""
        count = f"{len(self.cases)}{' cases' if bad else ''}{several}"
        told = f"{len(bad)} of {count} deviate" if bad else f"no case of {count} deviates"
        more = [
            f"{len(some)} {words}"
            for some, words in (
                (self.undecided, "undecided"),
                (self.quarantined, "in quarantine"),
                (self.flaky, "flaky"),
            )
            if some
        ]
        return f"{told}{''.join(f', {part}' for part in more)}"


def decides(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of what says something; ``nothing-ran`` for none."""
    return worst(verdict for verdict in verdicts if verdict not in _NOTHING)


def shown(status: Status) -> list[CaseStatus]:
    """All that is worth a line: deviations, the quarantined ones too, then undecided and flaky cases."""
    return [*status.deviating, *status.quarantined, *status.undecided, *status.flaky]


def told(case: CaseStatus) -> list[str]:
    """What there is to say about a case, one sentence each."""
    lines = []
    decided = case.decided
    if case.spell is not None and decided is not None:
        first, good = case.spell.first, case.spell.last_good
        lines.append(decided.signature)
        lines.append(f"since {first.started} ({first.kernel})")
        lines.append(f"last good {good.started} ({good.kernel})" if good is not None else "it never passed before that")
    if case.newest is not decided:
        lines.append(f"newest: {case.newest.verdict.value}: {case.newest.sentence}")
    lines.append(f"deviates in {case.rate}{', flaky: one kernel does both' if case.flaky else ''}")
    if case.quarantine is not None:
        one = case.quarantine
        lines.append(f"in quarantine until {one.until}: {one.reason} ({one.link})")
    if case.expired is not None:
        one = case.expired
        lines.append(f"its quarantine ended on {one.until}: {one.reason} ({one.link})")
    return lines


def readings(statuses: Sequence[CaseStatus]) -> dict[str, int]:
    """Number of cases per verdict word."""
    counts: dict[str, int] = {}
    for case in statuses:
        counts[case.verdict.value] = counts.get(case.verdict.value, 0) + 1
    return dict(sorted(counts.items()))
