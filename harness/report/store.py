# SPDX-License-Identifier: GPL-2.0-only
"""The output directory of a run: written as the run goes, readable whenever it ends.

``started`` is there first and ``run.json`` last, so a folder with the one and without the other is a run that died.
``results.jsonl`` gets one line per case, in one write and with fsync, so that what a case found survives whatever
happens next.  All keys on disk are sorted.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from harness.errors import InfraError, UsageError
from harness.report.claims_page import claims_page
from harness.report.claims_table import Run, Table, claims_table, has_claims
from harness.report.html import html
from harness.report.junit import junit_xml
from harness.report.ktap import ktap
from harness.report.markdown import markdown
from harness.report.series import Series
from harness.report.text import one_line, storable
from harness.run.result import CaseResult, RunInfo

STARTED: Final = "started"
RESULTS: Final = "results.jsonl"
SERIES: Final = "series.jsonl"
RUN: Final = "run.json"
JUNIT: Final = "junit.xml"
KTAP: Final = "results.ktap"
HTML: Final = "report.html"
SUMMARY: Final = "summary.md"
CLAIMS_JSON: Final = "claims.json"
CLAIMS_HTML: Final = "claims.html"
EVIDENCE: Final = "evidence"
DEFAULT_ROOT: Final = "gmem-out"
LATEST: Final = "latest"

_MARKS: Final = (STARTED, RESULTS, RUN)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._=,+-]+")
_NAME_LIMIT: Final = 100  # a file name has at most 255 bytes, and evidence has names below this one


class DamagedResult(UsageError):
    """A folder that was named as the output of a run cannot be read as one."""


def _now() -> datetime:
    return datetime.now().astimezone()


def _token() -> str:
    return secrets.token_hex(2)


class OutDir:
    """The output directory of the run that is going on; made by :meth:`create`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases: list[CaseResult] = []
        self.curves: list[Series] = []

    @classmethod
    def create(
        cls, path: Path | None = None, *, now: Callable[[], datetime] = _now, token: Callable[[], str] = _token
    ) -> OutDir:
        """Make the directory and mark the run as started.

        Without ``path``: ``gmem-out/YYYYmmdd-HHMMSS-xxxx`` below the current directory, and ``gmem-out/latest``
        points to it.  Raises :class:`UsageError` if ``path`` already has a run in it, or cannot be made.
        """
        began = now()
        try:
            place = _new_folder(began, token) if path is None else _given_folder(path)
            _mark(place, f"{began.isoformat(timespec='seconds')} process {os.getpid()}\n")
            (place / RESULTS).touch()
            (place / EVIDENCE).mkdir(exist_ok=True)
            if path is None:
                _point_latest(place)
        except OSError as error:
            what = f"--out {path}" if path is not None else f"the output directory {Path.cwd() / DEFAULT_ROOT}"
            raise UsageError(f"{what} cannot be made ({error.strerror}): name another directory with --out") from error
        return cls(place)

    def append(self, case: CaseResult) -> None:
        """Add one case; afterwards it is on disk, or :class:`InfraError` is raised and no part of it is."""
        self._append_line(RESULTS, case)
        self.cases.append(case)

    def append_series(self, curve: Series) -> None:
        """Add a curve that a case recorded; raises :class:`InfraError` like :meth:`append`."""
        self._append_line(SERIES, curve)
        self.curves.append(curve)

    def _append_line(self, name: str, record: msgspec.Struct) -> None:
        line = msgspec.json.encode(storable(msgspec.to_builtins(record)), order="sorted") + b"\n"
        with _writing(self.path / name):
            fd = os.open(self.path / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _append(fd, line)
            finally:
                os.close(fd)

    def evidence(self, case: str) -> Path:
        """A new folder for the evidence of ``case`` (any text); :meth:`relative` gives what the case records."""
        stem = _UNSAFE.sub("_", case).strip("._")[:_NAME_LIMIT] or "case"
        with _writing(self.path / EVIDENCE):
            for number in range(1, 100_000):
                folder = self.path / EVIDENCE / (stem if number == 1 else f"{stem}-{number}")
                try:
                    folder.mkdir(parents=True)
                    return folder
                except FileExistsError:
                    continue
        raise InfraError(f"{self.path / EVIDENCE}: no free name for the evidence of {stem}")

    def relative(self, folder: Path) -> str:
        """A folder of :meth:`evidence` as it is written into ``CaseResult.evidence``."""
        return folder.relative_to(self.path).as_posix()

    @property
    def report(self) -> Path:
        """Where ``report.html`` is once the run has finished."""
        return self.path / HTML

    def finish(self, info: RunInfo) -> None:
        """Write the reports, then ``run.json``, each in one piece; raises :class:`InfraError` when the disk is full.

        ``run.json`` is written even if a report cannot be: it holds the verdict, reports can be made again.
        """
        try:
            write_reports(self.path, info, self.cases, self.curves)
        finally:
            _write(self.path / RUN, _text(info))


def write_reports(path: Path, info: RunInfo, cases: list[CaseResult], curves: list[Series] | None = None) -> None:
    """Write the reports of a run, and its table of claims if it has one, into its directory."""
    _write(path / JUNIT, '<?xml version="1.0" encoding="UTF-8"?>\n' + junit_xml(info, cases))
    _write(path / KTAP, ktap(info, cases))
    _write(path / SUMMARY, markdown(info, cases))
    table = claims_table([Run(info, cases, curves or [], path)], path) if has_claims(cases) else None
    _write(path / HTML, html(info, cases, path, table))
    if table is not None:
        write_claims(path, table)


def write_claims(path: Path, table: Table) -> None:
    """Write ``claims.json`` and ``claims.html`` into the directory that the table's links start from."""
    _write(path / CLAIMS_JSON, _text(table))
    _write(path / CLAIMS_HTML, claims_page(table))


def _text(record: msgspec.Struct) -> str:
    return json.dumps(storable(msgspec.to_builtins(record)), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def load(path: Path, *, notify: Callable[[str], None] | None = None) -> tuple[RunInfo | None, list[CaseResult]]:
    """Read an output directory back; the first is None for a run that died before its end.

    An incomplete last line of ``results.jsonl`` is what a power cut leaves: it is dropped, and ``notify`` (default:
    standard error) gets one sentence.  Everything else that is wrong raises :class:`DamagedResult`.
    """
    if not any((path / name).exists() for name in _MARKS):
        what = "is not the output directory of a gmem run" if path.is_dir() else "does not exist or is not a directory"
        raise DamagedResult(f"{path} {what}: name a directory that holds {RUN} and {RESULTS}")
    info: RunInfo | None = None
    if (path / RUN).exists():
        try:
            info = msgspec.json.decode(_read(path / RUN), type=RunInfo)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DamagedResult(f"{path / RUN} is damaged: {one_line(str(error), 300)}") from error
    return info, list(_records(path / RESULTS, CaseResult, notify or _print_line))


def load_series(path: Path, *, notify: Callable[[str], None] | None = None) -> list[Series]:
    """The curves that the cases of a run recorded, read back as :func:`load` does; most runs have none."""
    place = path / SERIES
    return list(_records(place, Series, notify or _print_line)) if place.exists() else []


_Record = TypeVar("_Record", bound=msgspec.Struct)


def _records(path: Path, kind: type[_Record], notify: Callable[[str], None]) -> Iterator[_Record]:
    *lines, rest = _read(path).split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            yield msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DamagedResult(
                f"{path} line {number} is damaged ({one_line(str(error), 300)}): remove that line to read the others"
            ) from error
    if rest:
        notify(
            f"{path}: the last line is incomplete ({len(rest)} bytes) and is left out: the run died while writing it"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedResult(f"{path} cannot be read: {error.strerror}") from error


def _given_folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file", str(path))
    path.mkdir(parents=True, exist_ok=True)
    return path.absolute()


def _mark(place: Path, text: str) -> None:
    """Write the marker into a folder without a run; ``x`` makes sure that of two runs at once one is refused."""
    try:
        if any((place / name).exists() for name in _MARKS):
            raise FileExistsError
        with (place / STARTED).open("x", encoding="utf-8") as marker:
            marker.write(text)
    except FileExistsError as error:
        raise UsageError(f"{place}: there already is a run in it: name another directory with --out") from error


def _new_folder(began: datetime, token: Callable[[], str]) -> Path:
    root = Path.cwd() / DEFAULT_ROOT
    root.mkdir(exist_ok=True)
    for _ in range(100):
        place = root / f"{began:%Y%m%d-%H%M%S}-{token()}"
        try:
            place.mkdir()
            return place
        except FileExistsError:
            continue
    raise InfraError(f"{root}: a hundred names in a row are taken; name a directory with --out")


def _point_latest(place: Path) -> None:
    """Move the link in one rename; something of that name that is no link is the user's own and stays."""
    link = place.parent / LATEST
    if link.exists() and not link.is_symlink():
        return
    fresh = place.parent / f".{LATEST}.{place.name}"
    fresh.symlink_to(place.name)
    fresh.replace(link)


def _append(fd: int, line: bytes) -> None:
    """All of ``line`` or nothing: a file system that fills up in the middle gets its part taken back."""
    size = os.fstat(fd).st_size
    try:
        rest = line
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, size)
        raise


def _write(path: Path, text: str) -> None:
    """Atomically: the name has the whole text or what it had before."""
    fresh = path.with_name(f".{path.name}.new")
    with _writing(path):
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InfraError(f"{path} cannot be written: {error.strerror}") from error


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
