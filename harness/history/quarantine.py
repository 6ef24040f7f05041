# SPDX-License-Identifier: GPL-2.0-only
"""Quarantine: a deviation that is known, with the reason, a link, and a last day.

What is quarantined is a deviation and not a case: the signature that the case showed when somebody looked.  Another one
of the same case decides as ever, and so does this one after its last day.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import delete

from harness.errors import UsageError
from harness.history.database import History
from harness.history.judgement import DECIDED, Quarantine
from harness.history.series import Wanted, every_result, quarantines
from harness.history.tables import quarantine
from harness.report.text import one_line

_LINK: Final = re.compile(r"https?://\S+")
_RECENT: Final = 100
"""Newest results of a case whose deviations can be quarantined: a flaky case passes at the moment."""


def put(
    history: History, wanted: Wanted, *, reason: str, link: str, until: date, today: date
) -> tuple[Quarantine, ...]:
    """Quarantine the deviations that a case shows, present ones or, where it passes now, those of its newest results.

    Raises :class:`UsageError` for a case that shows none, a last day that is over, a link that is none.
    """
    if not reason.strip():
        raise UsageError("a quarantine has a reason: --reason TEXT says why the deviation is known and still there")
    if not _LINK.fullmatch(link):
        raise UsageError(f"{one_line(link, 200)!r} is no link: --link URL leads to where the deviation is dealt with")
    if until < today:
        raise UsageError(f"the last day {until} is over: --until takes a day from today ({today}) on")
    signatures = _shown(history, wanted)
    if not signatures:
        raise UsageError(f"{one_line(wanted.case, 200)} shows no deviation: there is nothing to quarantine")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with history.write() as connection:
        for signature in signatures:
            row = {
                "case": wanted.case,
                "signature": signature,
                "kernel": wanted.kernel,
                "branch": wanted.branch,
                "host": wanted.host,
            }
            same = [quarantine.c[name] == value for name, value in row.items()]
            connection.execute(delete(quarantine).where(*same))  # a new last day takes the place of the old one
            told = {"reason": one_line(reason, 600), "link": one_line(link, 600), "until": until.isoformat()}
            connection.execute(quarantine.insert().values(**row, **told, added=now))
        return tuple(one for one in quarantines(connection) if one.case == wanted.case and one.signature in signatures)


def lift(history: History, wanted: Wanted) -> int:
    """Take the quarantines of a case away; how many there were.  Raises :class:`UsageError` when there is none."""
    same = [
        quarantine.c[name] == getattr(wanted, name)
        for name in ("case", "kernel", "branch", "host")
        if getattr(wanted, name)
    ]
    with history.write() as connection:
        count = connection.execute(delete(quarantine).where(*same)).rowcount
    if not count:
        raise UsageError(f"{one_line(wanted.case, 200)} is in no quarantine: gmem history status shows those that are")
    return count


def _shown(history: History, wanted: Wanted) -> list[str]:
    """Signatures that the case shows now on any line asked for; else those of its newest results."""
    present, recent, lines = set(), set(), 0
    for _, results in every_result(history, wanted):
        lines += 1
        decided = [result for result in results if result.verdict in DECIDED]
        if decided and decided[-1].deviates:
            present.add(decided[-1].signature)
        recent |= {result.signature for result in results[-_RECENT:] if result.deviates}
    if not lines:
        raise UsageError(f"the history has no case {one_line(wanted.case, 200)}: gmem history status --all lists them")
    return sorted(present or recent)
