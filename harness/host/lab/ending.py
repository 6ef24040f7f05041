# SPDX-License-Identifier: GPL-2.0-only
"""Ends a testbed, whatever became of its holder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from harness.errors import InfraError, UsageError
from harness.host.lab.client import ask
from harness.host.lab.find import Found, look
from harness.host.lab.record import LabRecord

END_SECONDS = 30.0
"""Deadline for an orderly end; it takes a tenth of a second."""
HANG_SECONDS = 5.0
"""How long a holder that hangs may take to answer, or to end when it is asked to, before it is killed."""
JANITOR_SECONDS = 10.0
"""How long a janitor may take; one that has not done its work by then was killed too."""
_POLL = 0.02


def end(found: Found) -> None:
    """End a testbed, alive or dead; returns when its processes and files are gone.  Raises ``InfraError``."""
    patience = END_SECONDS
    if found.alive:
        try:
            ask(found, "down", timeout=HANG_SECONDS)
        except (InfraError, UsageError):  # it hangs, or ends already
            _signal_holder(found, signal.SIGTERM)
            patience = HANG_SECONDS
    if not wait_until(lambda: not found.place.held(), patience):
        _signal_holder(found, signal.SIGKILL)
        if not wait_until(lambda: not found.place.held(), END_SECONDS):
            raise InfraError(f"process {found.record.holder}, the holder of testbed {found.name}, cannot be killed")
    clear(look(found.place) or found)
    found.place.remove()


def _signal_holder(found: Found, number: signal.Signals) -> None:
    """Only under the eye of the lock: as long as it is held, the pid in the record is the holder's."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(found.record.holder)
        try:
            if found.place.held():
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def clear(found: Found) -> None:
    """Wait until the janitor of a testbed without a holder has done its work; do it, should it be dead too."""
    record = found.record
    if not record.run or wait_until(lambda: not _left(record), JANITOR_SECONDS):
        return
    if _runs(record):
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.qemu, signal.SIGKILL)
    shutil.rmtree(record.run, ignore_errors=True)
    if not wait_until(lambda: not _left(record), END_SECONDS):
        raise InfraError(f"QEMU (process {record.qemu}) or {record.run} of testbed {found.name} cannot be removed")


def _left(record: LabRecord) -> bool:
    return Path(record.run).exists() or _runs(record)


def _runs(record: LabRecord) -> bool:
    """Whether the outer QEMU of that testbed runs: a process with its pid and its directory on the command line."""
    try:
        return record.run.encode() in Path(f"/proc/{record.qemu}/cmdline").read_bytes()
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)
    return True
