# SPDX-License-Identifier: GPL-2.0-only
"""Whether somebody asked this process to end.

A signal becomes an exception, and Python ignores exceptions in destructors and callbacks: what is remembered here is
asked before each case and at the end, so that no Ctrl-C is lost.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Interruption:
    """What was asked of the process."""

    asked: bool = False

    def check(self) -> None:
        """Raises ``KeyboardInterrupt`` if it was asked to end."""
        if self.asked:
            raise KeyboardInterrupt


INTERRUPTION = Interruption()
