# SPDX-License-Identifier: GPL-2.0-only
"""Where the history is kept: a file of SQLite by default, a PostgreSQL server by URL.

A run is added in one transaction: several importers at once wait for each other, and one that is killed leaves what it
had committed and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import Table

from harness.errors import InfraError, UsageError
from harness.history.tables import SCHEMA, metadata, schema
from harness.report.text import one_line

SECONDS: Final = 60
"""How long an importer waits for others, and for a server to answer; a run is added in some 10 ms."""
_TABLES_LOCK: Final = 0x676D656D
"""Of PostgreSQL's advisory locks: of two that make the tables at once, one waits."""


def default_place(environ: Mapping[str, str] | None = None) -> str:
    """``$GMEM_HISTORY``, else ``$XDG_STATE_HOME/gmem-harness/history.sqlite``, else that below ``~/.local/state``."""
    environ = os.environ if environ is None else environ
    if environ.get("GMEM_HISTORY"):
        return environ["GMEM_HISTORY"]
    base = environ.get("XDG_STATE_HOME", "")
    state = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return str(state / "gmem-harness" / "history.sqlite")


class History:
    """An open history; made by :meth:`open`."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        """For people; never with a password."""

    @classmethod
    def open(cls, place: str, *, make: bool = False) -> History:
        """Open the history at ``place``: a path, or a URL of ``postgresql://`` or ``sqlite://``.

        ``make`` makes it when there is none.  Raises :class:`UsageError` for what is none, was made by another version
        or is not there, :class:`InfraError` for what cannot be reached.
        """
        url = _url(place)
        name = one_line(url.database or "", 300) if _is_file(url) else one_line(_shown(url), 300)
        if _is_file(url):
            _prepare_file(Path(url.database or ""), make)
        history = cls(_engine(url), name)
        with history.trouble():
            if make:
                with history.write() as connection:
                    _make_tables(connection)
            with history.read() as connection:
                _check(connection, name)
        return history

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the history."""
        with self.trouble(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed at its end, or has no effect."""
        with self.trouble(), self.engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def trouble(self) -> Iterator[None]:
        """What the database says becomes one sentence."""
        try:
            yield
        except DBAPIError as error:
            why = one_line(
                str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else repr(error.orig), 300
            )
            if "not a database" in why:
                raise UsageError(f"{self.name} is no history: it is a file of another kind") from error
            raise InfraError(f"the history {self.name} cannot be used: {why}") from error


def insert_new(connection: Connection, table: Table) -> Any:
    """``INSERT`` that leaves a row alone which is there already."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def _url(place: str) -> URL:
    if "://" not in place:
        return URL.create("sqlite+pysqlite", database=str(Path(place).expanduser().absolute()))
    try:
        url = make_url(place)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise UsageError(
            f"{_without_password(place)} is no address of a database: {one_line(str(error), 200)}"
        ) from None
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and url.database:
        return url.set(drivername="sqlite+pysqlite", database=str(Path(url.database).absolute()))
    raise UsageError(
        f"{_without_password(place)}: the history is a file (of SQLite), or postgresql://USER@HOST/DATABASE"
    )


def _shown(url: URL) -> str:
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)


def _without_password(place: str) -> str:
    scheme, _, rest = place.partition("://")
    return one_line(f"{scheme}://{rest.rpartition('@')[2]}", 200)


def _is_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _prepare_file(path: Path, make: bool) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name the file of the history")
    if not make and not path.exists():
        raise UsageError(f"there is no history {path} yet: gmem history add RUN... makes it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the history {path} cannot be made ({error.strerror}): name another file with --db"
        ) from error


def _engine(url: URL) -> Engine:
    if not _is_file(url):
        try:
            return create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": SECONDS // 6})
        except ModuleNotFoundError as error:
            raise UsageError("a history in PostgreSQL needs psycopg: pip install 'gmem-harness[postgres]'") from error
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": SECONDS})

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, not where Python's module sees a statement
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _make_tables(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TABLES_LOCK})
    if not inspect(connection).has_table(schema.name):
        metadata.create_all(connection)
        connection.execute(insert(schema).values(version=SCHEMA))


def _check(connection: Connection, name: str) -> None:
    if not inspect(connection).has_table(schema.name):
        raise UsageError(f"{name} holds no history yet: gmem history add RUN... makes it")
    version = connection.execute(select(schema.c.version)).scalar()
    if version != SCHEMA:
        raise UsageError(
            f"{name} is a history of schema {version}, and this gmem reads {SCHEMA}: use the gmem that wrote it, or "
            f"add the runs to a new one (--db)"
        )
