# SPDX-License-Identifier: GPL-2.0-only
"""Which names an expression of ``-k`` selects, in the language that pytest's has: parts of names, and, or, not, ( )."""

from __future__ import annotations

import re
from collections.abc import Callable

from harness.errors import UsageError

Match = Callable[[str], bool]

_TOKEN = re.compile(r"\s*([()]|[^\s()]+)")


def chooser(expression: str) -> Match:
    """A function that says whether a name is selected; an empty expression selects all.

    A word selects the names that it is a part of, in whatever case.  Raises ``UsageError`` for what is no expression.

    >>> [name for name in ("guest_memfd_test", "x86/exits") if chooser("guest or (x86 and not exits)")(name)]
    ['guest_memfd_test']
    """
    words = _TOKEN.findall(expression)
    if not words:
        return lambda name: True
    parser = _Parser(expression, words)
    whole = parser.either()
    if parser.words:
        raise parser.error()
    return whole


class _Parser:
    """Takes words from the front."""

    def __init__(self, expression: str, words: list[str]) -> None:
        self.expression = expression
        self.words = words

    def error(self) -> UsageError:
        at = f"at {self.words[0]!r}" if self.words else "at its end"
        return UsageError(f"-k {self.expression!r} is wrong {at}: it takes parts of names with and, or, not and ( )")

    def take(self, word: str) -> bool:
        if self.words and self.words[0] == word:
            self.words.pop(0)
            return True
        return False

    def either(self) -> Match:
        sides = [self.both()]
        while self.take("or"):
            sides.append(self.both())
        return lambda name: any(side(name) for side in sides)

    def both(self) -> Match:
        sides = [self.single()]
        while self.take("and"):
            sides.append(self.single())
        return lambda name: all(side(name) for side in sides)

    def single(self) -> Match:
        if self.take("not"):
            inner = self.single()
            return lambda name: not inner(name)
        if self.take("("):
            inside = self.either()
            if not self.take(")"):
                raise self.error()
            return inside
        if not self.words or self.words[0] in ("and", "or", ")"):
            raise self.error()
        part = self.words.pop(0).lower()
        return lambda name: part in name.lower()
