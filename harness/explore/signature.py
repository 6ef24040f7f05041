# SPDX-License-Identifier: GPL-2.0-only
"""What a case showed, in a form in which two cases can be said to show the same.  Pure.

>>> Signature("crash", "WARNING: at mm/truncate.c:N truncate_folio").name
'crash-warning-at-mm-truncate.c-n-truncate_folio'
"""

from __future__ import annotations

import re

import msgspec

from harness.run.outcome import telling_first
from harness.run.result import CaseResult, Finding
from harness.run.verdict import Verdict

_FOUND = (Verdict.DEVIATES, Verdict.CRASH)
"""Verdicts that say something about the kernel; every other is the testbed's or the harness's."""
_NUMBER = re.compile(r"[+-]?(?:0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+)")
_GUEST = re.compile(r"\bg\d+\b")
_PRINTED = re.compile(r"printed: (?P<title>.*?)(?: \(line \d+ of \S+\))?(?:;| \(measured \d|$)")
_UNSAFE = re.compile(r"[^a-z0-9._]+")
_NAME_MOST = 60


class Signature(msgspec.Struct, frozen=True, order=True):
    """What a case showed; equal for cases that show the same thing."""

    kind: str
    """``deviates`` or ``crash``."""
    what: str
    """The counter and the side of its bound; the beginning of a message; or the title of a crash without numbers."""
    rule: str = ""
    """The rule of the model that the counter broke."""

    @property
    def name(self) -> str:
        """As part of a file's name."""
        words = _UNSAFE.sub("-", f"{self.kind}-{self.what}-{self.rule}".lower()).strip("-.")
        return words[:_NAME_MOST].rstrip("-.")

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}" + (f", rule {self.rule}" if self.rule else "")


def signature(result: CaseResult) -> Signature | None:
    """What the case showed of the kernel; None where it passed, or where its testbed or its window is to blame."""
    if result.verdict not in _FOUND:
        return None
    if result.verdict is Verdict.CRASH:
        printed = _PRINTED.search(result.sentence)
        return Signature("crash", _without_numbers(printed["title"] if printed else result.sentence))
    if not result.steps:
        return Signature("deviates", _without_numbers(result.sentence))
    last = result.steps[-1]
    if last.messages:
        return Signature("deviates", _without_numbers(last.messages[0].partition(":")[0]))
    off = next((finding for finding in telling_first(last) if finding.verdict is Verdict.DEVIATES), None)
    if off is None:  # it deviates when it is given back: a leak of the host
        return Signature("deviates", _without_numbers(result.sentence))
    return Signature("deviates", f"{_GUEST.sub('gN', off.counter)} {_side(off)}", rule_of(off.reasons[0]))


def rule_of(reason: str) -> str:
    """The rule of a reason's text: what stands before its colon, without the design or the word in parentheses.

    >>> rule_of("untouched (order0): nothing in this step (do nothing) moves it")
    'untouched'
    """
    return reason.partition(":")[0].partition(" (")[0]


def _side(finding: Finding) -> str:
    """Which way the counter went off."""
    if finding.observed is None:
        return "unobserved"
    return "too high" if finding.observed > finding.high else "too low"


def _without_numbers(text: str) -> str:
    """Addresses, lines and counts differ from run to run, and between a scenario and a smaller one."""
    return _NUMBER.sub("N", _GUEST.sub("gN", text))[:200].strip()
