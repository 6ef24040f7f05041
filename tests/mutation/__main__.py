# SPDX-License-Identifier: GPL-2.0-only
"""``python -m tests.mutation``: does a test fail for every wrong rule of the reference model?

Draws mutants of ``harness/model`` at random (the seed is printed), runs the model's tests against each, lists the
survivors and ends with the share that was killed; exit code 1 when it is below ``--at-least``.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import click

from tests.mutation.campaign import MODEL, ROOT, campaign, preload, start, tests_for
from tests.mutation.mutants import Mutant, mutants_of

# The unchanged tests take some seconds; a mutant that takes this many times as long loops.
DEADLINE_FACTOR, DEADLINE_LEAST = 4.0, 30.0


def _chosen(only: tuple[str, ...]) -> list[Mutant]:
    files = sorted(MODEL.rglob("*.py"))
    if only:
        files = [file for file in files if any(word in str(file.relative_to(MODEL)) for word in only)]
        if not files:
            raise click.UsageError(f"no file of {MODEL.relative_to(ROOT)} has {' or '.join(only)} in its name")
    return [mutant for file in files for mutant in mutants_of(file)]


def _unchanged(mutants: list[Mutant], seconds_at_most: float = 600.0) -> float:
    """Seconds that the tests of the unchanged model take; ends the program when they fail."""
    began = time.monotonic()
    pid = start(None, sorted({test for mutant in mutants for test in tests_for(mutant.file)}))
    while time.monotonic() - began < seconds_at_most:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if status:
                raise click.ClickException("the tests of the unchanged model fail: run pytest tests/unit first")
            return time.monotonic() - began
        time.sleep(0.05)
    os.kill(pid, 9)
    raise click.ClickException(f"the tests of the unchanged model did not end within {seconds_at_most:g} s")


@click.command(help=__doc__)
@click.option("--sample", type=click.IntRange(1), default=200, show_default=True, help="Mutants to draw.")
@click.option("--all", "everything", is_flag=True, help="All mutants instead of a sample.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--at-least", type=click.FloatRange(0, 100), default=90.0, show_default=True, help="Share in per cent.")
@click.option("--only", multiple=True, metavar="TEXT", help="Only files whose path below harness/model has TEXT.")
@click.option("--list", "list_only", is_flag=True, help="Print the mutants and run nothing.")
def main(
    sample: int, everything: bool, seed: int, jobs: int, at_least: float, only: tuple[str, ...], list_only: bool
) -> None:
    mutants = _chosen(only)
    total = len(mutants)
    if not everything and sample < total:
        mutants = random.Random(seed).sample(mutants, sample)
    if list_only:
        for mutant in mutants:
            click.echo(str(mutant))
        return
    preload()
    unchanged = _unchanged(mutants)
    deadline = max(DEADLINE_LEAST, DEADLINE_FACTOR * unchanged)
    click.echo(f"{len(mutants)} of {total} mutants, seed {seed}; the unchanged model's tests take {unchanged:.1f} s")
    results = campaign(mutants, jobs=jobs, deadline=deadline)
    survivors = sorted((r for r in results if r.how == "survived"), key=lambda r: str(r.mutant))
    for result in survivors:
        click.echo(f"survived: {result.mutant}")
    _by_file(results)
    share = 100 * (len(results) - len(survivors)) / len(results)
    click.echo(f"killed {len(results) - len(survivors)} of {len(results)} mutants: {share:.1f} %")
    raise SystemExit(share < at_least)


def _by_file(results: list) -> None:  # type: ignore[type-arg]
    def name(file: Path) -> str:
        return str(file.relative_to(MODEL))

    seen = Counter(name(r.mutant.file) for r in results)
    killed = Counter(name(r.mutant.file) for r in results if r.how != "survived")
    for file in sorted(seen):
        click.echo(f"  {file:32} {killed[file]:4} of {seen[file]:4}")


if __name__ == "__main__":
    main()
