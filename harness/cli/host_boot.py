# SPDX-License-Identifier: GPL-2.0-only
"""``gmem host boot``: another kernel on a host under test, once."""

from __future__ import annotations

import click

from harness.cache import ContentCache
from harness.cli.lab_plan import note
from harness.host.config.load import load_host
from harness.host.handover.handing import Handover
from harness.host.handover.order import Order, way_of
from harness.kernel.store import KernelStore


@click.command("boot")
@click.option("--host", required=True, metavar="NAME|FILE", help="The host's file.")
@click.option("--kernel", metavar="NAME|TREE|IMAGE", help="What to boot (default: that of kernels.yaml).")
@click.option("--how", type=click.Choice(["kexec", "grub", "hooks"]), help="Default: handover.how of the host's file.")
@click.option("--initrd", metavar="FILE", help="Default: handover.initrd of the host's file; '' is none.")
@click.option("--append", default="", metavar="WORDS", help="Words behind the command line that the host has now.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Until the host has to answer again.")
def boot_command(
    host: str, kernel: str | None, how: str | None, initrd: str | None, append: str, seconds: float | None
) -> int:
    """Put a kernel on a host, boot it once, and make sure that it is the one that runs.

    Exit code 7 means that it did not come up; the sentence says what runs instead.
    """
    config = load_host(host)
    way = way_of(
        config, how=how, initrd=initrd, append=append, seconds=seconds
    )  # wrong words, before a kernel is built
    order = Order(KernelStore(ContentCache(notify=note)).resolve(kernel), way)
    done = Handover(config, order, notice=note).do()
    done.reach.close()
    click.echo(f"{config.name} runs {done.running.text}, {done.seconds:.1f} s after the restart")
    click.echo(f"proof: {done.compared}")
    click.echo(f"before: {done.before.text}")
    return 0
