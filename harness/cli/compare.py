# SPDX-License-Identifier: GPL-2.0-only
"""``gmem compare``: two runs, of one kernel twice or of two kernels."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import click
import msgspec

from harness.cli.compare_kernels import Side, folder, pooled, run_turn, sides, turns
from harness.errors import UsageError
from harness.report.compare import Comparison, Cost, CounterChange, compare, label
from harness.report.store import load
from harness.report.text import one_line, storable
from harness.run.verdict import Verdict

SHOWN = 40
"""Lines of one kind that a terminal is given; --json has all."""


@click.command("compare")
@click.argument("what", nargs=-1, metavar="A B | [SUITE...]")
@click.option("--kernel", "kernels", multiple=True, metavar="NAME|TREE|IMAGE", help="Given twice: run A and B first.")
@click.option(
    "--patch-b",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Run A, and B with this patch besides.",
)
@click.option("-k", "expression", default="", help="Of these runs: only cases that match this pytest expression.")
@click.option("--rounds", type=click.IntRange(1, 100), default=2, show_default=True, help="Runs of each kernel.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for these runs.")
@click.option("--intervals", is_flag=True, help="Show counters with an interval that moved by another amount too.")
@click.option(
    "--slower",
    type=click.FloatRange(0, min_open=True),
    metavar="RATIO",
    help="Count it as a difference when a kind of step surely takes more than RATIO times as long in B.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object on standard output.")
def compare_command(
    what: tuple[str, ...],
    kernels: tuple[str, ...],
    patch_b: tuple[str, ...],
    expression: str,
    rounds: int,
    out: Path | None,
    intervals: bool,
    slower: float | None,
    as_json: bool,
) -> int:
    """Compare two runs: verdicts, counters, and what each kind of step costs.

    A and B are output directories of runs.  With --kernel A --kernel B, or --patch-b, the suites (default: smoke and
    conversion) are run on both kernels first, in turns, and what they cost is compared over all turns.  The exit code
    is 0 when both came to the same verdicts and the same exact counters, else 1.
    """
    if kernels or patch_b:
        found = _of_kernels(sides(kernels, patch_b), what, expression, rounds, out)
    else:
        found = _of_folders(what)
    late = found.slower_than(slower) if slower is not None else ()
    same = found.same and not late
    if as_json:
        plain = {**msgspec.to_builtins(found), "same": same, "slower": [cost.kind for cost in late]}
        print(msgspec.json.encode(storable(plain), order="sorted").decode())
    else:
        for line in _lines(found, late, intervals):
            print(line)
    return (Verdict.PASS if same else Verdict.DEVIATES).exit_code


def _of_folders(what: Sequence[str]) -> Comparison:
    if len(what) != 2:
        raise UsageError(
            f"gmem compare takes two output directories of runs, not {len(what)}; or two kernels to run: --kernel twice"
        )
    a, b = map(Path, what)
    (first, ours), (second, theirs) = load(a), load(b)
    return compare(label(first, a), ours, label(second, b), theirs)


def _of_kernels(
    pair: tuple[Side, Side], suites: Sequence[str], expression: str, rounds: int, out: Path | None
) -> Comparison:
    words = [*suites, *(["-k", expression] if expression else [])]
    place = out or Path("gmem-out") / f"compare-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
    if place.exists() and any(place.iterdir()):
        raise UsageError(f"--out {place} is not empty: name another folder")
    for number, side in turns(pair, rounds):
        run_turn(side, words, folder(place, number, side), lambda line: print(line, file=sys.stderr, flush=True))
    (first, ours), (second, theirs) = (pooled(place, side, rounds) for side in pair)
    return compare(label(first, folder(place, 1, pair[0])), ours, label(second, folder(place, 1, pair[1])), theirs)


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
