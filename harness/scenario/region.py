# SPDX-License-Identifier: GPL-2.0-only
"""A way to write page ranges that reads like the claim: ``G0[0:512]``.

>>> G0[0:512]
PageRange(region='g0.r0', start=0, count=512)
>>> str(G0[7])
'g0.r0[7:8]'
"""

from __future__ import annotations

from harness.errors import UsageError
from harness.scenario.steps import PageRange


class Region:
    """A region of a guest; slicing it gives ranges, in guest pages."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, key: int | slice) -> PageRange:
        if isinstance(key, int):
            return PageRange(self.name, key, 1)
        plain = isinstance(key, slice) and key.step is None and {type(key.start), type(key.stop)} == {int}
        if not plain:
            raise UsageError(f"a range of {self.name} is written {self.name}[first:end], without a step")
        return PageRange(self.name, key.start, key.stop - key.start)


G0, G1 = Region("g0.r0"), Region("g1.r0")
