# SPDX-License-Identifier: GPL-2.0-only
"""One visit to a host for what its file asks of it, and what keeps guests of one kind from it."""

from __future__ import annotations

from harness.errors import NothingRanError
from harness.host.capabilities.decide import decide
from harness.host.capabilities.gather import gather
from harness.host.capabilities.record import HostProbe
from harness.host.capabilities.require import missing, missing_for
from harness.host.config.host import HostConfig
from harness.host.config.knobs import before_each, wanted
from harness.host.reach import Reach


def visit(reach: Reach, config: HostConfig) -> HostProbe:
    """Everything that is judged of the host of that file; raises ``ReachError`` when it cannot be reached."""
    paths = [path for path, _ in before_each(config)]
    return gather(
        reach,
        qemu=config.qemu.binary,
        firmware={str(kind): path for kind, path in config.qemu.firmware.items()},
        files=list(wanted(config)),
        present=[*paths, *config.qemu.firmware.values()],
    )


def check_host(config: HostConfig, probe: HostProbe, kind: str) -> None:
    """Raises ``NothingRanError`` where guests of that kind cannot be had, or where the host's file asks for more.

    The sentence has what comes first, with what mends it: the rest mostly follows from that.
    """
    found = [*missing_for(kind, decide(probe)), *missing(config, probe)]
    if not found:
        return
    first = found[0]
    fix = f"; fix: {first.fix}" if first.fix else ""
    more = f" (and {len(found) - 1} more: gmem doctor --host {config.name})" if len(found) > 1 else ""
    raise NothingRanError(f"host {config.name} is not ready, {first.what}: {first.reason}{fix}{more}")
