# SPDX-License-Identifier: GPL-2.0-only
"""From a host's file to a connection with it."""

from __future__ import annotations

from harness.errors import UsageError
from harness.host.config.host import HostConfig
from harness.host.reach import LocalReach, Reach, SshReach


def reach_host(config: HostConfig) -> Reach:
    """A connection, which the caller closes; raises ``ReachError``, or ``UsageError`` for the emulated host."""
    if config.ssh is not None:
        return SshReach(config.ssh.target())
    if config.transport == "local":
        return LocalReach()
    raise UsageError(f"the host {config.name} is emulated: the harness starts it itself, there is nothing to reach")
