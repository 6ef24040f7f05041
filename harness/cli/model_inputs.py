# SPDX-License-Identifier: GPL-2.0-only
"""What ``gmem model`` reads: sizes of memory, samples of a host, scenario files.  Everything wrong is a UsageError."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import msgspec
import yaml

from harness.counters import buddyinfo, meminfo, pagetypeinfo, vmstat, zoneinfo
from harness.counters.lines import CounterFormatError
from harness.counters.sample import values_of
from harness.errors import UsageError
from harness.model.curves.streams import MOST_PAGES, WINDOW_PAGES, StreamSpec
from harness.model.curves.whatif import USUAL, WhatIf
from harness.report.text import one_line
from harness.scenario.scenario import Scenario

_SIZE: Final = re.compile(r"([0-9]{1,12})([KMGTP]?)(?:i?B)?", re.I)
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_PAGE_BITS: Final = 12
_SAMPLE_BYTES: Final = 64 << 20
"""A sample of a host with thousands of CPUs has a few MiB; more is no sample."""

_FILES: Final = (vmstat.FILE, zoneinfo.FILE, pagetypeinfo.FILE, buddyinfo.FILE, meminfo.FILE)


def parse_memory(text: str) -> int:
    """Guest pages in ``64G``, ``2T``, ``512MiB``; raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"--memory {text!r} is not a size: write e.g. 64G or 2T")
    pages = int(match[1]) << _UNITS[match[2].upper()] >> _PAGE_BITS
    if not WINDOW_PAGES <= pages <= MOST_PAGES:
        raise UsageError(f"--memory {text}: between 2M and 256T can be modelled")
    if pages % WINDOW_PAGES:
        raise UsageError(f"--memory {text}: guest memory is a multiple of 2 MiB")
    return pages


@dataclass(frozen=True)
class HostSample:
    """The counters of a real host; what it does not say is absent."""

    source: str
    values: Mapping[str, int]
    pcp_pages: int | None = None
    """Most pages of one CPU's free lists (high_max of the largest zone)."""
    notes: tuple[str, ...] = ()
    """Which texts are missing or not understood."""


def read_sample(path: Path) -> HostSample:
    """A sample as ``gmem run`` keeps it, a folder of kernel texts, or their concatenation; raises UsageError."""
    source = one_line(path.name, 80)
    if path.is_dir():
        return _from_texts({name: _read(found) for name in _FILES if (found := _named(path, name))}, source)
    text = _read(path)
    if text.lstrip().startswith("{"):
        return _from_json(text, source)
    return _from_texts(_sections(text, source), source)


def _named(folder: Path, name: str) -> Path | None:
    return next((found for ending in ("", ".txt") if (found := folder / (name + ending)).is_file()), None)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _SAMPLE_BYTES:
            raise UsageError(f"{path} has more than {_SAMPLE_BYTES >> 20} MiB: it is no sample of counters")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text: a sample is JSON or what the kernel prints in /proc") from None


class _KeptSample(msgspec.Struct):
    """What the runner writes (``samples/start.json``); further keys are of no interest."""

    values: dict[str, int]
    raw: dict[str, str] = {}


def _from_json(text: str, source: str) -> HostSample:
    try:
        kept = msgspec.json.decode(text.encode(), type=_KeptSample)
    except msgspec.ValidationError as error:
        raise UsageError(f"{source} is JSON but no sample that gmem run kept: {one_line(str(error))}") from None
    except msgspec.DecodeError:
        raise UsageError(f"{source} is torn: its JSON ends early or is damaged; copy it again") from None
    if not kept.values:
        raise UsageError(f"{source} has no counters: it is no sample that gmem run kept")
    return HostSample(source, kept.values, _pcp_pages(kept.raw.get(zoneinfo.FILE)))


def _from_texts(texts: Mapping[str, str], source: str) -> HostSample:
    """Each text by itself: one that is not understood leaves its counters unknown, one that is cut off ends it."""
    if not texts:
        raise UsageError(f"{source} has no text of /proc/vmstat, zoneinfo, pagetypeinfo or buddyinfo")
    values: dict[str, int] = {}
    notes = []
    for name in _FILES:
        if name not in texts:
            if name == meminfo.FILE:
                continue  # only 6.12 needs it, and no curve
            notes.append(f"/proc/{name} is missing in {source}: its counters are unknown")
            continue
        if not texts[name].endswith("\n"):
            raise UsageError(f"{source} is torn: its {name} ends within a line; copy it again")
        try:
            values.update(values_of({name: texts[name]}, {}))
        except CounterFormatError as error:
            said = one_line(str(error)).partition("; the sample")[0]
            notes.append(f"the counters of {name} are unknown, it has a line that no kernel prints ({said})")
    if values.get("F") == 0 or (not values and not notes):
        notes.append(f"{source} shows a host without free memory")
    return HostSample(source, values, _pcp_pages(texts.get(zoneinfo.FILE)), tuple(notes))


def _pcp_pages(text: str | None) -> int | None:
    try:
        zones = zoneinfo.parse(text) if text else ()
    except CounterFormatError:
        return None
    limits = [
        pageset.limits[name]
        for zone in zones
        for pageset in zone.pagesets
        for name in ("high_max", "high")
        if name in pageset.limits
    ]
    return max(limits, default=None)


_VMSTAT_LINE: Final = re.compile(r"[a-z][a-z0-9_]* -?[0-9]+")
_MEMINFO_LINE: Final = re.compile(r"[A-Z]\w*(?:\(\w+\))?: +-?[0-9]+(?: kB)?")
_ZONE: Final = re.compile(r"Node +[0-9]+, zone +\S+")
_HEADING: Final = ("Number", "of", "blocks", "type")
_ROW: Final = re.compile(r"Node +[0-9]+, zone +\S+ +([0-9][0-9 ]*)")


def _sections(text: str, source: str) -> dict[str, str]:
    """The texts in their concatenation, told apart by how the kernel prints them; the order does not matter."""
    found: dict[str, list[str]] = {}
    current, columns = "", 0
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        row = _ROW.fullmatch(line)
        if line.startswith("==> ") or (not line and current != pagetypeinfo.FILE):
            continue  # tail -n +1 names files so, with an empty line between them
        if _VMSTAT_LINE.fullmatch(line):
            current = vmstat.FILE
        elif _MEMINFO_LINE.fullmatch(line):
            current = meminfo.FILE
        elif line.startswith("Page block order:"):
            current, columns = pagetypeinfo.FILE, 0
        elif line.startswith("Number of "):
            columns = len(line.split()) - len(_HEADING)
        elif _ZONE.fullmatch(line):
            current = zoneinfo.FILE
        elif row and not (current == pagetypeinfo.FILE and len(row[1].split()) == columns):
            current = buddyinfo.FILE
        elif not current:
            raise UsageError(f"{source}, line {number}: neither JSON nor a text of /proc: {one_line(line, 60)!r}")
        found.setdefault(current, []).append(line)
    if lines[-1]:
        raise UsageError(f"{source} is torn: it ends within the line {one_line(lines[-1], 60)!r}; copy it again")
    return {name: "\n".join(part).rstrip("\n") + "\n" for name, part in found.items()}


class _StreamFile(msgspec.Struct, forbid_unknown_fields=True):
    """A YAML file with a stream instead of steps."""

    name: str
    stream: StreamSpec
    question: str = ""


def read_scenario(path: Path) -> WhatIf:
    """A scenario of steps, or a stream of conversions, from a YAML file; raises UsageError."""
    source = one_line(path.name, 80)
    text = _read(path)
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError:
        plain = None
    if not (isinstance(plain, dict) and "stream" in plain):
        scenario = Scenario.from_yaml(text, source)
        return WhatIf(
            scenario.name, "", f"What do the steps of {source} do?", USUAL, scenario.steps,
            chunks=scenario.chunks, guests=scenario.guests,
        )  # fmt: skip
    _known_keys(plain["stream"], source)
    try:
        kept = msgspec.convert(plain, _StreamFile)
    except msgspec.ValidationError as error:
        raise UsageError(f"{source}: {one_line(str(error))}") from None
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    return WhatIf(kept.name, "", kept.question or f"What does the stream of {source} do?", USUAL, stream=kept.stream)


def _known_keys(stream: object, source: str) -> None:
    known = [field.name for field in fields(StreamSpec)]
    for word in stream if isinstance(stream, dict) else ():
        if word not in known:
            near = difflib.get_close_matches(str(word), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise UsageError(f"{source}: stream has an unknown key {one_line(str(word), 40)!r}: {hint}")
