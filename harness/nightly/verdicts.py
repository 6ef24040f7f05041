# SPDX-License-Identifier: GPL-2.0-only
"""What the exit code of a job means to Buildbot.  Pure; the numbers are those of ``buildbot.process.results``."""

from __future__ import annotations

import enum
from typing import Final

from harness.run.verdict import Verdict


class Result(enum.IntEnum):
    """Buildbot's results of a build."""

    SUCCESS = 0
    WARNINGS = 1
    FAILURE = 2
    SKIPPED = 3
    EXCEPTION = 4
    RETRY = 5


_RESULTS: Final = {
    Verdict.PASS: Result.SUCCESS,
    Verdict.DEVIATES: Result.FAILURE,
    Verdict.CRASH: Result.FAILURE,
    Verdict.NO_BOOT: Result.FAILURE,
    Verdict.INCONCLUSIVE: Result.WARNINGS,
    Verdict.NOTHING_RAN: Result.SKIPPED,
    Verdict.USAGE: Result.EXCEPTION,
    Verdict.INFRA: Result.RETRY,
    Verdict.INTERRUPTED: Result.RETRY,
}
_WORDS: Final = {verdict.exit_code: verdict for verdict in _RESULTS}


def verdict_of(code: int) -> Verdict:
    """The verdict behind an exit code of ``gmem run``; a signal or a code that it does not have is ``infra``."""
    return _WORDS.get(code, Verdict.INFRA)


def result_of(verdict: Verdict, tries: int, retries: int) -> Result:
    """Buildbot's result: what says nothing about the kernel is tried again, ``retries`` times at most.

    ``tries``: how often the job was begun, this time included.  An interrupted run was told to end by somebody or
    something other than Buildbot, which takes the results of builds that it ends itself from elsewhere.
    """
    result = _RESULTS[verdict]
    if result is Result.RETRY and tries > retries:
        return Result.EXCEPTION
    return result


def bisect_result(code: int, tries: int, retries: int) -> Result:
    """The same for ``gmem bisect``, whose codes are: 0 found, 6 suspects only, 7 the good end does not boot."""
    return result_of(verdict_of(code), tries, retries)
