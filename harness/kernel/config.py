# SPDX-License-Identifier: GPL-2.0-only
"""Kernel configuration: everything off, plus fragments; and the proof that each line of a fragment took effect.

A fragment is a kernel configuration file.  Lines after a comment ``# optional:``, up to the next empty line, may be
unknown to the kernel at hand; every other line must hold in the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InfraError, UsageError

_SET = re.compile(r"(CONFIG_[A-Za-z0-9_]+)=(.*)")
_UNSET = re.compile(r"# (CONFIG_[A-Za-z0-9_]+) is not set")
_OPTIONAL = re.compile(r"# *optional:")


# Lines that did not take effect and are named one by one; with the wrong fragment it is a hundred.
SHOWN = 4


class SourceError(InfraError):
    """The source does not compile, or does not take the configuration: another source would do."""


@dataclass(frozen=True)
class Wish:
    """What a fragment asks of one symbol."""

    value: str
    optional: bool
    # File and line, for messages.
    where: str


def read_fragments(paths: Sequence[Path]) -> dict[str, Wish]:
    """The wishes of all fragments; where two speak of a symbol the later one wins.  Raises :class:`UsageError`."""
    wishes: dict[str, Wish] = {}
    for path in paths:
        try:
            lines = path.read_text().splitlines()
        except OSError as error:
            raise UsageError(f"the configuration fragment {path} cannot be read: {error.strerror}") from error
        optional = False
        for number, line in enumerate(lines, 1):
            where = f"{path.name}:{number}"
            if _OPTIONAL.fullmatch(line.strip()):
                optional = True
            elif not line.strip():
                optional = False
            elif match := _SET.fullmatch(line.strip()):
                wishes[match[1]] = Wish(match[2], optional, where)
            elif match := _UNSET.fullmatch(line.strip()):
                wishes[match[1]] = Wish("n", optional, where)
            elif not line.startswith("#"):
                raise UsageError(f"{path}, line {number} is not a line of a kernel configuration: {line.strip()}")
    return wishes


def fragment_text(wishes: Mapping[str, Wish]) -> str:
    """The wishes as one fragment, sorted, the optional ones at the end; also read by ``KCONFIG_ALLCONFIG``."""

    def lines(optional: bool) -> list[str]:
        return [f"{symbol}={wish.value}\n" for symbol, wish in sorted(wishes.items()) if wish.optional is optional]

    return "".join([*lines(False), "# optional:\n", *lines(True)])


def parse_config(text: str) -> dict[str, str]:
    """A ``.config`` as symbol -> value; symbols that are not set are absent."""
    return {match[1]: match[2] for line in text.splitlines() if (match := _SET.fullmatch(line))}


def unmet(wishes: Mapping[str, Wish], config: Mapping[str, str]) -> list[str]:
    """Symbols of the wishes that do not hold in ``config``, optional ones aside."""
    return [
        symbol for symbol, wish in sorted(wishes.items()) if config.get(symbol, "n") != wish.value and not wish.optional
    ]


def check_config(wishes: Mapping[str, Wish], config: Mapping[str, str], source: Path, kernel: str) -> None:
    """Raises :class:`SourceError` naming every wish that does not hold, and whether the kernel knows its symbol."""
    failed = unmet(wishes, config)
    if not failed:
        return
    known = _known_symbols(source)
    parts = []
    for symbol in failed:
        wish = wishes[symbol]
        if symbol.removeprefix("CONFIG_") in known:
            reason = f"it became {config.get(symbol, 'n')}: something that it depends on is missing, or selects it"
        else:
            reason = "this kernel has no such option"
        parts.append(f"{symbol}={wish.value} ({wish.where}; {reason})")
    if len(parts) > SHOWN:
        parts[SHOWN:] = [f"and {len(parts) - SHOWN} more"]
    raise SourceError(
        f"the configuration of kernel {kernel} is not the one asked for: {'; '.join(parts)}; "
        f"correct the fragment, or put the line under '# optional:'"
    )


def _known_symbols(source: Path) -> set[str]:
    """All symbols that the Kconfig files of a source tree define."""
    known: set[str] = set()
    for path in source.rglob("Kconfig*"):
        if path.is_file():
            known.update(re.findall(r"^\s*(?:menu)?config\s+([A-Za-z0-9_]+)", path.read_text(errors="replace"), re.M))
    return known
