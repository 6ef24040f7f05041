# SPDX-License-Identifier: GPL-2.0-only
"""``python -m tests.mutation``: does a test fail for every wrong rule of the reference model?

Draws mutants of ``harness/model`` at random (the seed is printed), runs the model's tests against each, lists the
survivors and ends with the share that was killed; exit code 1 when it is below ``--at-least``.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import click

from tests.mutation.campaign import Result, campaign, check_unchanged
from tests.mutation.child import preload
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.places import PROJECT
from tests.mutation.reach import measured

MODEL = PROJECT.model


def _chosen(only: tuple[str, ...]) -> list[Mutant]:
    files = sorted(MODEL.rglob("*.py"))
    if only:
        files = [file for file in files if any(word in str(file.relative_to(MODEL)) for word in only)]
        if not files:
            raise click.UsageError(f"no file of harness/model has {' or '.join(only)} in its name")
    return [mutant for file in files for mutant in mutants_of(file)]


@click.command(help=__doc__)
@click.option("--sample", type=click.IntRange(1), default=200, show_default=True, help="Mutants to draw.")
@click.option("--all", "everything", is_flag=True, help="All mutants instead of a sample.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--at-least", type=click.FloatRange(0, 100), default=90.0, show_default=True, help="Share in per cent.")
@click.option("--only", multiple=True, metavar="TEXT", help="Only files whose path below harness/model has TEXT.")
@click.option(
    "--examples",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Of each search of Hypothesis, at most: what only a longer search finds survives.",
)
@click.option("--list", "list_only", is_flag=True, help="Print the mutants and run nothing.")
def main(
    sample: int,
    everything: bool,
    seed: int,
    jobs: int,
    at_least: float,
    only: tuple[str, ...],
    examples: int,
    list_only: bool,
) -> None:
    mutants = _chosen(only)
    total = len(mutants)
    if not everything and sample < total:
        mutants = random.Random(seed).sample(mutants, sample)
    if list_only:
        for mutant in mutants:
            click.echo(str(mutant))
        return
    preload(examples)
    reach = measured(PROJECT)
    check_unchanged(PROJECT, reach)
    click.echo(f"{len(mutants)} of {total} mutants, seed {seed}, {len(reach.tests)} tests")
    began = time.monotonic()
    results = campaign(PROJECT, reach, mutants, jobs=jobs)
    click.echo(f"{(time.monotonic() - began) / len(results):.2f} s per mutant")
    survivors = sorted((r for r in results if r.lives), key=lambda r: str(r.mutant))
    for result in survivors:
        click.echo(f"{result.how}: {result.mutant}")
    _by_file(results)
    share = 100 * (len(results) - len(survivors)) / len(results)
    click.echo(f"killed {len(results) - len(survivors)} of {len(results)} mutants: {share:.1f} %")
    raise SystemExit(share < at_least)


def _by_file(results: list[Result]) -> None:
    def name(file: Path) -> str:
        return str(file.relative_to(MODEL))

    seen = Counter(name(r.mutant.file) for r in results)
    killed = Counter(name(r.mutant.file) for r in results if not r.lives)
    for file in sorted(seen):
        click.echo(f"  {file:32} {killed[file]:4} of {seen[file]:4}")


if __name__ == "__main__":
    main()
