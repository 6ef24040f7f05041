# SPDX-License-Identifier: GPL-2.0-only
"""The marker ``gmem`` of a suite's functions and files: what a case is about, and whether a brief run has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.report.claims import claim_named

DECLARED = (
    "gmem(designs, claim, brief, guests): the gmem designs that a case is about (default: all), the claim it"
    " decides, whether a brief run has it (default: yes), and the launches it is about (default: all)"
)
REPEAT = "gmem_repeat"
"""Parameter that pytest counts the repetitions of a case in."""
_WORDS = {"designs", "claim", "brief", "guests"}
_MISTAKE = 'write the marker @pytest.mark.gmem(designs=["order0"], claim="C2", brief=False), with at least one of them'


@dataclass(frozen=True)
class Mark:
    """What the markers of a case say; an empty tuple stands for all."""

    designs: tuple[str, ...]
    claim_id: str
    guests: tuple[str, ...]


def mark_of(item: pytest.Item) -> Mark:
    """Each word from the closest marker that has it: the function's before the file's; raises ``UsageError``."""
    found: dict[str, Any] = {}
    for marker in item.iter_markers("gmem"):
        if marker.args or not marker.kwargs or marker.kwargs.keys() - _WORDS:
            raise UsageError(_MISTAKE)
        found = {**marker.kwargs, **found}
    designs, claim, guests = found.get("designs", ()), found.get("claim"), found.get("guests", ())
    lists = isinstance(designs, (list, tuple)) and isinstance(guests, (list, tuple))
    if not lists or not isinstance(claim, str | None) or not isinstance(found.get("brief", True), bool):
        raise UsageError(_MISTAKE)
    return Mark(tuple(designs), claim_named(claim).id if claim is not None else "", tuple(guests))


def not_brief(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """What a brief run leaves out: of each function about a claim all but its first case, or all where it says so.

    The repetitions of a case are that case.
    """
    left_out, first = [], dict[tuple[Path, str], dict[str, object]]()
    for item in items:
        function = item.path, getattr(item, "originalname", item.name)
        of_call = getattr(item, "callspec", None)
        case = {name: value for name, value in (of_call.params if of_call else {}).items() if name != REPEAT}
        markers = [marker.kwargs for marker in item.iter_markers("gmem")]
        another = case != first.setdefault(function, case) and any("claim" in words for words in markers)
        if another or any(words.get("brief") is False for words in markers):
            left_out.append(item)
    return left_out
