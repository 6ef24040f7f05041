# SPDX-License-Identifier: GPL-2.0-only
"""The steps a scenario is made of: small, frozen, total.

Ranges are in guest pages (4096 bytes) relative to a named region such as ``g0.r0`` (guest 0, region 0), so that a
scenario is independent of where a guest got its memory.  A region consists of chunks of :data:`CHUNK_PAGES` pages,
aligned to their size in guest-physical memory; different chunks need not be neighbours.

>>> Convert(PageRange("g0.r0", 0, 512), Side.PRIVATE).text()
'convert g0.r0[0:512] to private'
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import msgspec

from harness.errors import UsageError

CHUNK_PAGES = 512
"""Guest pages in one chunk: an order-9 allocation of the guest, 2 MiB, aligned to 2 MiB."""

PIECES = ("fragment", "pinned")
"""Kinds of pressure that put free memory into pieces."""

_REGION = re.compile(r"(g\d+)\.(r\d+)")
_GUEST = re.compile(r"g\d+")
_RANGE = re.compile(r"(g\d+\.r\d+)\[(\d+):(\d+)\]")


class Side(enum.Enum):
    """Where a guest page's contents live: in the guest_memfd (private) or in the shared backing."""

    UNSET = "unset"
    PRIVATE = "private"
    SHARED = "shared"

    @property
    def other(self) -> Side:
        """The opposite side; ``UNSET`` has none and stays ``UNSET``."""
        return {Side.PRIVATE: Side.SHARED, Side.SHARED: Side.PRIVATE}.get(self, Side.UNSET)

    def __repr__(self) -> str:
        return f"Side.{self.name}"


@dataclass(frozen=True)
class PageRange:
    """``count`` guest pages of ``region`` from page ``start``; written ``g0.r0[start:end]``, end exclusive.

    Raises UsageError for a malformed region name, a negative start or a count below 1.
    """

    region: str
    start: int
    count: int

    def __post_init__(self) -> None:
        if not _REGION.fullmatch(self.region):
            raise UsageError(f"region {self.region!r} is not of the form g0.r0 (guest number, region number)")
        if self.start < 0:
            raise UsageError(f"range of {self.region} starts at page {self.start}: the first page of a region is 0")
        if self.count < 1:
            raise UsageError(f"range {self} has {self.count} pages: a range needs at least one")

    @classmethod
    def parse(cls, text: str) -> PageRange:
        """``g0.r0[0:512]`` as a range; raises UsageError when the text is anything else."""
        match = _RANGE.fullmatch(text)
        if not match:
            raise UsageError(f"range {text!r} is not of the form g0.r0[0:512] (first page, page after the last)")
        start, end = int(match[2]), int(match[3])
        if end <= start:
            raise UsageError(f"range {text!r} is empty: the page after the last must be above the first page")
        return cls(match[1], start, end - start)

    @property
    def end(self) -> int:
        """The page after the last one."""
        return self.start + self.count

    @property
    def guest(self) -> str:
        """Name of the guest that owns the region, e.g. ``g0``."""
        return self.region.partition(".")[0]

    def pieces(self) -> tuple[PageRange, ...]:
        """The range cut at chunk boundaries, in rising order: what one conversion hypercall can cover."""
        found = []
        start = self.start
        while start < self.end:
            end = min(self.end, (start // CHUNK_PAGES + 1) * CHUNK_PAGES)
            found.append(PageRange(self.region, start, end - start))
            start = end
        return tuple(found)

    def __str__(self) -> str:
        return f"{self.region}[{self.start}:{self.end}]"


class BaseStep(msgspec.Struct, frozen=True, tag_field="do", forbid_unknown_fields=True, omit_defaults=True):
    """What all steps share; the tag ``do`` is the step's word in YAML."""

    def ranges(self) -> tuple[PageRange, ...]:
        """The ranges of guest pages that the step names."""
        return ()

    def guest_names(self) -> tuple[str, ...]:
        """The guests that the step needs to be running."""
        return tuple(r.guest for r in self.ranges())

    def text(self) -> str:
        """The step as an imperative phrase for reports."""
        raise NotImplementedError


class _RangeStep(BaseStep, frozen=True):
    """A step on one range."""

    range: PageRange
    phrase: ClassVar[str] = ""

    def ranges(self) -> tuple[PageRange, ...]:
        return (self.range,)

    def text(self) -> str:
        return f"{self.phrase} {self.range}"


class Populate(_RangeStep, frozen=True, tag="populate"):
    """The guest writes its pattern, of a new generation, to every page on the side the page currently has."""

    phrase: ClassVar[str] = "populate"


class Touch(_RangeStep, frozen=True, tag="touch"):
    """The guest touches pages first, first+stride, ...: by writing its pattern (new generation) or by reading."""

    stride: int = 1
    write: bool = True

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UsageError(f"touch {self.range} has stride {self.stride}: a stride is at least 1")

    def pages(self) -> Sequence[int]:
        """Pages of the region that are touched."""
        return range(self.range.start, self.range.end, self.stride)

    def text(self) -> str:
        verb = "write" if self.write else "read"
        which = "" if self.stride == 1 else f" every {self.stride}. page of"
        return f"{verb}{which} {self.range}"


class Convert(_RangeStep, frozen=True, tag="convert"):
    """The guest asks for its pages to become ``to``: one hypercall per piece of a chunk, in rising order.

    With ``by`` a hypercall covers at most that many pages: ``by=1`` converts page by page.
    """

    to: Side
    by: int = CHUNK_PAGES

    def __post_init__(self) -> None:
        if self.to is Side.UNSET:
            raise UsageError(f"convert {self.range} has no side: say private or shared")
        if not 1 <= self.by <= CHUNK_PAGES:
            raise UsageError(f"convert {self.range} by {self.by} pages: a hypercall covers 1 to {CHUNK_PAGES} pages")

    def calls(self) -> tuple[PageRange, ...]:
        """What each hypercall covers, in order: the pieces of chunks, cut every ``by`` pages from their beginning."""
        return tuple(
            PageRange(piece.region, start, min(self.by, piece.end - start))
            for piece in self.range.pieces()
            for start in range(piece.start, piece.end, self.by)
        )

    def text(self) -> str:
        how = "" if self.by == CHUNK_PAGES else f" by {self.by}"
        return f"convert {self.range} to {self.to.value}{how}"


class Check(_RangeStep, frozen=True, tag="check"):
    """The guest reads every page (absent ones fault in) and verifies contents.

    ``pattern``: the last written pattern survives; ``zero``: every byte is 0; ``either``: each page is one of the two.
    """

    expect: Literal["pattern", "zero", "either"]

    def text(self) -> str:
        what = {"pattern": "the pattern", "zero": "zeroes", "either": "the pattern or zeroes"}[self.expect]
        return f"check {self.range} for {what}"


class Fallocate(_RangeStep, frozen=True, tag="fallocate"):
    """The host allocates the range in the guest_memfd itself."""

    phrase: ClassVar[str] = "fallocate"


class PunchHole(_RangeStep, frozen=True, tag="punch"):
    """The host punches the range out of the guest_memfd itself; attributes stay."""

    phrase: ClassVar[str] = "punch hole"


class Pin(_RangeStep, frozen=True, tag="pin"):
    """Somebody takes a reference on every present page of the range, on the side that the page has.

    Nobody who splits, migrates or frees folios expects it.
    """

    phrase: ClassVar[str] = "pin"


class Unpin(_RangeStep, frozen=True, tag="unpin"):
    """The references that pins took on pages of the range are dropped."""

    phrase: ClassVar[str] = "unpin"


class Migrate(_RangeStep, frozen=True, tag="migrate"):
    """The host moves what QEMU maps of the range's shared pages to a NUMA node (``move_pages``).

    Guests get their memory on node 0; a scenario that names another node is run on a host with one more.
    """

    node: int = 1

    def __post_init__(self) -> None:
        if self.node not in (0, 1):
            raise UsageError(f"migrate {self.range} to node {self.node}: a host has the nodes 0 and 1")

    def text(self) -> str:
        return f"migrate {self.range} to node {self.node}"


class Split(_RangeStep, frozen=True, tag="split"):
    """The host asks the kernel to split the shared folios that QEMU maps there (debugfs ``split_huge_pages``)."""

    phrase: ClassVar[str] = "split"


class Peek(_RangeStep, frozen=True, tag="peek"):
    """The host reads every page where QEMU has the guest's RAM: what is private must not show there."""

    phrase: ClassVar[str] = "read from the host"


class Place(BaseStep, frozen=True, tag="place"):
    """From here on all threads of the guest's QEMU, and what the host does to its memory, run on host CPU ``cpu``."""

    guest: str
    cpu: int

    def __post_init__(self) -> None:
        if not _GUEST.fullmatch(self.guest):
            raise UsageError(f"place names guest {self.guest!r}: guests are called g0, g1, ...")
        if self.cpu < 0:
            raise UsageError(f"place {self.guest} on CPU {self.cpu}: CPUs are counted from 0")

    def guest_names(self) -> tuple[str, ...]:
        return (self.guest,)

    def text(self) -> str:
        return f"place {self.guest} on CPU {self.cpu}"


class Compact(BaseStep, frozen=True, tag="compact"):
    """The host is asked to compact all memory (``/proc/sys/vm/compact_memory``)."""

    def text(self) -> str:
        return "compact"


class DropCaches(BaseStep, frozen=True, tag="drop_caches"):
    """The host is asked to drop clean page cache (``/proc/sys/vm/drop_caches``)."""

    def text(self) -> str:
        return "drop caches"


class Pressure(BaseStep, frozen=True, tag="pressure"):
    """A process of the host takes memory and keeps it until a pressure of the same kind that names no amount.

    ``anon``: anonymous memory; ``cache``: page cache of a file; ``fragment``: every second page of anonymous memory
    that it takes is given back, so that free memory is in pieces; ``pinned``: the same with pages that compaction
    cannot move.  The amount is one of

    * ``pages``: that many are taken;
    * ``percent``: of ``anon`` and ``cache``, that share of what can be taken before the host reclaims; of ``fragment``
      and ``pinned``, as many as put that share of the free memory into pieces of less than 2 MiB; what is free beyond
      576 blocks of 2 MiB is taken whole first;
    * ``leave``, of ``fragment`` and ``pinned``: free memory is in pieces but for that many whole blocks of 2 MiB.
    """

    kind: Literal["anon", "cache", "fragment", "pinned"]
    pages: int = 0
    percent: int = 0
    leave: int | None = None

    def __post_init__(self) -> None:
        if self.pages < 0:
            raise UsageError(f"pressure of {self.pages} pages: 0 gives everything back, more takes that many")
        if not 0 <= self.percent <= 100:
            raise UsageError(f"pressure of {self.percent} %: a share is 1 to 100, and 0 gives everything back")
        if self.leave is not None and (self.leave < 0 or self.kind not in PIECES):
            raise UsageError(f"{self.kind} pressure that leaves {self.leave} blocks: only {' and '.join(PIECES)} can")
        if bool(self.pages) + bool(self.percent) + (self.leave is not None) > 1:
            raise UsageError(f"{self.kind} pressure is told its amount more than once: pages, percent or leave")

    @property
    def gives_back(self) -> bool:
        """Whether it ends what was taken."""
        return not self.pages and not self.percent and self.leave is None

    def text(self) -> str:
        if self.gives_back:
            return f"end of {self.kind} pressure"
        if self.leave is not None:
            return f"{self.kind} pressure that leaves {self.leave} blocks of 2 MiB"
        return f"{self.kind} pressure of {f'{self.pages} pages' if self.pages else f'{self.percent} %'}"


class Settle(BaseStep, frozen=True, tag="settle"):
    """Per-CPU batches are drained and counters folded; no guest and no file is touched."""

    def text(self) -> str:
        return "settle"


class Empty(BaseStep, frozen=True, tag="empty"):
    """Nothing is done: an observation of the testbed at rest."""

    def text(self) -> str:
        return "do nothing"


class Close(BaseStep, frozen=True, tag="close"):
    """The guest's QEMU quits and its guest_memfd goes away with it."""

    guest: str

    def __post_init__(self) -> None:
        if not _GUEST.fullmatch(self.guest):
            raise UsageError(f"close names guest {self.guest!r}: guests are called g0, g1, ...")

    def guest_names(self) -> tuple[str, ...]:
        return (self.guest,)

    def text(self) -> str:
        return f"close {self.guest}"


Step = (
    Populate | Touch | Convert | Check | Fallocate | PunchHole
    | Pin | Unpin | Migrate | Split | Peek | Place | Compact | DropCaches | Pressure | Settle | Empty | Close
)  # fmt: skip

STEP_TYPES: tuple[type[BaseStep], ...] = (
    Populate, Touch, Convert, Check, Fallocate, PunchHole,
    Pin, Unpin, Migrate, Split, Peek, Place, Compact, DropCaches, Pressure, Settle, Empty, Close,
)  # fmt: skip
"""Every step, in the order of the documentation."""
