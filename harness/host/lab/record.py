# SPDX-License-Identifier: GPL-2.0-only
"""What a holder is told to bring up, and the record of what came of it."""

from __future__ import annotations

import enum
from pathlib import Path

import msgspec

from harness.errors import CrashError, GmemError, InfraError, NoBootError, UsageError
from harness.host.emulated.state import TestbedSpec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A testbed to be brought up and held."""

    root: str
    """The cache; the testbed's folder is below it."""
    name: str
    image: str
    """Path of the bzImage of the kernel under test."""
    initrd: str
    spec: TestbedSpec
    saved: str = ""
    """Folder of the saved state to restore; '' boots."""
    kernel: str
    """The kernel under test, in words."""
    origin: str
    """How the testbed came up, in words: ``restored from ...``."""
    guest_kind: str
    """What every report calls such guests."""


class Life(enum.Enum):
    """Where a testbed is in its life."""

    UNKNOWN = "unknown"
    STARTING = "starting"
    UP = "up"
    ENDED = "ended"


class LabRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``record.json`` in the testbed's folder; written by the holder."""

    plan: Plan
    holder: int
    """Process id of the holder; the holder's lock says whether it still runs."""
    began: float
    """Seconds since the epoch."""
    life: Life
    reason: str = ""
    """Why it ended."""
    qemu: int = 0
    """Process id of the outer QEMU; 0 before it runs."""
    run: str = ""
    """Private directory of the testbed's sockets; gone when the testbed is."""

    def save(self, path: Path) -> None:
        """Replace the record in one step: readers see the old one or the new one."""
        fresh = path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1))
        fresh.chmod(0o600)
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> LabRecord:
        """Read back; raises ``FileNotFoundError``, or ``InfraError`` when the file is no record."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.DecodeError as error:
            raise InfraError(f"{path} is not the record of a testbed ({error}); remove {path.parent}") from error


_CLASSES: tuple[type[GmemError], ...] = (InfraError, UsageError, NoBootError, CrashError)


def error_of(code: int, sentence: str) -> GmemError:
    """The error that another process reported by its exit code and its sentence."""
    kind = next((kind for kind in _CLASSES if kind.exit_code == code), InfraError)
    return kind(sentence)
