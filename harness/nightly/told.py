# SPDX-License-Identifier: GPL-2.0-only
"""What is known of each cell: its newest verdict, since when, and what a bisection of it found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from harness.errors import InfraError
from harness.nightly.matrix import Cell
from harness.nightly.place import Place, write_json
from harness.run.verdict import Verdict

_Kept = TypeVar("_Kept", bound=msgspec.Struct)


class Told(msgspec.Struct, frozen=True):
    """The end of a cell's newest job; times are UTC, 2026-01-02T03:04:05Z."""

    verdict: Verdict
    since: str
    """End of the first job in a row with this verdict."""
    ended: str
    seconds: float
    tries: int
    commit: str
    """'' for a kernel that is no branch."""
    link: str
    """The build's page, which answers while the master is up."""
    folder: str
    """Of the run; '' for a job that has none."""
    bisection: str = ""
    """Its key; '' when none was asked for."""


class Bisection(msgspec.Struct, frozen=True):
    """What a bisection ended with."""

    good: str
    bad: str
    found: str = ""
    """The commit; '' when none was found."""
    sentence: str = "not ended"


@dataclass(frozen=True)
class Shown:
    """A cell for the table."""

    cell: Cell
    told: Told | None
    bisection: Bisection | None


def remember(place: Place, key: str, told: Told) -> Told:
    """Keep the end of a job; ``since`` stays while the verdict does."""
    known = read_told(place, key)
    if known is not None and known.verdict is told.verdict:
        told = msgspec.structs.replace(told, since=known.since)
        if told.commit == known.commit and not told.bisection:
            told = msgspec.structs.replace(told, bisection=known.bisection)
    write_json(place.cell(key), told)
    return told


def read_told(place: Place, key: str) -> Told | None:
    """None when the cell has not been run yet."""
    return _read(place.cell(key), Told)


def read_bisection(place: Place, key: str) -> Bisection | None:
    return _read(place.bisection(key) / "answer.json", Bisection) if key else None


def shown(place: Place, cells: Iterable[Cell]) -> list[Shown]:
    """All cells with what is known of them."""
    found = []
    for cell in cells:
        told = read_told(place, cell.key)
        found.append(Shown(cell, told, read_bisection(place, told.bisection) if told else None))
    return found


def _read(path: Path, kind: type[_Kept]) -> _Kept | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise InfraError(f"{path} cannot be read: {error}") from error
