# SPDX-License-Identifier: GPL-2.0-only
"""Predictions one step at a time, with a look at the host where a step leaves it in a state that no rule can tell.

How many large folios there are behind memory pressure follows from the free lists as they are then; a sample has them.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.model import room
from harness.model.aligned import PMD_ORDER
from harness.model.context import Backing, Design
from harness.model.facts import HostFacts
from harness.model.physics import ALLOWANCES
from harness.model.predict import World, predict_step, set_out
from harness.model.prediction import StepPrediction
from harness.model.shared import ANON_4K
from harness.model.state import RegionState
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Pressure, Step


def looks(step: Step) -> bool:
    """Whether a sample after ``step`` makes the predictions behind it sharper."""
    return isinstance(step, Pressure)


class Course:
    """One walk over the steps of a scenario; arguments and errors as of :func:`harness.model.predict.predict`."""

    def __init__(
        self,
        scenario: Scenario,
        design: Design,
        start: Mapping[str, int],
        facts: HostFacts,
        *,
        backing: Backing = ANON_4K,
        regions: Mapping[str, RegionState] | None = None,
    ) -> None:
        self._steps = scenario.steps
        self._world = World(design, design.shared_side or backing, start, facts, ALLOWANCES)
        self._walk = set_out(scenario, self._world, regions or {})
        self._next = 0

    def predict(self) -> StepPrediction:
        """The prediction of the next step; IndexError behind the last one."""
        index = self._next
        self._next += 1
        return predict_step(index, self._steps[index], self._world, self._walk)

    def seen(self, raw: Mapping[str, str], values: Mapping[str, int]) -> None:
        """The sample after the step predicted last: the kernel's texts and the values made of them.

        It is of use where one side alone asks for large folios, of 2 MiB.
        """
        world, walk = self._world, self._walk
        if walk.worlds is None or not looks(self._steps[self._next - 1]):
            return
        if world.design.order != PMD_ORDER or world.backing.falls_back:
            return
        behind = {guest for step in self._steps[self._next :] if step.ranges() for guest in step.guest_names()}
        placed = all(guest in walk.cpus for guest in behind)
        walk.room = room.from_sample(raw, values, world.facts, placed)
