# SPDX-License-Identifier: GPL-2.0-only
"""Requests to the holder of a testbed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.errors import InfraError
from harness.guest.ssh import SshSession
from harness.host.emulated.machine import MIGRATE_SECONDS
from harness.host.emulated.reach import HOST, ssh_to
from harness.host.emulated.state import TestbedState
from harness.host.lab.find import DeadTestbed, Found, NoTestbed, look, option
from harness.host.lab.record import error_of

QUICK_SECONDS = 30.0
"""Deadline for a reply; the holder itself waits for a save to end, for a monitor and for a control program."""


def ask(found: Found, verb: str, *, timeout: float = QUICK_SECONDS, **words: Any) -> dict[str, Any]:
    """One request to the holder.  Raises the error that it reports, or ``InfraError`` when it does not answer."""
    request = json.dumps({"do": verb, **words}, sort_keys=True).encode() + b"\n"
    try:
        with found.place.connect(timeout) as connection, connection.makefile("rb") as lines:
            connection.sendall(request)
            line = lines.readline()
            reply = json.loads(line) if line else None
    except (OSError, ValueError) as error:
        _raise_if_dead(found)
        raise InfraError(
            f"the holder of testbed {found.name} (process {found.record.holder}) does not answer {verb} within "
            f"{timeout:g} s ({error}); gmem lab down{option(found.name)} ends it"
        ) from error
    if reply is None:
        _raise_if_dead(found)
        raise InfraError(f"testbed {found.name} ended while it was asked for {verb}")
    if "error" in reply:
        raise error_of(int(reply["code"]), str(reply["error"]))
    return dict(reply)


def _raise_if_dead(found: Found) -> None:
    now = look(found.place)
    if now is None:
        raise NoTestbed(f"testbed {found.name} was ended by another command")
    if not now.alive:
        raise DeadTestbed(now.death())


def save(found: Found, folder: Path) -> dict[str, Any]:
    """Save into an empty folder; returns ``seconds`` and ``bytes``."""
    return ask(found, "save", timeout=MIGRATE_SECONDS + QUICK_SECONDS, folder=str(folder.absolute()))


def ssh(found: Found, machine: str) -> SshSession:
    """An SSH session with ``host`` or a guest."""
    port = int(ask(found, "ssh", machine=machine)["port"])
    return ssh_to(machine, found.record.plan.spec, TestbedState.load(found.place.state).keys(), port)


def ssh_config(found: Found) -> Path:
    """A configuration of OpenSSH in the testbed's folder, with key and pinned host key; host ``gmem-lab-NAME``."""
    port = int(ask(found, "ssh", machine=HOST)["port"])
    keys = TestbedState.load(found.place.state).keys()
    folder = found.place.folder
    key, known, config = folder / "ssh_key", folder / "ssh_known_hosts", folder / "ssh_config"
    key.touch(mode=0o600)
    key.write_text(keys.user.private)
    known.write_text(f"[127.0.0.1]:{port} {keys.machines[HOST].public}\n")
    lines = [
        f"Host gmem-lab-{found.name}",
        "HostName 127.0.0.1",
        f"Port {port}",
        "User root",
        f'IdentityFile "{key}"',
        "IdentitiesOnly yes",
        f'UserKnownHostsFile "{known}"',
        "StrictHostKeyChecking yes",
    ]
    config.write_text("\n    ".join(lines) + "\n")
    return config
