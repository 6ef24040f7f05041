# SPDX-License-Identifier: GPL-2.0-only
"""Reads a guest's RAM as its QEMU has it mapped, and holds what shows there against what may show.

The host asks the kernel which pages are mapped and reads only those, so that a look moves no counter; what has to
refuse, because it is private memory of the very file that is mapped, is tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from harness.errors import InfraError
from harness.guest.agent import PAGE_SIZE
from harness.guest.pattern import first_word, words_of
from harness.host.probe import ProbeClient, ProbeError
from harness.model.prediction import ExpectedView
from harness.run.shared_side import addresses
from harness.scenario.steps import PageRange

if TYPE_CHECKING:
    from harness.run.walk import Walker

SHOWN = 3
"""Pages that a sentence names."""


def peek(walker: Walker, views: Sequence[ExpectedView]) -> tuple[str, ...]:
    """A sentence for each run of pages that shows the host what it must not see, or hides what it must."""
    said = []
    for view in views:
        wrong = []
        for piece, address in addresses(walker, PageRange(view.region, view.start, view.count)):
            seen = _read(walker, piece, address, forced=view.refused, must_be_there=view.mapped)
            wrong += [told for told in (_wrong(view, page, word) for page, word in seen) if told]
        if wrong:
            more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            where = f"{view.region}[{view.start}:{view.start + view.count}]"
            said.append(
                f"host view: {len(wrong)} pages of {where} are not as predicted: {'; '.join(wrong[:SHOWN])}{more}"
            )
    return tuple(said)


def _read(
    walker: Walker, piece: PageRange, address: int, *, forced: bool, must_be_there: bool
) -> Iterator[tuple[int, int | None]]:
    """(page, its first word) of the mapped pages of a piece; None for one that refuses, or that is not mapped.

    ``forced``: of all its pages.  Pages that are not mapped are told where they ``must_be_there``.
    """
    pid, probe = walker.pid(piece.region), walker.probe
    mapped = [forced] * piece.count
    if not forced:
        mapped = [node is not None for node in probe.nodes(pid, address, piece.count, timeout=walker.deadline)]
    for there, run in groupby(range(piece.count), key=mapped.__getitem__):
        numbers = list(run)
        if there:
            at = address + numbers[0] * PAGE_SIZE
            words = _words(probe, pid, at, len(numbers), walker.deadline)
            yield from ((piece.start + number, word) for number, word in zip(numbers, words, strict=True))
        elif must_be_there:
            yield from ((piece.start + number, None) for number in numbers)


def _words(probe: ProbeClient, pid: int, address: int, count: int, deadline: float) -> list[int | None]:
    try:
        return probe.peek(pid, address, count, timeout=deadline)
    except ProbeError as error:
        if error.code != "ENOSYS":
            raise
        why = "the kernel under test has no process_vm_readv(), by which the host looks: CONFIG_CROSS_MEMORY_ATTACH"
        raise InfraError(f"{why} is needed") from error


def _wrong(view: ExpectedView, page: int, word: int | None) -> str:
    """What is wrong with what a page shows; '' for nothing."""
    if view.refused or word is None:
        return "" if view.refused and word is None else f"page {page} {_shows(word)}"
    allowed = 0 if view.generation is None else first_word(view.region, page, view.generation)
    return "" if word == allowed else f"page {page} {_shows(word)}"


def _shows(word: int | None) -> str:
    return "cannot be read" if word is None else f"shows the host {words_of(word)}"
