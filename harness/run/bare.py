# SPDX-License-Identifier: GPL-2.0-only
"""Which scenarios a bare guest_memfd can carry out; see ``harness/host/local``."""

from __future__ import annotations

from harness.errors import NothingRanError
from harness.guest.backing import ANON_4K
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Check, Close, Empty, Fallocate, Populate, PunchHole, Settle, Touch

STEPS = (Populate, Touch, Check, Fallocate, PunchHole, Close, Settle, Empty)


def check_bare(scenario: Scenario) -> None:
    """Raises ``NothingRanError`` with what the scenario asks for that takes a guest, or a host that is ours alone."""
    for index, step in enumerate(scenario.steps):
        if not isinstance(step, STEPS):
            raise NothingRanError(
                f"step {index} ({step.text()}) takes a guest that runs, or changes the whole host: a bare guest_memfd"
                " has none of it"
            )
    wanted = {
        "frames": scenario.frames,
        "pcp_room": scenario.pcp_room,
        f"backing {scenario.backing}": scenario.backing != ANON_4K.name,
    }
    for what, asked in wanted.items():
        if asked:
            raise NothingRanError(f"the scenario asks for {what}, which a bare guest_memfd does not have")
