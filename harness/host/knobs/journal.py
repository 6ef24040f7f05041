# SPDX-License-Identifier: GPL-2.0-only
"""The journal of a borrowed host: what was there first, and each change before it is made.

Append-only lines ``CRC32 JSON``.  A line that its checksum does not fit is left out: the last one may be torn.  An open
journal is a file that exists; what was given back removes it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from harness.errors import InfraError

KEPT = "journal.last"
"""Where the controller keeps the journal of what was given back."""


class _Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    pass


class Begin(_Record, frozen=True, kw_only=True, tag="begin"):
    """``run`` is the token of the host's lock; ``boot`` the host's boot id; ``at`` seconds since 1970 on the host."""

    run: str
    boot: str
    user: str
    machine: str
    pid: int
    at: int
    purpose: str


class First(_Record, frozen=True, kw_only=True, tag="first"):
    """Every knob that will be set, and those that may follow, as they were printed before anything was changed."""

    values: dict[str, str]


class Intent(_Record, frozen=True, kw_only=True, tag="intent"):
    """``path`` is about to be written with ``value``."""

    path: str
    value: str


class Outcome(_Record, frozen=True, kw_only=True, tag="outcome"):
    """``path`` was written, and prints ``value`` since."""

    path: str
    value: str


class Made(_Record, frozen=True, kw_only=True, tag="made"):
    """A file or a folder of ours, about to be made on the host."""

    path: str


Record = Begin | First | Intent | Outcome | Made
_decoder = msgspec.json.Decoder(Record)


def line(record: Record) -> bytes:
    """One line of a journal."""
    text = msgspec.json.encode(record)
    return f"{zlib.crc32(text):08x} ".encode() + text + b"\n"


def parse(data: bytes) -> tuple[list[Record], list[int]]:
    """The records, and the numbers (from 1) of lines that are damaged."""
    records: list[Record] = []
    damaged = []
    for number, text in enumerate(data.split(b"\n"), start=1):
        if not text:
            continue
        try:
            if int(text[:8], 16) != zlib.crc32(text[9:]):
                raise ValueError
            records.append(_decoder.decode(text[9:]))
        except (ValueError, msgspec.DecodeError):
            damaged.append(number)
    return records, damaged


@dataclass
class Change:
    """What a run did to a knob; ``printed`` is None where it did not live to read it back."""

    value: str
    printed: str | None = None


@dataclass
class Story:
    """What a journal tells of one run."""

    begin: Begin
    first: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Change] = field(default_factory=dict)
    """In the order in which they were made."""
    made: list[str] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)


def tell(data: bytes) -> Story | None:
    """The story of one journal; None for one that was killed before it began, when nothing was changed."""
    records, damaged = parse(data)
    begins = [record for record in records if isinstance(record, Begin)]
    if not begins:
        return None
    story = Story(begins[0], damaged=damaged)
    for record in records:
        match record:
            case First(values=values):
                story.first.update(values)
            case Intent(path=path, value=value):
                story.changes[path] = Change(value)
            case Outcome(path=path, value=value) if path in story.changes:
                story.changes[path].printed = value
            case Made(path=path):
                story.made.append(path)
            case _:
                pass
    return story


def union(journals: Iterable[bytes]) -> list[Story]:
    """One story per run; the journals of the same run on both machines complete each other."""
    lines: dict[str, dict[bytes, None]] = {}
    for data in journals:
        story = tell(data)
        if story is not None:
            known = lines.setdefault(story.begin.run, {})
            own = dict.fromkeys(part for part in data.split(b"\n") if part)
            # The longer one first: its order is that of the changes.
            merged = {**own, **known} if len(own) > len(known) else {**known, **own}
            lines[story.begin.run] = merged
    stories = (tell(b"\n".join(parts) + b"\n") for parts in lines.values())
    return [story for story in stories if story is not None]


class ControllerJournal:
    """The copy on the controller: ``folder/journal``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal"

    def append(self, records: Iterable[Record]) -> None:
        """On the disk when it returns; raises ``InfraError``."""
        data = b"".join(map(line, records))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = not self.path.exists()
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.write(fd, data) != len(data):
                    raise OSError(None, "the disk is full")
                os.fsync(fd)
            finally:
                os.close(fd)
            if new:
                _sync(self.path.parent)
        except OSError as error:
            raise InfraError(f"the journal {self.path} cannot be written: {error.strerror}; nothing was set") from error

    def read(self) -> bytes:
        """Its bytes; none where there is no journal."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise InfraError(f"the journal {self.path} cannot be read: {error.strerror}") from error

    def close(self) -> None:
        """All is given back: the journal is kept under another name, for who wants to know."""
        if self.path.exists():
            self.path.replace(self.path.with_name(KEPT))
            _sync(self.path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
