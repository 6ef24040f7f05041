# SPDX-License-Identifier: GPL-2.0-only
"""The kernel of ``gmem run --host FILE --kernel K``: handed over to a host under SSH before anything is run on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.cache import ContentCache
from harness.host.config.host import HostConfig
from harness.host.config.reaching import reach_host
from harness.host.handover.handing import Handover
from harness.host.handover.order import Order, way_of
from harness.host.reach import Reach
from harness.kernel.progress import Progress, silent
from harness.kernel.record import Kernel
from harness.kernel.store import KernelStore


@dataclass(frozen=True)
class Reached:
    """A connection with a host, and the kernel that was handed over to it; None: it runs the kernel that it runs."""

    reach: Reach
    kernel: Kernel | None = None


def reach_with_kernel(
    config: HostConfig,
    kernel: str | None,
    *,
    notice: Callable[[str], None],
    patches: Sequence[Path] = (),
    command_line: str = "",
    progress: Progress = silent,
) -> Reached:
    """Connect with a host; where a kernel, patches or a command line are asked for, they are made to run there first.

    Raises ``NoBootError`` when the kernel does not come up.
    """
    if not (kernel or patches or command_line):
        return Reached(reach_host(config))
    way = way_of(config, append=command_line)
    store = KernelStore(ContentCache(notify=notice), progress=progress)
    made = store.resolve(kernel, patches=patches)
    done = Handover(config, Order(made, way), notice=notice).do(again=False)
    notice(f"{config.name} runs {done.running.text}: {done.compared}")
    return Reached(done.reach, made)
