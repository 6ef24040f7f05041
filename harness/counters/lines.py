# SPDX-License-Identifier: GPL-2.0-only
"""Numbers and lines of kernel text files, read strictly: a line that is not understood is an error, never a 0."""

from __future__ import annotations

import re
from typing import Final

from harness.errors import InfraError

_DIGITS: Final = re.compile(r"-?[0-9]{1,20}")
_SHOWN: Final = 80  # characters of a bad line that an error quotes


class CounterFormatError(InfraError):
    """A counter file does not look as the kernel prints it."""

    def __init__(self, file: str, line: int, text: str, problem: str) -> None:
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
        super().__init__(f"{file}, line {line}: {problem}: {shown!r}; the sample is unusable, take it again")
        self.file = file
        self.line = line


def number(text: str, file: str, line: int, whole: str | None = None) -> int:
    """A decimal integer as the kernel prints a 64-bit counter.

    Values from 2**63 up are what ``%lu`` makes of a negative counter; they come back negative, so that differences
    stay right. Raises CounterFormatError, quoting ``whole`` (default: ``text``).
    """
    quoted = text if whole is None else whole
    if not _DIGITS.fullmatch(text):
        raise CounterFormatError(file, line, quoted, "expected a number")
    value = int(text)
    if not -(1 << 63) <= value < 1 << 64:
        raise CounterFormatError(file, line, quoted, "a number that does not fit in 64 bits")
    return value - (1 << 64) if value >= 1 << 63 else value


def single_number(text: str, file: str) -> int:
    """The contents of a file that holds one number (mTHP statistics, hugetlb pools, KVM statistics)."""
    lines = numbered_lines(text, file)
    if len(lines) != 1:
        raise CounterFormatError(file, 2, lines[1][1], "expected a single line")
    return number(lines[0][1], file, 1)


def numbered_lines(text: str, file: str) -> list[tuple[int, str]]:
    """The lines with their numbers from 1. Raises when the file is empty or its last line is cut off."""
    if not text.endswith("\n"):
        problem = "the file ends within this line" if text else "the file is empty"
        raise CounterFormatError(file, text.count("\n") + 1, text.rsplit("\n", 1)[-1], problem)
    return list(enumerate(text[:-1].split("\n"), start=1))
