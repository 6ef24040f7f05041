# SPDX-License-Identifier: GPL-2.0-only
"""SSH into a testbed from anywhere that may reach the forwarded port: the process that holds it, or another one."""

from __future__ import annotations

from harness.errors import GmemError, UsageError
from harness.guest.ssh import Keys, SshSession
from harness.host.emulated.state import TestbedSpec

HOST = "host"


def ssh_to(name: str, spec: TestbedSpec, keys: Keys, port: int, *, timeout: float = 60.0) -> SshSession:
    """A session with ``host``, or through it with the guest ``name``; close it after use.

    ``port`` on the loopback leads to the emulated host.  Raises ``UsageError`` for an unknown guest, ``SshError`` when
    no session stands within ``timeout`` seconds for each of the two machines.
    """
    guest = next((guest for guest in spec.guests if guest.name == name), None)
    if guest is None and name != HOST:
        known = ", ".join(guest.name for guest in spec.guests)
        raise UsageError(f"the testbed has no guest {name}: it has {known or 'none'}")
    host = SshSession(HOST, keys, port, timeout=timeout)
    if guest is None:
        return host
    try:
        return SshSession(name, keys, guest.ssh_port, through=host, timeout=timeout)
    except GmemError:
        host.close()
        raise
