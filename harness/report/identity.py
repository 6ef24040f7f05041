# SPDX-License-Identifier: GPL-2.0-only
"""Names for runs, kernels and cases that do not depend on where a folder lies or when somebody looked.  Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from harness.report.text import storable
from harness.run.result import CaseResult, RunInfo

LENGTH: Final = 32
"""Hexadecimal digits: 128 bits."""


def run_id(info: RunInfo, cases: Sequence[CaseResult]) -> str:
    """The same for the same results wherever they lie, another for every other run: durations tell them apart."""
    digest = hashlib.sha256()
    for record in (info, *cases):
        digest.update(msgspec.json.encode(storable(msgspec.to_builtins(record)), order="sorted") + b"\n")
    return digest.hexdigest()[:LENGTH]


def kernel_id(info: RunInfo) -> str:
    """Identifies source, configuration, patches and compiler of the kernel under test.

    The key that the build of it has; of a kernel that was not built here, what it says of itself.
    """
    kernel = info.kernel
    return kernel.get("key") or _digest(*(kernel.get(name, "") for name in ("release", "version", "config_hash")))


def source_id(info: RunInfo) -> str:
    """Identifies the source that the kernel under test was built from, patches included."""
    kernel = info.kernel
    if not kernel.get("origin"):
        return kernel_id(info)
    return _digest(kernel["origin"], kernel.get("commit", ""), kernel.get("patches", ""))


def _digest(*parts: str) -> str:
    text = msgspec.json.encode([storable(part) for part in parts])
    return hashlib.sha256(text).hexdigest()[:LENGTH]
