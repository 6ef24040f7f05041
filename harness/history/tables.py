# SPDX-License-Identifier: GPL-2.0-only
"""The tables of the history, the same in SQLite and PostgreSQL.

A *line* is what stays the same from night to night: kernel, branch, host, guest kind, design.  A *series* is one case
on one line; its results, in the order of ``place`` (start of the run, then the run's identity, then the number of the
case in it), are what every question is about.  That order is the primary key, so that the last results of a series are
read without touching the others, however many there are.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Float, ForeignKey, Integer, MetaData, Table, Text, UniqueConstraint

SCHEMA: Final = 1
"""Raised when the tables change; a history of another number is refused."""

metadata = MetaData()

schema = Table("gmem_schema", metadata, Column("version", Integer, primary_key=True))

runs = Table(
    "gmem_runs",
    metadata,
    Column("id", Integer, primary_key=True),
    # harness.report.identity.run_id: the same run added twice is one
    Column("key", Text, nullable=False, unique=True),
    # UTC, 2026-01-02T03:04:05Z
    Column("started", Text, nullable=False, index=True),
    Column("finished", Text, nullable=False),
    Column("release", Text, nullable=False),
    # harness.report.identity.kernel_id
    Column("build", Text, nullable=False),
    # Git commit, '' when the kernel did not come from a tree with git.
    Column("commit", Text, nullable=False),
    Column("branch", Text, nullable=False),
    Column("kernel", Text, nullable=False),
    Column("host", Text, nullable=False),
    # How the host under test is reached: machine and the computer that ran the harness.
    Column("testbed", Text, nullable=False),
    Column("guest", Text, nullable=False),
    Column("design", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("sentence", Text, nullable=False),
    Column("seed", Text, nullable=False),  # 64 bits without a sign do not fit into an integer of a database
    # Absolute path of the output directory when it was added.
    Column("folder", Text, nullable=False),
)

series = Table(
    "gmem_series",
    metadata,
    Column("id", Integer, primary_key=True),
    # The name that the kernel was asked for with, and patches given with it.
    Column("kernel", Text, nullable=False),
    Column("branch", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("guest", Text, nullable=False),
    Column("design", Text, nullable=False),
    Column("case", Text, nullable=False),
    UniqueConstraint("kernel", "branch", "host", "guest", "design", "case"),
)

results = Table(
    "gmem_results",
    metadata,
    Column("series", Integer, ForeignKey("gmem_series.id"), primary_key=True),
    Column("place", Text, primary_key=True),
    Column("run", Integer, ForeignKey("gmem_runs.id"), nullable=False, index=True),
    Column("verdict", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    # What it showed, in a form in which two results show the same (harness.explore.signature); '' for no deviation.
    Column("signature", Text, nullable=False),
    # Why, in one sentence, and the first rule that was broken; both '' for a case that passes.
    Column("sentence", Text, nullable=False),
    Column("reason", Text, nullable=False),
    # Folder below the run's; '' for none.
    Column("evidence", Text, nullable=False),
    sqlite_with_rowid=False,  # the table is its primary key: a series lies in one piece
)

quarantine = Table(
    "gmem_quarantine",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("case", Text, nullable=False),
    # Only this deviation is quarantined: whatever else the case shows counts.
    Column("signature", Text, nullable=False),
    # '' for every one.
    Column("kernel", Text, nullable=False),
    Column("branch", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("link", Text, nullable=False),
    # The last day on which it counts, 2026-01-31.
    Column("until", Text, nullable=False),
    Column("added", Text, nullable=False),
)
