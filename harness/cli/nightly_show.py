# SPDX-License-Identifier: GPL-2.0-only
"""The table of ``gmem nightly``: one line for each cell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from harness.nightly.told import Shown
from harness.report.text import one_line, storable

_HEAD = ("KERNEL", "HOST", "GUEST", "SUITE", "VERDICT", "SINCE", "COMMIT", "WHERE")


def lines(cells: Sequence[Shown], up: bool) -> Iterator[str]:
    """The table; links while the master is up, else folders."""
    rows = [_HEAD, *(_row(one, up) for one in cells)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        yield "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
    for key, sentence in _bisections(cells):
        yield f"bisection {key}: {sentence}"


def _row(one: Shown, up: bool) -> tuple[str, ...]:
    cell, told = one.cell, one.told
    begin = (cell.kernel, cell.host, cell.guest, cell.suite)
    if told is None:
        return (*begin, "not run", "", "", "")
    return (*begin, told.verdict.value, told.since, told.commit[:12], one_line(told.link if up else told.folder, 200))


def _bisections(cells: Iterable[Shown]) -> list[tuple[str, str]]:
    """Each once, in the order of the cells."""
    found = {}
    for one in cells:
        if one.told is not None and one.told.bisection:
            found[one.told.bisection] = one.bisection.sentence if one.bisection is not None else "not ended"
    return [(key, one_line(sentence, 300)) for key, sentence in found.items()]


def as_json(cells: Iterable[Shown], url: str) -> str:
    """One object: ``cells``, and ``url`` ('' while the master is down)."""
    rows = []
    for one in cells:
        row: dict[str, Any] = {**vars(one.cell), "told": None, "bisection": None}
        for name in ("told", "bisection"):
            if getattr(one, name) is not None:
                row[name] = msgspec.to_builtins(getattr(one, name))
        rows.append(row)
    return json.dumps(storable({"cells": rows, "url": url}), indent=1, sort_keys=True)
