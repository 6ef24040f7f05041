# SPDX-License-Identifier: GPL-2.0-only
"""Why a guest is not started, or did not come up: whose matter it is, one sentence, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from harness.errors import GmemError, InfraError, NothingRanError, UsageError


class Whose(Enum):
    """Whose matter a refusal is; the values are the words of reports."""

    SKIP = "skip"
    """The host or its QEMU does not have what this guest needs: nothing to judge."""
    USAGE = "usage"
    """What was asked for cannot be, on any host."""
    INFRA = "infra"
    """Something failed that ought to have worked."""


_ERRORS: dict[Whose, type[GmemError]] = {
    Whose.SKIP: NothingRanError,
    Whose.USAGE: UsageError,
    Whose.INFRA: InfraError,
}


@dataclass(frozen=True)
class Refusal:
    """One refusal."""

    whose: Whose
    sentence: str
    """What is so, without a full stop."""
    fix: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.sentence}: {self.fix}" if self.fix else self.sentence

    @property
    def error(self) -> GmemError:
        """The exception of that class, to be raised where a guest is a must."""
        return _ERRORS[self.whose](str(self))


def skip(sentence: str, fix: str) -> Refusal:
    """The host or its QEMU lacks something."""
    return Refusal(Whose.SKIP, sentence, fix)


def usage(sentence: str, fix: str) -> Refusal:
    """The request is at fault."""
    return Refusal(Whose.USAGE, sentence, fix)


def infra(sentence: str, fix: str) -> Refusal:
    """The host or the harness failed."""
    return Refusal(Whose.INFRA, sentence, fix)
