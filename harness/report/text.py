# SPDX-License-Identifier: GPL-2.0-only
"""Text of guests and of kernels under test, made harmless: it is data, whatever it says.

Everything a report shows passes through here once.  Afterwards it has no escape sequence, no control character, no
character that XML 1.0 forbids, none that turns the direction of writing, and a length somebody chose.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

LINE_LIMIT: Final = 2000
"""Characters of one line in a report; the longest sentence a rule of the model makes is about 300."""

TAIL_LINES: Final = 200
TAIL_BYTES: Final = 128 * 1024
"""How much of a console is shown: an oops with all its CPUs is about 150 lines of at most 120 characters."""

# Strings (OSC, DCS, ...) are dropped only if they end on the same line and are short: an unfinished one would hide the
# rest of a console, and hiding is what a hostile kernel would want.
_ESCAPE: Final = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"
    "|(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\r\n]{0,256}(?:\x07|\x1b\\\\|\x9c)"
    "|\x1b[ -/]{0,8}[0-OQ-WYZ\\\\`-~]"
)
_BREAK: Final = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_CONTROL: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_UNPRINTABLE: Final = re.compile("[\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """``text`` without escape sequences and control characters; ends of lines become ``\\n``, tabs stay.

    Lone surrogates (bytes that were no UTF-8), noncharacters and marks of writing direction become U+FFFD.
    """
    text = _BREAK.sub("\n", _ESCAPE.sub("", text))
    return _UNPRINTABLE.sub("\ufffd", _CONTROL.sub("", text))


def bounded(text: str, limit: int = LINE_LIMIT) -> str:
    """``text`` if it has at most ``limit`` characters, else its beginning and how many characters were left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({len(text) - limit} more characters)"


def one_line(text: str, limit: int = LINE_LIMIT, *, collapse: bool = True) -> str:
    """Cleaned, on one line, bounded; with ``collapse`` every run of blanks becomes one.

    >>> one_line("BUG:\\x1b[31m  bad\\npage")
    'BUG: bad page'
    """
    # cut before cleaning too, so that a flood costs no more than its beginning
    line = clean(text[: 4 * limit])
    line = " ".join(line.split()) if collapse else line.replace("\n", " ")
    left_out = max(0, len(line) - limit) + max(0, len(text) - 4 * limit)
    return f"{line[:limit]} … ({left_out} more characters)" if left_out else line


def tail(path: Path, lines: int = TAIL_LINES, size: int = TAIL_BYTES) -> list[str]:
    """The last ``lines`` lines of the last ``size`` bytes of a file, cleaned and bounded; raises ``OSError``."""
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - size))
        text = clean(stream.read(size).decode("utf-8", errors="replace"))
    return [bounded(line.expandtabs()) for line in text.rstrip("\n").split("\n")][-lines:]


def storable(value: object) -> object:
    """``value`` (as of ``msgspec.to_builtins``) with lone surrogates written out, because JSON in UTF-8 has none."""
    if isinstance(value, str):
        return value.encode("utf-8", errors="backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value
