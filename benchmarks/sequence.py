# SPDX-License-Identifier: GPL-2.0-only
"""The steps of the kernel's ``private_mem_conversions_test``, made by the harness's own guest on the testbed.

The same ranges in the same order, written and read by the guest, so that the two can be compared in one run.  Two
differences remain: the test compares bytes, the guest module compares words; and the region's chunks are not
neighbours, so a range over the end of a chunk takes two hypercalls.
"""

from __future__ import annotations

from harness.errors import InfraError
from harness.guest.agent import CHUNK_PAGES, PAGE_SIZE, GuestAgent
from harness.host.emulated.testbed import Testbed
from harness.host.probe import ProbeClient

RANGES = ((0, 1), (0, 512), (1, 1), (1, 512), (512, 1))
"""First page and pages of each range (``test_ranges``)."""
ALL = (0, 513)
"""2 MiB and one page (``PER_CPU_DATA_SIZE``)."""
_SECONDS = 60.0
_SHARED, _NEW, _PRIVATE, _BACK = 1, 2, 3, 4  # generations of the pattern


class Sequence:
    """The sequence on one guest; raises ``InfraError`` when the guest finds other contents than were written."""

    def __init__(self, testbed: Testbed, guest: str) -> None:
        self._agent: GuestAgent = testbed.channels.agents[guest]
        self._probe: ProbeClient = testbed.channels.probe
        self._state = testbed.guest(guest)
        self.conversions = 0
        """Ranges converted by one run."""
        self.punches = 0
        """Ranges punched by one run without a conversion."""
        self.requests = 0
        """Requests that one run takes; the selftest's guest needs none, it has the sequence in its code."""

    def run(self) -> None:
        """All of it once, on a region that is empty and shared; :meth:`reset` makes it so again."""
        self.conversions = self.punches = self.requests = 0
        self._explicit()
        self._explicit()
        self._holes(precise=False)
        self._holes(precise=True)

    def reset(self) -> None:
        """Give up all pages of the region's two first chunks on both sides."""
        for private in (True, False):
            self._agent.convert(0, 0, 2 * CHUNK_PAGES, private=private, timeout=_SECONDS)

    def _explicit(self) -> None:
        """``guest_test_explicit_conversion``."""
        self._write(ALL, _SHARED)
        self._verify(ALL, _SHARED)
        for pages in RANGES:
            self._write(pages, _NEW)
            self._convert(pages, private=True)
            if pages[1] > 1:
                self._write((pages[0], 1), _PRIVATE)
            else:
                self._write(pages, _PRIVATE)
                self._verify(pages, _PRIVATE)
                self._verify((0, pages[0]), _SHARED)
                self._verify((pages[0] + 1, ALL[1] - pages[0] - 1), _SHARED)
            self._convert(pages, private=False)
            self._write(pages, _BACK)
            self._verify(pages, _BACK)
            self._write(pages, _SHARED)
            self._convert(ALL, private=False)

    def _holes(self, *, precise: bool) -> None:
        """``guest_test_punch_hole``."""
        self._convert(ALL, private=True)
        for pages in RANGES:
            self._punch(ALL)
            written = pages if precise else ALL
            self._write(written, _PRIVATE)
            self._verify(written, _PRIVATE)
            self._punch(pages)
            self._verify(pages, None)

    def _convert(self, pages: tuple[int, int], *, private: bool) -> None:
        self._agent.convert(0, *pages, private=private, timeout=_SECONDS)
        self.conversions += 1
        self.requests += 1

    def _write(self, pages: tuple[int, int], generation: int) -> None:
        self._agent.touch(0, *pages, stride=1, write=True, gen=generation, timeout=_SECONDS)
        self.requests += 1

    def _verify(self, pages: tuple[int, int], generation: int | None) -> None:
        if not pages[1]:
            return
        found = self._agent.verify(0, *pages, gen=generation, timeout=_SECONDS)
        self.requests += 1
        if found.wrong:
            raise InfraError(f"the guest found {found.wrong} wrong pages in pages {pages[0]}+{pages[1]}: {found.shown}")

    def _punch(self, pages: tuple[int, int]) -> None:
        start, left = pages
        while left:
            count = min(left, CHUNK_PAGES - start % CHUNK_PAGES)
            offset = self._state.chunks[start // CHUNK_PAGES] + start % CHUNK_PAGES * PAGE_SIZE
            self._probe.fallocate(self._state.pid, "punch", offset, count * PAGE_SIZE)
            start, left = start + count, left - count
            self.requests += 1
        self.punches += 1
