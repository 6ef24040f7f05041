# SPDX-License-Identifier: GPL-2.0-only
"""How long work on a kernel tells where it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the phase (``fetch``, ``extract``, ``build``), the units done, and how many there are (or None).

    Units: percent for ``fetch``, files for ``extract``, lines that ``make`` prints for ``build``.
    """

    def __call__(self, phase: str, done: int, total: int | None, /) -> None: ...


def silent(phase: str, done: int, total: int | None, /) -> None:
    """A progress that nobody watches."""
