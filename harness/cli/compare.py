# SPDX-License-Identifier: GPL-2.0-only
"""``gmem compare``: two runs, of one kernel twice or of two kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from harness.report.compare import Comparison, Cost, CounterChange, compare, label
from harness.report.store import load
from harness.report.text import one_line, storable
from harness.run.verdict import Verdict

SHOWN = 40
"""Lines of one kind that a terminal is given; --json has all."""


@click.command("compare")
@click.argument("a", type=click.Path(path_type=Path), metavar="A")
@click.argument("b", type=click.Path(path_type=Path), metavar="B")
@click.option("--intervals", is_flag=True, help="Show counters with an interval that moved by another amount too.")
@click.option(
    "--slower",
    type=click.FloatRange(0, min_open=True),
    metavar="RATIO",
    help="Count it as a difference when a kind of step surely takes more than RATIO times as long in B.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object on standard output.")
def compare_command(a: Path, b: Path, intervals: bool, slower: float | None, as_json: bool) -> int:
    """Compare the output directories of two runs: verdicts, counters, and what each kind of step costs.

    The exit code is 0 when both came to the same verdicts and the same exact counters, else 1.
    """
    (first, ours), (second, theirs) = load(a), load(b)
    found = compare(label(first, a), ours, label(second, b), theirs)
    late = found.slower_than(slower) if slower is not None else ()
    same = found.same and not late
    if as_json:
        plain = {**msgspec.to_builtins(found), "same": same, "slower": [cost.kind for cost in late]}
        print(msgspec.json.encode(storable(plain), order="sorted").decode())
    else:
        for line in _lines(found, late, intervals):
            print(line)
    return (Verdict.PASS if same else Verdict.DEVIATES).exit_code


def _lines(found: Comparison, late: tuple[Cost, ...], intervals: bool) -> Iterator[str]:
    yield f"A: {one_line(found.a)}"
    yield f"B: {one_line(found.b)}"
    yield from _cut(
        f"{change.case}: {change.a or 'not there'} -> {change.b or 'not there'}: {one_line(change.sentence, 200)}"
        for change in found.verdicts
    )
    shown = found.counters if intervals else found.exact
    yield from _cut(_counter(change) for change in shown)
    for cost in found.costs:
        mark = "slower: " if cost in late else ""
        yield (
            f"{mark}{cost.kind}: {cost.a * 1000:.1f} ms -> {cost.b * 1000:.1f} ms, ratio {cost.ratio:.2f}"
            f" ({cost.low:.2f} to {cost.high:.2f}, {cost.pairs} steps)"
        )
    loose = len(found.counters) - len(found.exact)
    yield (
        f"{found.cases} cases in both; verdicts that differ: {len(found.verdicts)}; exact counters that differ:"
        f" {len(found.exact)}, that are the same: {found.same_exact}; intervals that differ: {loose}"
    )


def _counter(change: CounterChange) -> str:
    a, b = ("not observed" if value is None else f"{value:+d}" for value in (change.a, change.b))
    kind = "" if change.exact else " (an interval)"
    return f"{change.case} step {change.step} ({one_line(change.text)}): {change.counter} {a} -> {b}{kind}"


def _cut(lines: Iterator[str]) -> Iterator[str]:
    every = list(lines)
    yield from every[:SHOWN]
    if len(every) > SHOWN:
        yield f"... and {len(every) - SHOWN} more (--json has all)"
