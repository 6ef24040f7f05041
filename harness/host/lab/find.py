# SPDX-License-Identifier: GPL-2.0-only
"""Which testbeds are up, which were."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InfraError, UsageError
from harness.host.lab.place import DEFAULT_NAME, Place, places
from harness.host.lab.record import LabRecord, Life


class NoTestbed(UsageError):
    """There is no testbed to do that with."""


class DeadTestbed(InfraError):
    """The testbed was up, and ended without being asked to."""


@dataclass(frozen=True)
class Found:
    """A testbed of which there is a record."""

    place: Place
    record: LabRecord

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def alive(self) -> bool:
        """Whether its holder lives and has not given the testbed up."""
        return self.record.life is not Life.ENDED and self.place.held()

    @property
    def age(self) -> str:
        """How long ago it was brought up, in words."""
        seconds = max(0, int(time.time() - self.record.began))
        for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
            if seconds >= 2 * size:
                return f"{seconds // size} {unit}"
        return f"{seconds} s"

    def death(self) -> str:
        """The sentence about a testbed that is not alive."""
        reason = self.record.reason or f"its holder, process {self.record.holder}, was killed"
        words = option(self.name)
        return (
            f"testbed {self.name} is not up any more: {reason.rstrip('.')}; its evidence is in {self.place.evidence}; "
            f"gmem lab up{words} brings a new one up, gmem lab down{words} removes what is left"
        )


def look(place: Place) -> Found | None:
    """The testbed of that place, None when there is no record of one."""
    try:
        return Found(place, LabRecord.load(place.record))
    except FileNotFoundError:
        return None


def everything(root: Path) -> list[Found]:
    """Every testbed of which there is a record."""
    return [found for place in places(root) if (found := look(place)) is not None]


def find(root: Path, name: str | None) -> Found:
    """The testbed called ``name``, or the only one there is; it may be dead.

    Raises :class:`NoTestbed`, or ``UsageError`` when there are several to choose from.
    """
    if name is not None:
        found = look(Place(root, name))
        if found is None:
            raise NoTestbed(f"no testbed called {name} is up; gmem lab up{option(name)} brings it up")
        return found
    known = everything(root)
    choice = [found for found in known if found.alive] or known
    if not choice:
        raise NoTestbed("no testbed is up; gmem lab up brings one up")
    if len(choice) > 1:
        raise UsageError(
            f"there are several testbeds ({', '.join(found.name for found in choice)}): choose one with --name"
        )
    return choice[0]


def find_alive(root: Path, name: str | None) -> Found:
    """Like :func:`find`; raises :class:`DeadTestbed` for one that is not up any more."""
    found = find(root, name)
    if not found.alive:
        raise DeadTestbed(found.death())
    return found


def option(name: str) -> str:
    return "" if name == DEFAULT_NAME else f" --name {name}"
