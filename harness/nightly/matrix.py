# SPDX-License-Identifier: GPL-2.0-only
"""The matrix of a nightly run: which kernels on which hosts, with which guests and suites, and when.

A *cell* is one (kernel, host, guest kind, suite); every cell is one job of every night.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import UsageError
from harness.guest.launch import guest_named
from harness.strict_yaml import nearest, parse_mapping, read_text

SCHEMA: Final = 1
DEFAULT_GUEST: Final = "snp-stand-in"
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")
"""Names become names of folders, of workers and of builders, of which Buildbot keeps 70 characters."""


class KernelEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kernel under test: a branch of a git tree, or what ``gmem run --kernel`` takes."""

    kernel: str = ""
    """Name of ``kernels.yaml`` or path of an image; without, and without ``git``, the entry's own name."""
    git: str = ""
    """Path or URL of a git tree; its branch is polled."""
    branch: str = ""
    """Of that tree."""
    design: str = "auto"
    """gmem design to judge by, as ``--design`` of ``gmem run``."""


class HostEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host under test: one worker, one job at a time."""

    host: str = ""
    """What ``gmem run --host`` takes; without, the entry's own name."""


class SuiteEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Suites that are run together."""

    run: tuple[str, ...] = ()
    """Names or paths; without, the entry's own name."""
    cases: str = ""
    """As ``-k`` of ``gmem run``."""
    brief: bool = False
    """As ``--brief`` of ``gmem run``."""


class SkipEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cells that are not run; what is not named is any."""

    reason: str
    """For people."""
    kernel: str = ""
    host: str = ""
    guest: str = ""
    suite: str = ""


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may see and use the pages."""

    users: str
    """File with a line ``NAME:PASSWORD`` for each, readable by its owner only."""


class Web(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The web server."""

    interface: str = "127.0.0.1"
    """Address that it listens on; any but the loopback needs a login."""
    port: int = 0
    """0: one that is free, kept from then on."""
    login: Login | None = None


class Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole file."""

    schema: int
    """1."""
    kernels: dict[str, KernelEntry]
    """Kernels under test, by names of your own."""
    hosts: dict[str, HostEntry]
    """Hosts under test."""
    suites: dict[str, SuiteEntry]
    """Groups of suites."""
    guests: tuple[str, ...] = (DEFAULT_GUEST,)
    """How guests are started, as ``--guest`` of ``gmem run``."""
    skip: tuple[SkipEntry, ...] = ()
    """Cells that are not run."""
    nightly: str = "02:00"
    """Hour and minute, in the time of the machine; 'never' for new commits only."""
    poll: float = 10.0
    """Minutes between two looks at a git tree; 0 for never."""
    hours: float = 12.0
    """Deadline of a job."""
    retries: int = 2
    """How often a job is run again that a testbed failed, or whose worker was lost."""
    keep: int = 30
    """Result folders kept of each cell."""
    bisect: bool = True
    """Whether a new deviation of a branch is bisected."""
    database: str = ""
    """Of Buildbot: postgresql://USER@HOST/NAME; without, a file of SQLite in the state folder."""
    history: str = ""
    """As ``--db`` of ``gmem history``; without, the same PostgreSQL, or a file in the state folder."""
    web: Web = Web()

    def cells(self) -> tuple[Cell, ...]:
        """All of them, by builder and kernel, without those that are skipped."""
        every = (
            Cell(kernel, host, guest, suite)
            for host in self.hosts
            for guest in self.guests
            for suite in self.suites
            for kernel in self.kernels
        )
        return tuple(cell for cell in every if not any(_covers(entry, cell) for entry in self.skip))

    @property
    def at(self) -> tuple[int, int] | None:
        """Hour and minute of ``nightly``; None for never."""
        if self.nightly == "never":
            return None
        hour, minute = self.nightly.split(":")
        return int(hour), int(minute)


@dataclass(frozen=True, order=True)
class Cell:
    """One job of every night, by its names in the matrix."""

    kernel: str
    host: str
    guest: str
    suite: str

    @property
    def builder(self) -> str:
        """Name of the builder: what a column of the grid is."""
        return f"{self.host} {self.guest} {self.suite}"

    @property
    def key(self) -> str:
        """Name of its folder and file."""
        return f"{self.kernel}_{self.host}_{self.guest}_{self.suite}"

    def __str__(self) -> str:
        return f"{self.kernel} on {self.host}, {self.guest}, {self.suite}"


def _covers(entry: SkipEntry, cell: Cell) -> bool:
    return all(getattr(entry, name) in ("", getattr(cell, name)) for name in ("kernel", "host", "guest", "suite"))


def load_matrix(path: Path) -> Matrix:
    """The matrix of a file; raises :class:`UsageError` with place, reason and the nearest known word."""
    return parse_matrix(read_text(path, "the matrix"), path)


def parse_matrix(text: str, source: Path) -> Matrix:
    """The matrix of a file's text; its relative paths start where the file is."""
    shape = "a matrix is a mapping with schema, kernels, hosts and suites"
    plain = parse_mapping(text, source, shape=shape, schema=SCHEMA)
    try:
        # "snp1:" alone means a host without anything special
        for part in ("kernels", "hosts", "suites"):
            if isinstance(plain.get(part), dict):
                plain[part] = {key: {} if value == "" else value for key, value in plain[part].items()}
        matrix = msgspec.convert(plain, Matrix, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"{source}: {_sentence(str(error))}") from error
    matrix = _whole_paths(matrix, source.resolve().parent)
    for problem in _problems(matrix):
        raise UsageError(f"{source}: {problem}")
    return matrix


def _sentence(message: str) -> str:
    """msgspec's message, with the nearest known key if it is about an unknown one."""
    match = re.match(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?([^`]*)`)?", message)
    if match is None:
        return message.replace("`$", "`").replace("Object missing required field", "it needs the key")
    word, where = match[1], match[2] or ""
    known = _known(where)
    place = f" in {where}" if where else ""
    return f"unknown key {word}{place}{nearest(word, known)}; known are {', '.join(known)}"


def _known(where: str) -> tuple[str, ...]:
    parts: Mapping[str, type[msgspec.Struct]] = {
        "kernels": KernelEntry, "hosts": HostEntry, "suites": SuiteEntry, "skip": SkipEntry, "web.login": Login,
        "web": Web,
    }  # fmt: skip
    for begin, struct in parts.items():
        if where.startswith(begin):
            return struct.__struct_fields__
    return Matrix.__struct_fields__


def _problems(matrix: Matrix) -> Iterator[str]:
    for what in ("kernels", "hosts", "suites", "guests"):
        names = getattr(matrix, what)
        if not names:
            yield f"{what} is empty: there is nothing to run"
        for name in names:
            if not _NAME.fullmatch(name):
                yield f"{what}: {name!r} is no name: letters, digits and ._+- , 40 at most"
    for guest in matrix.guests:
        guest_named(guest)
    for name, kernel in matrix.kernels.items():
        if bool(kernel.git) != bool(kernel.branch):
            yield f"kernels.{name}: git and branch belong together"
        if kernel.git and kernel.kernel:
            yield f"kernels.{name} has kernel and git: it is one of both"
    if matrix.at is None and not any(kernel.git for kernel in matrix.kernels.values()):
        yield "nightly is never, and no kernel is a branch: nothing would ever run"
    for entry in matrix.skip:
        for what, known in zip(("kernel", "host", "guest", "suite"), _names(matrix), strict=True):
            word = getattr(entry, what)
            if word and word not in known:
                yield f"skip: there is no {what} {word}{nearest(word, known)}"
    if not matrix.cells():
        yield "every cell is skipped: there is nothing to run"
    yield from _bad_numbers(matrix)
    if matrix.web.interface not in LOOPBACK and matrix.web.login is None:
        yield (
            f"the web server would listen on {matrix.web.interface} without a login: name the users with web.login, or "
            f"leave web.interface at 127.0.0.1"
        )


def _names(matrix: Matrix) -> tuple[Iterable[str], ...]:
    return matrix.kernels, matrix.hosts, matrix.guests, matrix.suites


def _bad_numbers(matrix: Matrix) -> Iterator[str]:
    for name, low, high in (("poll", 0, 10_000), ("hours", 0.01, 1000), ("retries", 0, 100), ("keep", 1, 100_000)):
        if not low <= getattr(matrix, name) <= high:
            yield f"{name} is {getattr(matrix, name):g}: it lies between {low} and {high}"
    if not 0 <= matrix.web.port <= 65535:
        yield f"web.port is {matrix.web.port}: it lies between 0 and 65535"
    if matrix.database and not re.match(r"postgres(ql)?://", matrix.database):
        scheme = matrix.database.split("://")[0]
        yield f"database is {scheme}: it is postgresql://USER@HOST/NAME, or left out for SQLite"


def _whole_paths(matrix: Matrix, folder: Path) -> Matrix:
    if matrix.nightly != "never" and not re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", matrix.nightly):
        raise UsageError(f"nightly is {matrix.nightly}: it is a time like 02:30, or never")
    kernels = {
        name: msgspec.structs.replace(one, kernel=_whole(one.kernel, folder), git=_whole(one.git, folder))
        for name, one in matrix.kernels.items()
    }
    hosts = {name: HostEntry(_whole(one.host or name, folder)) for name, one in matrix.hosts.items()}
    suites = {
        name: msgspec.structs.replace(one, run=tuple(_whole(word, folder) for word in one.run or (name,)))
        for name, one in matrix.suites.items()
    }
    web = matrix.web
    if web.login is not None:
        web = msgspec.structs.replace(web, login=Login(str(folder / Path(web.login.users).expanduser())))
    return msgspec.structs.replace(matrix, kernels=kernels, hosts=hosts, suites=suites, web=web)


def _whole(word: str, folder: Path) -> str:
    """A path as a whole path; names, and URLs as they are."""
    if "/" not in word or "://" in word or re.match(r"[^/]+@?[^/]+:", word):
        return word
    return str(folder / Path(word).expanduser())
