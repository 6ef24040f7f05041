# SPDX-License-Identifier: GPL-2.0-only
"""What ``gmem lab`` prints about a testbed."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime
from typing import Any, Final

from harness.errors import InfraError
from harness.host.emulated.prepare import Phase
from harness.host.emulated.state import TestbedState
from harness.host.lab import client
from harness.host.lab.find import Found, option
from harness.report.text import one_line

RESTORED: Final = ("start QEMU", "load", "first answers")
BOOTED: Final = ("kernel", "user space", "guests", "regions")


def say_up(found: Found, parts: dict[str, list[Phase]], total: float, *, timings: bool, as_json: bool) -> None:
    plan = found.record.plan
    what, counted = ("restore", RESTORED) if plan.saved else ("boot", BOOTED)
    answered = sum(phase.seconds for phase in parts[what] if phase.name in counted)
    if as_json:
        rows = [
            {"part": part, "phase": phase.name, "seconds": round(phase.seconds, 4)}
            for part, phases in parts.items()
            for phase in phases
        ]
        print_json(described(found) | {"answered": round(answered, 4), "phases": rows, "seconds": round(total, 4)})
        return
    if timings:
        for part, phases in parts.items():
            print(f"{part}:")
            for phase in phases:
                print(f"  {phase.name:<36}{phase.seconds:8.3f} s")
        print(f"{what + ' to first answered command':<38}{answered:8.3f} s")
        print(f"{'total':<38}{total:8.3f} s")
    words = option(found.name)
    print(
        f"testbed {found.name} is up; gmem lab guest{words} -- uname -a runs a command in it, gmem lab down{words} "
        "ends it"
    )


def print_status(found: Found, told: dict[str, Any]) -> None:
    """``told`` is what :func:`described` says of a testbed that is up."""
    rows: dict[str, Any] = {
        "kernel": f"{told['release']}: {told['kernel']}",
        "origin": told["origin"],
        "guests": f"{told['guest_kind']}, region r0 of {told['chunks']} chunks each",
        **{name: one_line(str(state)) for name, state in told["health"].items()},
        "holder": f"process {told['holder']}; outer QEMU is process {told['qemu']}",
        "evidence": told["evidence"],
    }
    print(f"testbed {found.name} is up, since {told['since']} ({found.age})")
    for label, text in rows.items():
        print(f"  {label + ':':<10}{text}")


def described(found: Found, *, health: bool = False) -> dict[str, Any]:
    """Everything that is known of a testbed, for ``--json``."""
    record = found.record
    words: dict[str, Any] = {
        "chunks": record.plan.spec.chunks,
        "evidence": str(found.place.evidence),
        "guest_kind": record.plan.guest_kind,
        "guests": [guest.name for guest in record.plan.spec.guests],
        "holder": record.holder,
        "kernel": record.plan.kernel,
        "name": found.name,
        "origin": record.plan.origin,
        "qemu": record.qemu,
        "run": record.run,
        "since": datetime.fromtimestamp(record.began).astimezone().isoformat(timespec="seconds"),
        "up": found.alive,
    }
    if not found.alive:
        return words | {"death": found.death()}
    with contextlib.suppress(InfraError):  # only while it is starting
        words["release"] = TestbedState.load(found.place.state).release
    return words | ({"health": client.ask(found, "status")["health"]} if health else {})


def print_json(words: dict[str, Any]) -> None:
    print(json.dumps(words, indent=1, sort_keys=True))
