# SPDX-License-Identifier: GPL-2.0-only
"""The designs and shared backings the model knows, by name.

A further design is a further record with its own functions where it differs; nothing else asks which one it serves.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import UsageError
from harness.model.context import Backing, Design
from harness.model.order0 import ORDER0
from harness.model.shared import ANON_4K

DESIGNS: Mapping[str, Design] = {design.name: design for design in (ORDER0,)}
BACKINGS: Mapping[str, Backing] = {backing.name: backing for backing in (ANON_4K,)}


def design_named(name: str) -> Design:
    """The design ``name``; raises UsageError that lists the known ones."""
    if name not in DESIGNS:
        raise UsageError(f"unknown gmem design {name!r}: known are {', '.join(sorted(DESIGNS))}")
    return DESIGNS[name]


def backing_named(name: str) -> Backing:
    """The shared backing ``name``; raises UsageError that lists the known ones."""
    if name not in BACKINGS:
        raise UsageError(f"unknown shared backing {name!r}: known are {', '.join(sorted(BACKINGS))}")
    return BACKINGS[name]
