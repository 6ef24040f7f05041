# SPDX-License-Identifier: GPL-2.0-only
"""What ``gmem lab up`` does before a holder takes over: room for the testbed, kernel and images, a saved state."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from harness.errors import GmemError, InfraError, UsageError
from harness.guest.launch import SNP_STAND_IN
from harness.host.emulated.prepare import Clock, Phase
from harness.host.emulated.state import MachineRecord, TestbedSpec, TestbedState
from harness.host.emulated.testbed import DESCRIPTION, MACHINE, STATE_FILE
from harness.host.lab import ending
from harness.host.lab.find import look
from harness.host.lab.place import Place
from harness.host.lab.record import Plan, error_of
from harness.report.text import one_line
from harness.run.lab import make_lab


def make_room(place: Place) -> None:
    """What a testbed that died has left is gone afterwards, but for its evidence."""
    found = look(place)
    if found is not None:
        ending.clear(found)
        note(f"the last testbed {place.name} had died; its evidence is kept in {place.evidence_before}")
    if not ending.wait_until(lambda: not place.held(), ending.END_SECONDS):
        raise InfraError(f"a process without a record holds {place.folder}: {place.lock().holder()}; end it")
    place.make()
    place.sweep()


@contextlib.contextmanager
def evidence_named(place: Place) -> Iterator[None]:
    """An error on the way up says where to look."""
    try:
        yield
    except GmemError as error:
        if not place.evidence.exists():
            raise
        raise error_of(error.exit_code, f"{error}; the evidence is in {place.evidence}") from error


def plan_to_make(
    place: Place, spec: TestbedSpec, kernel: str | None, patches: list[Path], clocks: dict[str, Clock], *, fresh: bool
) -> Plan:
    launch = spec.guests[0].launch if spec.guests else SNP_STAND_IN
    made = make_lab(kernel, clock=clocks["prepare"], notice=note, patches=patches, progress=_Building(), launch=launch)
    saved = ""
    make_room(place)
    if not fresh:
        began, boot = time.monotonic(), clocks["boot and save"]
        with evidence_named(place):
            saved = str(made.lab.saved(spec, place.evidence / "boot", boot))
        checked = time.monotonic() - began - sum(phase.seconds for phase in boot.phases)
        clocks["prepare"].phases.append(Phase("saved testbed", checked))
    return Plan(
        root=str(place.root),
        name=place.name,
        image=str(made.lab.kernel),
        initrd=str(made.lab.initrd),
        spec=spec,
        saved=saved,
        kernel=f"{made.kernel.name} ({made.kernel.origin})",
        origin=f"restored from {saved}" if saved else "booted afresh",
        guest_kind=spec.guests[0].launch.kind_text if spec.guests else "none",
    )


def plan_from_state(place: Place, folder: Path) -> Plan:
    missing = [name for name in (STATE_FILE, DESCRIPTION, MACHINE) if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{folder} holds no saved testbed: it has no {missing[0]}; name a folder that gmem lab save wrote, or the "
            "folder testbed in the evidence of a case of gmem run --keep"
        )
    TestbedState.load(folder / DESCRIPTION)
    record = MachineRecord.load(folder / MACHINE)
    return Plan(
        root=str(place.root),
        name=place.name,
        image=record.kernel,
        initrd=record.initrd,
        spec=record.spec,
        saved=str(folder),
        kernel=record.kernel,
        origin=f"restored from {folder}",
        guest_kind=record.spec.guests[0].launch.kind_text if record.spec.guests else "none",
    )


class _Building:
    """A line for every tenth of a long phase of making a kernel."""

    def __init__(self) -> None:
        self._told = ("", -1)

    def __call__(self, phase: str, done: int, total: int | None, /) -> None:
        tenths = done * 10 // total if total else 0
        if (phase, tenths) != self._told:
            self._told = (phase, tenths)
            note(f"kernel: {phase} {tenths * 10} %" if total else f"kernel: {phase}")


def note(line: str) -> None:
    print(one_line(line), file=sys.stderr, flush=True)
