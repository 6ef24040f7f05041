# SPDX-License-Identifier: GPL-2.0-only
"""Why a counter is predicted to move as it does: the rules of the step, what earlier steps did, what the step found.

>>> from harness.model.designs import design_named
>>> from harness.model.facts import HostFacts
>>> from harness.model.predict import predict
>>> from harness.scenario.region import G0
>>> from harness.scenario.scenario import Scenario
>>> from harness.scenario.steps import Convert, Populate, Side
>>> steps = (Convert(G0[0:512], Side.PRIVATE), Populate(G0[0:512]), Convert(G0[100], Side.SHARED))
>>> predicted = predict(Scenario("hole", steps), design_named("thp-discard"), {}, HostFacts(ncpu=2))
>>> print(explain(predicted, "nr_file_pages", 2))
step 2 (convert g0.r0[100:101] to shared): nr_file_pages -1
  -1  punch: 1 present private page of g0.r0[100:101] leaves the page cache
earlier steps moved it by +512:
  step 1 (populate g0.r0[0:512]): +512
    +512  large-folio: 1 empty window of g0.r0[0:512] filled by a folio of order 9 each: 512 pages enter the page cache
the step found, in g0.r0:
  chunk 0, since step 1: all private; 512 pages in the guest_memfd: 1 folio of order 9; 1 mapping of 2 MiB
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from harness.errors import UsageError
from harness.model import pages
from harness.model.aligned import Blocks
from harness.model.mapping import SIZES
from harness.model.prediction import Prediction, StepPrediction
from harness.model.state import RegionState
from harness.scenario.steps import CHUNK_PAGES, PageRange

MOST_CHUNKS = 4
"""Chunks that an explanation describes one by one."""


def explain(steps: Sequence[StepPrediction], counter: str, index: int) -> str:
    """The chain of rules behind ``counter`` at step ``index``, as lines of text.

    Raises UsageError for a step that the scenario has not, and for a counter the model says nothing about.
    """
    if not 0 <= index < len(steps):
        raise UsageError(f"step {index} is not in the scenario: it has steps 0 to {len(steps) - 1}")
    step = steps[index]
    bound = step.predictions.get(counter)
    head = f"step {index} ({step.step.text()}): {counter}"
    if bound is None:
        why = step.unpredicted.get(counter)
        if why is None:
            raise UsageError(_unknown(counter, step))
        lines = [f"{head} is not predicted: {why}"]
    else:
        lines = [f"{head} {bounds(bound)}", *_reasons(bound, "  ")]
    lines += [f"  the step must fail: {step.refused}"] if step.refused else []
    lines += _history(steps[:index], counter)
    lines += _found(steps, index)
    return "\n".join(lines)


def bounds(bound: Prediction) -> str:
    """``+512``, or ``-10 to +2`` for an interval."""
    return f"{bound.low:+d}" if bound.exact else f"{bound.low:+d} to {bound.high:+d}"


def _reasons(bound: Prediction, indent: str) -> Iterator[str]:
    for reason in bound.reasons:
        part = ".." if reason.pages is None else f"{reason.pages:+d}"
        yield f"{indent}{part}  {reason}"


def _history(steps: Sequence[StepPrediction], counter: str) -> list[str]:
    """What earlier steps contributed; those that do not move the counter are left out."""
    moved = [step for step in steps if counter in step.predictions and _moves(step.predictions[counter])]
    if not moved:
        return []
    low = sum(step.predictions[counter].low for step in moved)
    high = sum(step.predictions[counter].high for step in moved)
    lines = [f"earlier steps moved it by {low:+d}:" if low == high else f"earlier steps: {low:+d} to {high:+d}:"]
    for step in moved:
        bound = step.predictions[counter]
        lines.append(f"  step {step.index} ({step.step.text()}): {bounds(bound)}")
        lines += _reasons(bound, "    ")
    return lines


def _moves(bound: Prediction) -> bool:
    return (bound.low, bound.high) != (0, 0)


def _found(steps: Sequence[StepPrediction], index: int) -> list[str]:
    """The chunks that the step names as the earlier steps left them, and since when they are so."""
    lines = []
    for where in steps[index].step.ranges() if index else ():
        if where.region not in steps[index - 1].regions:
            continue
        chunks = _chunks(where)
        lines.append(f"the step found, in {where.region}:")
        for chunk in chunks[:MOST_CHUNKS]:
            said = describe(steps[index - 1].regions[where.region], chunk)
            since = index - 1
            while since and describe(steps[since - 1].regions[where.region], chunk) == said:
                since -= 1
            lines.append(f"  chunk {chunk}, since step {since}: {said}")
        if len(chunks) > MOST_CHUNKS:
            lines.append(f"  and {len(chunks) - MOST_CHUNKS} more chunks")
    return lines


def _chunks(where: PageRange) -> range:
    return range(where.start // CHUNK_PAGES, (where.end - 1) // CHUNK_PAGES + 1)


def describe(region: RegionState, chunk: int) -> str:
    """One chunk of 512 pages in a line: attributes, what is present on both sides, what KVM maps, who holds what."""
    window = pages.span(chunk * CHUNK_PAGES, CHUNK_PAGES)
    said = [_sides((region.attr_private & window).bit_count())]
    private, folios = region.private & window, region.private_folios.touching(window)
    if private:
        apart = region.private_apart.touching(private)
        pieces = ", pieces of one folio on the same pages" if apart else ""
        said.append(f"{private.bit_count()} pages in the guest_memfd: {_folios(private, folios)}{pieces}")
    else:
        said.append("nothing in the guest_memfd")
    shared = region.shared & window
    if shared:
        said.append(f"{shared.bit_count()} shared pages: {_folios(shared, region.shared_folios.touching(window))}")
    said += _mappings(region, window)
    held = ((region.private_held | region.shared_held) & window).bit_count()
    said += [f"{_count(held, 'page')} held by references"] if held else []
    return "; ".join(said)


def _sides(private: int) -> str:
    return {0: "all shared", CHUNK_PAGES: "all private"}.get(private, f"{private} pages private, the others shared")


def _folios(present: int, folios: Blocks) -> str:
    large = [f"{_count(starts.bit_count(), 'folio')} of order {order}" for order, starts in reversed(folios.layers)]
    single = (present & ~folios.covered()).bit_count()
    return ", ".join(large + ([_count(single, "single page")] if single else []))


def _mappings(region: RegionState, window: int) -> list[str]:
    said = []
    for leaves in (region.leaf_private_large, region.leaf_shared_large):
        for order, starts in leaves.touching(window):
            said.append(f"{_count(starts.bit_count(), 'mapping')} of {SIZES[order]}")
    small = (region.mapped & window).bit_count()
    return said + ([f"{_count(small, 'mapping')} of 4 KiB"] if small else [])


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _unknown(counter: str, step: StepPrediction) -> str:
    known = sorted({*step.predictions, *step.unpredicted})
    near = difflib.get_close_matches(counter, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"it speaks of {len(known)} others, e.g. nr_file_pages"
    return f"the model says nothing about a counter {counter!r} in step {step.index}: {hint}"
