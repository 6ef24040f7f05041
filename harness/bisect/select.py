# SPDX-License-Identifier: GPL-2.0-only
"""Which cases are run: all that the user selected, or one of them alone."""

from __future__ import annotations

import re

from harness.bisect.question import CaseName
from harness.bisect.runner import Wanted
from harness.bisect.state import Asked

_NAME = re.compile(r"[\w+.\[\]/\\-]+")
"""What an expression of pytest's ``-k`` takes as one name; others cannot be selected alone."""

SCENARIO = "scenario"
"""Suite of the cases that are YAML files; these are selected by their path."""


def wanted(asked: Asked, repeat: int) -> Wanted:
    """Everything that was selected."""
    return Wanted(asked.suites, asked.expression, repeat, _options(asked))


def narrow(asked: Asked, case: CaseName | None, repeat: int) -> Wanted:
    """One case as often as ``repeat`` says; everything, if all cases together are asked or it cannot be named.

    Without the bracket behind its parameters: with ``--repeat`` another one stands before it.  Cases whose names only
    begin in the same way are run too, and not looked at.
    """
    if case is None or case.suite == SCENARIO or not _NAME.fullmatch(case.case):
        return wanted(asked, repeat)
    return Wanted(asked.suites, case.case.removesuffix("]"), repeat, _options(asked))


def _options(asked: Asked) -> tuple[str, ...]:
    options = ["--design", asked.design, "--guest", asked.guest, f"--deadline={asked.deadline:g}"]
    return (*options, f"--cmdline={asked.command_line}") if asked.command_line else tuple(options)
