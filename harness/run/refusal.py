# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel refused, held against what it must refuse; pure.

An error is a finding like any other: one that was not predicted, one that was and did not come, another errno, or
another page than the kernel must name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.guest.agent import CHUNK_PAGES, PAGE_SIZE
from harness.model.prediction import ExpectedError


@dataclass(frozen=True)
class Refusal:
    """A call that the kernel refused."""

    errno: str
    """Name of the error, e.g. ``EAGAIN``."""
    what: str
    """The call, as text."""
    offset: int | None = None
    """Where in the guest_memfd the kernel says that it failed, in bytes; None: such a call says nothing of it."""


def compare_refusals(expected: ExpectedError | None, seen: Refusal | None, chunks: Sequence[int]) -> list[str]:
    """Disagreements, one sentence each.  ``chunks``: offset of each chunk of the region in the guest_memfd."""
    if seen is None:
        return [f"the kernel did what it must refuse: {expected}"] if expected else []
    if expected is None:
        return [f"the kernel refused {seen.what}: {seen.errno}"]
    said = []
    if seen.errno != expected.errno:
        said.append(f"the kernel refused {seen.what} with {seen.errno}, and not as predicted: {expected}")
    wanted = chunks[expected.page // CHUNK_PAGES] + expected.page % CHUNK_PAGES * PAGE_SIZE
    if seen.offset is not None and seen.offset != wanted:
        said.append(
            f"the kernel refused {seen.what} for the page at {seen.offset:#x} of the guest_memfd, and not at "
            f"{wanted:#x} as predicted: {expected}"
        )
    return said


_SAID = re.compile(r"^inplace: KVM does not convert .*, error_offset (0x[0-9a-f]{1,16}|0)$", re.MULTILINE)


def error_offset(text: str) -> int | None:
    """The ``error_offset`` of the last conversion that KVM refused, as ``inplace.so`` tells it; None for none.

    >>> error_offset("inplace: KVM does not convert 0+0x1000 of the guest_memfd to shared: E, error_offset 0x7000\\n")
    28672
    """
    found = _SAID.findall(text)
    return int(found[-1], 16) if found else None
