# SPDX-License-Identifier: GPL-2.0-only
"""Commands of the laboratory, which the host's file names; they run on this machine.

A hook runs in a folder that has ``bzImage``, ``initrd`` if there is one, and ``cmdline``; ``GMEM_HOST``,
``GMEM_KERNEL_RELEASE`` and ``GMEM_FOLDER`` are in its environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from harness.errors import InfraError, UsageError
from harness.host.config.host import Command, HostConfig
from harness.host.handover.order import Order, shown
from harness.host.handover.running import Running

HOOK_SECONDS: Final = 900.0


def install(config: HostConfig, order: Order, before: Running) -> None:
    """Run ``hooks.install_kernel`` and ``hooks.boot_once``; raises ``UsageError`` where the file has neither."""
    hooks = config.hooks
    if not (hooks.install_kernel or hooks.boot_once):
        raise UsageError(f"the file of {config.name} has neither hooks.install_kernel nor hooks.boot_once")
    with tempfile.TemporaryDirectory(prefix="gmem-handover-") as name:
        folder = Path(name)
        (folder / "bzImage").write_bytes(order.image())
        initrd = order.initrd_bytes()
        if initrd is not None:
            (folder / "initrd").write_bytes(initrd)
        (folder / "cmdline").write_text(order.command_line(before.command_line) + "\n")
        words = {"GMEM_KERNEL_RELEASE": order.kernel.release, "GMEM_FOLDER": name}
        for key, command in (("install_kernel", hooks.install_kernel), ("boot_once", hooks.boot_once)):
            if command:
                run_hook(config, key, command, folder, words)


def power_cycle(config: HostConfig) -> None:
    """Run ``hooks.power_cycle``, which must be there."""
    run_hook(config, "power_cycle", config.hooks.power_cycle, None, {})


def run_hook(config: HostConfig, key: str, command: Command, folder: Path | None, words: Mapping[str, str]) -> None:
    """One hook to its end; raises ``InfraError`` with its last words."""
    named = f"hooks.{key} of {config.name} ({shown(command)})"
    try:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "GMEM_HOST": config.name, **words},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise InfraError(f"{named} cannot be run: {error.strerror}") from error
    try:
        output, _ = child.communicate(timeout=HOOK_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise InfraError(f"{named} did not end within {HOOK_SECONDS:g} s") from error
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode:
        said = output.decode("utf-8", "replace").strip().splitlines()
        raise InfraError(f"{named} ended with status {child.returncode}: {said[-1] if said else 'it printed nothing'}")
