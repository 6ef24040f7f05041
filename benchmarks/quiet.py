# SPDX-License-Identifier: GPL-2.0-only
"""Runs of the acceptance suite on kernels that are in order: ``python benchmarks/quiet.py --runs 200 --out DIR``.

Each run is a ``gmem run`` of its own, kernels in turn, with what ``ci/accept`` runs on each.  What is there already is
kept: a call with the same DIR goes on where the last one ended.  Of a run that passed only the results stay.  Ends with
``gmem statistics DIR`` and its exit code; the page is DIR/statistics.html.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

PROJECT = Path(__file__).parents[1]
KERNELS = ("7.3", "6.12", "7.3-thp-discard")
KEPT = frozenset({"started", "results.jsonl", "run.json"})
INTERRUPTED = 2


def suites() -> list[str]:
    """What ``ci/accept`` runs: smoke, integrity, and every claim."""
    claims = sorted(path.name for path in (PROJECT / "suites").glob("c[0-9][0-9]_*"))
    return [f"suites/{name}" for name in ("smoke", *claims, "integrity")]


def thin_out(folder: Path) -> None:
    """Remove what is not needed of a run that passed: evidence and pages, 15 MB of them."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in KEPT:
            path.unlink()


def run(kernel: str, out: Path, arguments: tuple[str, ...]) -> int:
    """One run; its exit code."""
    command = ["gmem", "run", *suites(), "--brief", "--kernel", kernel, "--out", str(out), *arguments]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode not in (0, INTERRUPTED):
        print(done.stderr, file=sys.stderr)
    return done.returncode


def missing(runs: int, kernels: tuple[str, ...], out: Path) -> Iterator[tuple[str, Path]]:
    """The runs that are still to be made, kernels in turn."""
    for number in range(runs):
        kernel = kernels[number % len(kernels)]
        folder = out / f"{number:04}-{kernel}"
        if not (folder / "started").exists():
            yield kernel, folder


def made(kernel: str, folder: Path, arguments: tuple[str, ...]) -> int:
    """Make one run, say how it ended, and keep what is needed of it; its exit code."""
    began = time.monotonic()
    code = run(kernel, folder, arguments)
    if code == INTERRUPTED:
        shutil.rmtree(folder, ignore_errors=True)
        return code
    print(f"{folder.name}: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
    if code == 0:
        thin_out(folder)
    return code


@click.command()
@click.option("--runs", type=click.IntRange(1), default=6, show_default=True, help="Runs in all, over all kernels.")
@click.option("--kernel", "kernels", multiple=True, default=KERNELS, show_default=True)
@click.option("--at-a-time", type=click.IntRange(1), default=1, show_default=True, help="Runs side by side.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.argument("arguments", nargs=-1)
def main(runs: int, kernels: tuple[str, ...], at_a_time: int, out: Path, arguments: tuple[str, ...]) -> None:
    """Make the runs that are missing in OUT; ARGUMENTS go to each gmem run."""
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    interrupted = False

    def make(wanted: tuple[str, Path]) -> None:
        nonlocal interrupted
        if not interrupted and made(*wanted, arguments) == INTERRUPTED:
            interrupted = True

    with ThreadPoolExecutor(at_a_time) as runners:
        try:
            list(runners.map(make, list(missing(runs, kernels, out))))
        except KeyboardInterrupt:
            interrupted = True  # the runs got the same Ctrl-C, and end in order
    if interrupted:
        sys.exit(INTERRUPTED)
    sys.exit(subprocess.run(["gmem", "statistics", str(out), "--html", str(out / "statistics.html")]).returncode)


if __name__ == "__main__":
    main()
