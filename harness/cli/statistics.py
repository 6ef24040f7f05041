# SPDX-License-Identifier: GPL-2.0-only
"""``gmem statistics``: many runs of one suite, to see how quiet the harness is on kernels that are in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from harness.errors import UsageError
from harness.report.pages import template
from harness.report.statistics import CONFIDENCE, WIDEST, Collector, KernelStatistics, Statistics
from harness.report.store import RESULTS, STARTED, load
from harness.report.text import one_line, storable
from harness.run.verdict import Verdict


@click.command("statistics")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option(
    "--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a page that works offline."
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as one JSON object on standard output.")
def statistics_command(folders: tuple[Path, ...], page: Path | None, as_json: bool) -> int:
    """Sum up many runs: false alarms, and how much of each bound is ever used.

    DIR is the output directory of a run, or a folder with such directories in it.  The exit code is 0 when every case
    of every run passed and every run came to its end, else 1.
    """
    collector = Collector()
    for folder in folders:
        for run in runs_in(folder):
            collector.add(*load(run))
    found = collector.statistics()
    if as_json:
        plain = {**msgspec.to_builtins(found), "runs": found.runs, "quiet": found.quiet}
        print(msgspec.json.encode(storable(plain), order="sorted").decode())
    else:
        for line in told(found):
            print(line)
    if page is not None:
        write_page(page, found)
    return (Verdict.PASS if found.quiet else Verdict.DEVIATES).exit_code


def runs_in(folder: Path) -> Iterator[Path]:
    """The output directories of runs that a folder is or has below it; raises ``UsageError`` where there is none."""
    if (folder / RESULTS).is_file() or (folder / STARTED).is_file():
        yield folder
        return
    found = sorted(
        path.parent for pattern in (RESULTS, f"*/{RESULTS}", f"*/*/{RESULTS}") for path in folder.glob(pattern)
    )
    if not found:
        raise UsageError(f"{folder} is no output directory of a run and has none in it (no {RESULTS})")
    yield from found


def told(found: Statistics) -> Iterator[str]:
    """The lines for a terminal."""
    for kernel in found.kernels:
        yield f"{kernel.kernel} as {kernel.design}"
        for line in _kernel_told(kernel):
            yield f"  {line}"
    runs = f"{found.runs} runs"
    yield f"{runs}: every case passed" if found.quiet else f"{runs}: not quiet"


def _kernel_told(kernel: KernelStatistics) -> Iterator[str]:
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(kernel.verdicts.items()))
    yield f"{kernel.runs} runs, {kernel.cases} cases run: {verdicts}"
    if kernel.not_whole:
        yield f"{kernel.not_whole} runs never came to their end"
    yield (
        f"false alarms: {kernel.alarms}, at {CONFIDENCE:.0%} confidence fewer than"
        f" {kernel.alarm_rate_below * 100:.3g} in 100 cases; measured again and passed: {kernel.again}"
    )
    yield f"predictions held against observations: {kernel.judged}, of one value: {kernel.exact}"
    for bound in kernel.bounds[:WIDEST]:
        yield (
            f"{one_line(bound.counter, 40)}: bounds of {bound.steps} steps are up to {bound.width} wide,"
            f" runs up to {bound.spread} apart, {bound.used:.0%} of the width used"
        )
    if kernel.slow:
        slowest = kernel.slow[0]
        yield f"slowest case: {one_line(slowest.case, 80)}, median {slowest.median:.1f} s, most {slowest.most:.1f} s"


def write_page(path: Path, found: Statistics) -> None:
    """Write the page; raises ``UsageError`` where it cannot be written."""
    try:
        path.write_text(template("statistics.html.j2").render(found=found, confidence=CONFIDENCE), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--html {path} cannot be written ({error.strerror}): name another file") from error
