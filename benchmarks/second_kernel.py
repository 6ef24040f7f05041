# SPDX-License-Identifier: GPL-2.0-only
"""What a second kernel of a series costs once the first is built: ``python benchmarks/second_kernel.py [NAME...]``.

Each kernel is built from where the stock one left the work place, with a line of its own in virt/kvm/guest_memfd.c, so
that no image in the cache fits, and with ccache told to forget: what is compiled is what the patches change and what
includes it.  Beside it what ccache makes of the same build.  Nothing is asserted; the target is printed beside.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from series import Others, Series, number, surroundings

from harness.kernel.store import KernelStore

TARGET_SECONDS = 60.0
"""On two cores at rest."""
FIRST = "#include <linux/anon_inodes.h>"
"""Second line of virt/kvm/guest_memfd.c, in every series; the line of our own goes before it."""


def with_a_line(folder: Path, series: str) -> Path:
    """A patch that adds a line which no kernel had before."""
    mark = os.urandom(8).hex()
    lines = ["// SPDX-License-Identifier: GPL-2.0", f"/* {mark} */", FIRST]
    patch = folder / f"{series}-{mark}.patch"
    path = "virt/kvm/guest_memfd.c"
    body = f" {lines[0]}\n+{lines[1]}\n {lines[2]}\n"
    patch.write_text(f"--- a/{path}\n+++ b/{path}\n@@ -1,2 +1,3 @@\n{body}")
    return patch


@contextmanager
def forgetful(on: bool) -> Iterator[None]:
    """ccache compiles everything anew."""
    if on:
        os.environ["CCACHE_RECACHE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("CCACHE_RECACHE", None)


def measure(store: KernelStore, name: str, folder: Path, times: int) -> list[Series]:
    """From the stock kernel of its series to the named one, compiled and from ccache."""
    recipe = store.catalog.recipe(name)
    compiled, cached = Series(f"{name}, compiled", "s"), Series(f"{name}, as ccache has it", "s")
    for _ in range(times):
        for series, forget in ((compiled, True), (cached, False)):
            store.resolve(recipe.series, patches=[with_a_line(folder, recipe.series)])
            with forgetful(forget), series.timed():
                store.resolve(name, patches=[with_a_line(folder, name)])
    return [compiled, cached]


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--times", type=click.IntRange(1), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One object on standard output.")
def main(names: tuple[str, ...], times: int, as_json: bool) -> None:
    store = KernelStore()
    series = store.catalog.recipe(store.catalog.default).series
    if not names:
        known = (store.catalog.recipe(name) for name in store.catalog.names())
        names = tuple(recipe.name for recipe in known if recipe.series == series and recipe.patches)
    found: list[Series] = []
    others = Others()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print(f"building {name}", file=sys.stderr)
            found += measure(store, name, Path(folder), times)
    if as_json:
        print(json.dumps({**surroundings(), "series": {one.name: one.plain() for one in found}}, sort_keys=True))
        return
    for one in found:
        print(f"{one.line()}  {number(one.median / TARGET_SECONDS)} of the {TARGET_SECONDS:g} s that it may take")
    print(f"  other programs took {others.share():.0%} of the CPUs meanwhile")


if __name__ == "__main__":
    main()
