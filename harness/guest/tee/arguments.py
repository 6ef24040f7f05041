# SPDX-License-Identifier: GPL-2.0-only
"""Takes a command line of QEMU apart: options, values, and the names within values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import UsageError

BARE = frozenset(
    {
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-no-shutdown",
        "-S",
        "-s",
        "-daemonize",
        "-nographic",
        "-snapshot",
    }
)
"""Options without a value; all others of a line have one."""


@dataclass(frozen=True)
class Argument:
    """One option of a line."""

    option: str
    """As it stands there, e.g. ``-object``."""
    value: str

    def __str__(self) -> str:
        return f"{self.option} {self.value}".rstrip()


@dataclass(frozen=True)
class Keyed:
    """A value of the form ``head,key=value,...``, or the same as JSON."""

    head: str
    """What is made: the type of an object, the driver of a device, a machine, a CPU."""
    pairs: tuple[tuple[str, str], ...]
    """What is set.  A JSON value that is no word stands as JSON."""


def split_line(words: Sequence[str]) -> list[Argument]:
    """The options after the program's name; raises ``UsageError`` for a word where an option must be."""
    found = []
    at = 1
    while at < len(words):
        option = "-" + words[at].removeprefix("-").removeprefix("-")
        if not words[at].startswith("-"):
            raise UsageError(f"QEMU's command line has the word {words[at]!r} where an option must be")
        if option in BARE:
            found.append(Argument(option, ""))
            at += 1
            continue
        if at + 1 == len(words):
            raise UsageError(f"QEMU's command line ends with {option}, which needs a value")
        found.append(Argument(option, words[at + 1]))
        at += 2
    return found


def keyed(argument: Argument, implied: str = "") -> Keyed:
    """Take a value apart; ``implied`` is the key that the first word may leave out, e.g. ``driver``.

    Raises ``UsageError`` for JSON that is none.
    """
    if argument.value.startswith("{"):
        return _from_json(argument, implied)
    pieces = [piece.replace(",,", ",") for piece in re.split(r"(?<!,),(?!,)", argument.value)]
    head, pairs = "", []
    for number, piece in enumerate(pieces):
        key, equals, value = piece.partition("=")
        if key == implied and equals:
            head = value
        elif number == 0 and not equals and implied:
            head = piece
        else:
            # a word alone is a switch: QEMU takes it for on
            pairs.append((key, value if equals else "on"))
    return Keyed(head, tuple(pairs))


def machine_of(line: Iterable[Argument]) -> str:
    """The machine that a line asks for; '' where it names none."""
    named = [keyed(argument, "type").head for argument in line if argument.option in ("-machine", "-M")]
    return next((name for name in reversed(named) if name), "")


def _from_json(argument: Argument, implied: str) -> Keyed:
    try:
        value = json.loads(argument.value)
    except ValueError as error:
        raise UsageError(f"{argument.option} has a value that begins like JSON and is none: {error}") from None
    words = {str(key): _word(item) for key, item in value.items()}
    return Keyed(words.pop(implied, ""), tuple(words.items()))


def _word(item: object) -> str:
    if isinstance(item, bool):
        return "on" if item else "off"
    return item if isinstance(item, str) else json.dumps(item)
