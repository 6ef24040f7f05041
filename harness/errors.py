# SPDX-License-Identifier: GPL-2.0-only
"""Errors that end a command: each carries one sentence for the user and the exit code of its class.

The codes are those of ``docs/design.md``, "Verdicts and exit codes".
``str(error)`` is the sentence: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class GmemError(Exception):
    """Base of every error that a user may see; shown as one sentence, never as a traceback."""

    exit_code: ClassVar[int] = 3


class UsageError(GmemError):
    """The command line, a configuration file or a scenario asks for something that cannot be."""

    exit_code: ClassVar[int] = 4


class InfraError(GmemError):
    """The testbed or the harness failed; says nothing about the kernel under test."""

    exit_code: ClassVar[int] = 3


class NoBootError(GmemError):
    """The kernel under test did not come up, or came up without what the harness needs of it."""

    exit_code: ClassVar[int] = 7


class CrashError(GmemError):
    """The host kernel or a guest printed an oops, WARN, BUG, lockup or panic."""

    exit_code: ClassVar[int] = 8


class LeakError(GmemError):
    """The host under test did not get back what a case took, or its kernel says that something is amiss."""

    exit_code: ClassVar[int] = 1


class StuckError(GmemError):
    """The kernel under test does something for a guest for ever, by its own counters."""

    exit_code: ClassVar[int] = 1


class NothingRanError(GmemError):
    """The kernel under test lacks what this case, and not every case, needs: there is nothing to judge."""

    exit_code: ClassVar[int] = 5
