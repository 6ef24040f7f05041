# SPDX-License-Identifier: GPL-2.0-only
"""``gmem kernel``: which kernels there are, fetch their source, build them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.kernel import progress as kernel_progress
from harness.kernel.catalog import HOST_CONFIGS, Catalog
from harness.kernel.record import Kernel
from harness.kernel.store import KernelStore
from harness.report.text import one_line

# A plain line at most this often, in seconds: a build of five minutes is ten lines in a log.
LINE_SECONDS = 30.0

_PHASES = {
    "fetch": "fetching the kernel source",
    "extract": "unpacking the kernel source",
    "build": "building the kernel",
}

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
_file = click.option(
    "--kernels",
    "catalog",
    type=click.Path(path_type=Path),
    default=HOST_CONFIGS / "kernels.yaml",
    show_default="host-configs/kernels.yaml",
    help="The list of named kernels.",
)


@click.group("kernel")
def kernel_group() -> None:
    """Kernels to test: list, fetch, build."""


@kernel_group.command("list")
@_file
@_json
def list_command(catalog: Path, as_json: bool) -> None:
    """Show the named kernels, which version of each is here, and whether it is built."""
    store = KernelStore(catalog=Catalog.load(catalog))
    rows = [_row(store, name) for name in store.catalog.names()]
    if as_json:
        _print_json({"default": store.catalog.default, "kernels": rows})
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("NAME", "FETCHED", "BUILT", "PATCHES", "NOTE"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        name = f"{row['name']} (default)" if row["name"] == store.catalog.default else str(row["name"])
        built = "yes" if row["built"] else "no"
        patches = row["patches"]
        assert isinstance(patches, list)
        table.add_row(name, str(row["version"] or "no"), built, ", ".join(patches) or "none", str(row["note"]))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, markup=False, highlight=False).print(table)


@kernel_group.command("fetch")
@click.argument("name", required=False)
@_file
@_json
def fetch_command(name: str | None, catalog: Path, as_json: bool) -> None:
    """Fetch the newest source of kernel NAME that its suites offer; it is used from now on.

    Without NAME: the default kernel.
    """
    with progress_view() as view:
        store = KernelStore(catalog=Catalog.load(catalog), progress=view)
        pin = store.fetch(name or store.catalog.default)
    if as_json:
        _print_json({"package": pin.package, "sha256": pin.sha256, "suite": pin.suite, "version": pin.version})
    else:
        print(pin.origin)


@kernel_group.command("build")
@click.argument("kernel", required=False)
@click.option(
    "--patch",
    "patches",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Apply this patch (patch -p1) after those of the kernel; may be repeated.",
)
@_file
@_json
def build_command(kernel: str | None, patches: tuple[Path, ...], catalog: Path, as_json: bool) -> None:
    """Build KERNEL (a name, a source tree or a bzImage) and print where the image is.

    Without KERNEL: the default kernel.  What is already built is not built again.
    """
    with progress_view() as view:
        built = KernelStore(catalog=Catalog.load(catalog), progress=view).resolve(kernel, patches=patches)
    if as_json:
        _print_json(built.describe())
    else:
        for line in _lines(built):
            print(line)


def _row(store: KernelStore, name: str) -> dict[str, object]:
    recipe = store.catalog.recipe(name)
    pin = store.packages.pinned(recipe)
    built = store.built(name) if pin is not None and store.can_build() else None
    return {
        "built": None if built is None else str(built.image),
        "name": name,
        "note": recipe.note,
        "package": recipe.package,
        "patches": [patch.name for patch in recipe.patches],
        "suites": list(store.packages.apt.suites(recipe.suites)),
        "version": None if pin is None else pin.version,
    }


def _lines(kernel: Kernel) -> list[str]:
    return [
        f"image    {kernel.image}",
        f"release  {one_line(kernel.release)}",
        f"version  {one_line(kernel.version)}",
        f"origin   {one_line(kernel.origin)}",
        f"patches  {', '.join(kernel.patches) or 'none'}",
        f"config   {kernel.config or 'unknown'}",
        f"key      {kernel.key}",
    ]


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, sort_keys=True))


class PlainLines:
    """Progress as lines on standard error: the beginning of each phase, then one every half minute."""

    def __init__(self) -> None:
        self._phase = ""
        self._next = 0.0

    def __call__(self, phase: str, done: int, total: int | None, /) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase = phase
            print(f"{_PHASES.get(phase, phase)} ...", file=sys.stderr, flush=True)
        elif now >= self._next:
            how_far = f"{done}" if total is None else f"{100 * done // max(1, total)} %"
            print(f"{_PHASES.get(phase, phase)}: {how_far}", file=sys.stderr, flush=True)
        else:
            return
        self._next = now + LINE_SECONDS


class _Bars:
    """Progress as one bar per phase on a terminal."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, phase: str, done: int, total: int | None, /) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(_PHASES.get(phase, phase), total=total)
        self._bars.update(self._tasks[phase], completed=done, total=total)


@contextmanager
def progress_view() -> Iterator[kernel_progress.Progress]:
    """Shows fetches and builds on standard error: bars on a terminal, lines otherwise."""
    if not sys.stderr.isatty():
        yield PlainLines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars)


__all__ = ["PlainLines", "kernel_group", "progress_view"]
