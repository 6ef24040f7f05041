# SPDX-License-Identifier: GPL-2.0-only
"""A run as Markdown, for the summary of a job or a comment on a merge request (GitHub, GitLab).

Every text is data: what Markdown, HTML, mentions (``@name``), references (``#12``) and automatic links would make of it
is taken away, and amounts are bounded, because GitHub cuts a summary at 1 MiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from harness.report.junit import details
from harness.report.summary import GOOD, case_name, guest_kind_text, kernel_text, run_problem, summarize
from harness.report.text import bounded, one_line
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict

_SHOWN: Final = 50
"""Cases that did not pass and are told in full."""
_PASSING: Final = 300
_DETAIL: Final = 6000
"""Characters of one case's reasons."""
_CELL: Final = 300

_MARKS: Final = {
    Verdict.PASS: "✅",
    Verdict.XFAIL: "✅",
    Verdict.DEVIATES: "❌",
    Verdict.CRASH: "💥",
    Verdict.NO_BOOT: "💥",
    Verdict.SKIP: "➖",
    Verdict.NOTHING_RAN: "➖",
}
_UNDECIDED: Final = "⚠️"
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|~&$!])")
_LIVELY: Final = re.compile(
    r"@|#|(?<=[a-z]):(?=//)|(?<=www)\.|(?<=mailto):|(?<=xmpp):|:(?=[a-z_+-]|100:|1234:)|[!$%&~](?=\w)", re.I
)
"""What is taken for a link, a mention, a reference (GitLab's too) or a picture when something stands behind it."""
_FENCE: Final = "`" * 4


def plain(text: str, limit: int = _CELL) -> str:
    """``text`` on one line, so that a renderer shows these characters and does nothing else with them."""
    line = _SPECIAL.sub(r"\\\1", one_line(text, limit))
    return _LIVELY.sub(lambda match: f"{match[0]}\u2060", line)


def markdown(info: RunInfo, cases: Sequence[CaseResult]) -> str:
    """The summary: the verdict, what ran on what, each case that did not pass with its reasons, then all others."""
    problem = run_problem(info, cases)
    everything = [*cases, *([problem] if problem else [])]
    bad = [case for case in everything if case.verdict not in GOOD]
    good = [case for case in everything if case.verdict in GOOD]
    lines = [f"## {mark(info.verdict)} {info.verdict.value}: {plain(info.sentence)}", "", *_facts(info), ""]
    if bad:
        lines += [*_table(bad[:_SHOWN]), ""]
        for case in bad[:_SHOWN]:
            lines += [*_told(case), ""]
        lines += _more(len(bad) - _SHOWN)
    if good:
        lines += ["<details>", f"<summary>{len(good)} that pass or were skipped</summary>", ""]
        lines += [*_table(good[:_PASSING]), "", *_more(len(good) - _PASSING), "</details>", ""]
    if not everything:
        lines += ["No case was run.", ""]
    return "\n".join(lines)


def mark(verdict: Verdict) -> str:
    """A sign for the verdict; the word always stands beside it."""
    return _MARKS.get(verdict, _UNDECIDED)


def _facts(info: RunInfo) -> Iterator[str]:
    counts = ", ".join(f"{count} {plain(word, 40)}" for word, count in sorted(info.counts.items()) if count)
    yield f"{counts or 'no case'} · exit code {info.exit_code}"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| kernel | {plain(kernel_text(info))} |"
    if info.kernel.get("commit"):
        yield f"| commit | {plain(info.kernel['commit'], 60)} {plain(info.kernel.get('branch', ''), 100)} |"
    yield f"| design | {plain(info.design)} |"
    yield f"| guest | **{plain(guest_kind_text(info.guest_kind))}** |"
    yield f"| host | {plain(', '.join(f'{key}={value}' for key, value in sorted(info.host.items())))} |"
    yield f"| started | {plain(info.started, 60)} |"


def _table(cases: Sequence[CaseResult]) -> Iterator[str]:
    yield "| verdict | case | seconds | predicted / observed |"
    yield "|---|---|--:|---|"
    for case in cases:
        counters = str(summarize(case)) or case.sentence
        yield (
            f"| {mark(case.verdict)} {case.verdict.value} | {plain(case_name(case), 200)} | {case.seconds:.1f} "
            f"| {plain(counters)} |"
        )


def _told(case: CaseResult) -> Iterator[str]:
    yield f"**{plain(case_name(case), 200)}**: {plain(case.sentence, 600)}"
    yield ""
    yield f"{_FENCE}text"
    yield bounded("\n".join(details(case)), _DETAIL).replace(_FENCE, "'" * 4)
    yield _FENCE


def _more(count: int) -> list[str]:
    return [f"{count} more are in results.jsonl.", ""] if count > 0 else []
