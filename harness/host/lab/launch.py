# SPDX-License-Identifier: GPL-2.0-only
"""Starts the holder of a new testbed and waits until the testbed is up."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

import harness
from harness.errors import InfraError
from harness.host.emulated.launching import GUEST_SECONDS
from harness.host.emulated.machine import MIGRATE_SECONDS
from harness.host.emulated.prepare import BOOT_SECONDS, Phase
from harness.host.lab.ending import END_SECONDS, wait_until
from harness.host.lab.place import Place
from harness.host.lab.record import Plan, error_of

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "harness.host.lab.holder")
START_SECONDS = 60.0
"""Deadline for the holder's own start and for a restored testbed's answers, together."""


def launch(
    plan: Plan, *, phase: Callable[[str], None] = lambda name: None, program: Sequence[str] = PROGRAM
) -> list[Phase]:
    """Start a holder for the plan; returns its phases when the testbed is up.

    Raises the error that kept it from coming up; nothing is left then, nor after a ``KeyboardInterrupt``.
    """
    place = Place(Path(plan.root), plan.name)
    place.make()
    began = time.monotonic()
    ours, theirs = socket.socketpair()
    try:
        with ours:
            with theirs:
                starter = _start(place, program, theirs)
            ours.sendall(msgspec.json.encode(plan) + b"\n")
            starter.wait(START_SECONDS)  # it detaches as soon as it has its plan
            phases = _outcome(plan, ours, phase, began, place)
            ours.sendall(b"keep\n")
            return phases
    except BaseException as error:  # our end of the socket is closed: so the holder ends
        wait_until(lambda: not place.held(), END_SECONDS)
        if isinstance(error, OSError | subprocess.TimeoutExpired):
            raise InfraError(f"the holder of testbed {plan.name} does not start: {_log_end(place)}") from error
        raise


def _start(place: Place, program: Sequence[str], theirs: socket.socket) -> subprocess.Popen[bytes]:
    with place.log.open("ab") as log:
        return subprocess.Popen(
            [*program, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=Path(harness.__file__).parents[1],  # so that -m finds this package, and nothing of the user's folder
            start_new_session=True,  # a Ctrl-C of the terminal is not for it
        )


def _log_end(place: Place) -> str:
    """The last line that the holder printed, for an error's sentence."""
    lines = place.log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it printed nothing"


def _outcome(plan: Plan, ours: socket.socket, phase: Callable[[str], None], began: float, place: Place) -> list[Phase]:
    """Follow the holder until the testbed is up."""
    boot = BOOT_SECONDS + (GUEST_SECONDS + BOOT_SECONDS) * len(plan.spec.guests)
    end = began + START_SECONDS + MIGRATE_SECONDS + (0.0 if plan.saved else boot)
    first = 0.0
    with ours.makefile("rb") as lines:
        while True:
            ours.settimeout(max(0.001, end - time.monotonic()))
            try:
                line = lines.readline()
            except TimeoutError:
                raise InfraError(f"the testbed did not come up within {end - began:.0f} s") from None
            if not line:
                raise InfraError(f"the holder of testbed {plan.name} ended while it was starting: {_log_end(place)}")
            words = json.loads(line)
            first = first or time.monotonic() - began
            if "failed" in words:
                raise error_of(int(words["code"]), str(words["failed"]))
            if "up" in words:
                return [Phase("start the holder", first), *(Phase(str(n), float(s)) for n, s in words["up"])]
            phase(str(words.get("phase", "")))
