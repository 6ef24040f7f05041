# SPDX-License-Identifier: GPL-2.0-only
"""What the model costs: ``python benchmarks/model.py [--json] [--repeat N]``.

Curves of a large guest, each in a process of its own on one CPU, so that its peak memory is its own; how the time grows
with conversions and with the guest; and predictions of the size that a suite's case has.  The targets are printed
beside the figures; nothing is asserted, because a busy machine says nothing about the model.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
from series import Others, Series, number, surroundings

from harness.cli.model_steps import SYNTHETIC_START
from harness.model.curves.designs import backing_named, design_named
from harness.model.curves.host import HostMemory
from harness.model.curves.simulate import simulate
from harness.model.curves.streams import StreamSpec
from harness.model.designs import design_named as step_design
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.scenario.region import G0
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Check, Convert, Populate, Side

DESIGNS = ("order0", "thp-discard", "inplace-thp")
LARGE, SMALL = 1 << 29, 1 << 24
"""Guest pages: 2 TiB and 64 GiB."""
MANY, FEW = 1_000_000, 250_000
"""Conversions of single random pages."""
MOST_SECONDS, MOST_MIB, MOST_MS = 5.0, 1024, 10.0
"""Targets: one design at 2 TiB and a million conversions; a prediction of the size of a suite's case."""

CASE = Scenario(
    "a case of a suite",
    (
        Convert(G0[0:4096], Side.PRIVATE), Populate(G0[0:4096]), Convert(G0[7], Side.SHARED),
        Populate(G0[7]), Convert(G0[7], Side.PRIVATE), Populate(G0[7]), Check(G0[0:4096], "either"),
        Convert(G0[512:1024], Side.SHARED), Populate(G0[512:1024]), Convert(G0[0:4096], Side.SHARED),
    ),
)  # fmt: skip
"""Ten steps on a region of 8 chunks: what a case of suites/conversion has, or more."""


@dataclass(frozen=True)
class Cost:
    """One simulation in a process of its own."""

    seconds: float
    cpu_seconds: float
    mib: float


def simulate_once(design: str, guest_pages: int, conversions: int) -> Cost:
    """In this process: draws the stream and follows it."""
    began, used = time.perf_counter(), time.process_time()
    stream = StreamSpec("random").draw(guest_pages, conversions, seed=1)
    curves = simulate(stream, design_named(design), backing_named("anon-4k"), HostMemory.synthetic(guest_pages))
    assert not curves.ended
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(time.perf_counter() - began, time.process_time() - used, peak)


def in_own_process(design: str, guest_pages: int, conversions: int) -> Cost:
    """The same in a new process."""
    words = [sys.executable, str(Path(__file__)), "--only", design, str(guest_pages), str(conversions)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600)
    return Cost(**json.loads(done.stdout))


def predictions(repeat: int) -> list[Series]:
    """predict() of a case's size, in milliseconds."""
    found = []
    for design in DESIGNS:
        series = Series(f"predict(), {len(CASE.steps)} steps on 8 chunks, {design}", "ms")
        rules, facts = step_design(design), HostFacts(ncpu=2)
        for _ in range(repeat + 1):
            with series.timed():
                predict(CASE, rules, {**SYNTHETIC_START, "gmem/g0": 0}, facts)
        series.values = [seconds * 1e3 for seconds in series.values[1:]]  # the first fills caches
        found.append(series)
    return found


def curves(repeat: int) -> tuple[list[Series], dict[str, float]]:
    """Times and peak memory of the curves, and their ratios by name."""
    found, ratios = [], {}
    for design in DESIGNS:
        costs = {
            (pages, count): [in_own_process(design, pages, count) for _ in range(repeat)]
            for pages, count in ((LARGE, MANY), (LARGE, FEW), (SMALL, FEW), (SMALL, MANY))
        }
        for (pages, count), measured in costs.items():
            name = f"{design}, {'2 TiB' if pages == LARGE else '64 GiB'}, {count} conversions"
            found.append(Series(name, "s", [cost.seconds for cost in measured]))
            if (pages, count) == (LARGE, MANY):
                found.append(Series("  of it CPU time", "s", [cost.cpu_seconds for cost in measured]))
                found.append(Series("  peak memory of the process", "MiB", [cost.mib for cost in measured]))
        cpu = {key: min(cost.cpu_seconds for cost in measured) for key, measured in costs.items()}
        ratios[f"{design}: CPU time of {MANY} to {FEW} conversions (linear: {MANY / FEW:.3g})"] = (
            cpu[LARGE, MANY] / cpu[LARGE, FEW]
        )
        ratios[f"{design}: CPU time of 2 TiB to 64 GiB, {MANY} conversions each"] = cpu[LARGE, MANY] / cpu[SMALL, MANY]
    return found, ratios


def report(repeat: int) -> dict[str, object]:
    """All of it, as text and plain."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    others = Others()
    curved, ratios = curves(repeat)
    steps = predictions(10 * repeat)
    share = others.share()
    lines = [
        f"curves: targets are {MOST_SECONDS:g} s and {MOST_MIB} MiB per design at 2 TiB and {MANY} conversions",
        *(series.line() for series in curved), "growth",
        *(f"  {name:<76} {number(ratio):>6}" for name, ratio in ratios.items()),
        f"predictions: target is {MOST_MS:g} ms", *(series.line() for series in steps),
        f"other programs took {100 * share:.0f} % of the machine meanwhile",
    ]  # fmt: skip
    plain = {
        "growth": ratios,
        "other_programs": share,
        "series": {series.name: series.plain() for series in steps},
        "curves": [{"name": series.name, **series.plain()} for series in curved],
        "surroundings": surroundings(),
        "targets": {"mib": MOST_MIB, "prediction_ms": MOST_MS, "seconds": MOST_SECONDS},
    }
    return {"plain": plain, "text": "\n".join(lines)}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--repeat", type=click.IntRange(1, 100), default=3, show_default=True, help="Values of each quantity.")
@click.option("--only", nargs=3, metavar="DESIGN PAGES CONVERSIONS", hidden=True)
def main(as_json: bool, repeat: int, only: tuple[str, str, str] | None) -> None:
    """Measure what the model costs."""
    if only:
        print(json.dumps(vars(simulate_once(only[0], int(only[1]), int(only[2])))))
        return
    found = report(repeat)
    print(json.dumps(found["plain"], indent=1, sort_keys=True) if as_json else found["text"])


if __name__ == "__main__":
    main()
