# SPDX-License-Identifier: GPL-2.0-only
"""What the guest must find in its pages, what it must ask for, and what a scenario may not claim; by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness.errors import UsageError
from harness.model.designs import design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.scenario.scenario import Scenario

# Per case: steps; per Check its runs as (start, count, generation or None for zero).
CONTENTS: dict[str, tuple[list[str], list[list[tuple[int, int, int | None]]]]] = {
    "a converted page comes back as zeroes, its neighbours keep their pattern": (
        [
            "{do: convert, range: 'g0.r0[0:8]', to: private}",
            "{do: populate, range: 'g0.r0[0:8]'}",
            "{do: convert, range: 'g0.r0[5:6]', to: shared}",
            "{do: check, range: 'g0.r0[5:6]', expect: zero}",
            "{do: convert, range: 'g0.r0[5:6]', to: private}",
            "{do: check, range: 'g0.r0[0:8]', expect: either}",
        ],
        [[(5, 1, None)], [(0, 5, 1), (5, 1, None), (6, 2, 1)]],
    ),
    "each write is a generation": (
        [
            "{do: populate, range: 'g0.r0[0:6]'}",
            "{do: touch, range: 'g0.r0[0:6]', write: false}",
            "{do: touch, range: 'g0.r0[1:6]', stride: 3}",
            "{do: check, range: 'g0.r0[0:6]', expect: pattern}",
        ],
        [[(0, 1, 1), (1, 1, 2), (2, 2, 1), (4, 1, 2), (5, 1, 1)]],
    ),
    "a shared page discarded by a conversion is zeroes when it is shared again": (
        [
            "{do: populate, range: 'g0.r0[0:2]'}",
            "{do: convert, range: 'g0.r0[0:1]', to: private}",
            "{do: convert, range: 'g0.r0[0:1]', to: shared}",
            "{do: check, range: 'g0.r0[0:2]', expect: either}",
        ],
        [[(0, 1, None), (1, 1, 1)]],
    ),
    "an idempotent conversion keeps the contents": (
        [
            "{do: populate, range: 'g0.r0[0:2]'}",
            "{do: convert, range: 'g0.r0[0:2]', to: shared}",
            "{do: check, range: 'g0.r0[0:2]', expect: pattern}",
        ],
        [[(0, 2, 1)]],
    ),
    "a hole punch on the host loses private contents, not shared ones": (
        [
            "{do: convert, range: 'g0.r0[0:2]', to: private}",
            "{do: populate, range: 'g0.r0[0:4]'}",
            "{do: punch, range: 'g0.r0[0:4]'}",
            "{do: check, range: 'g0.r0[0:4]', expect: either}",
        ],
        [[(0, 2, None), (2, 2, 1)]],
    ),
}

# Conversions that the guest must ask for, as (first page, pages, side).
CALLS: dict[str, tuple[str, list[tuple[int, int, str]]]] = {
    "one call per chunk": (
        "{do: convert, range: 'g0.r0[500:1100]', to: private}",
        [(500, 12, "private"), (512, 512, "private"), (1024, 76, "private")],
    ),
    "also where nothing changes": ("{do: convert, range: 'g0.r0[3:4]', to: shared}", [(3, 1, "shared")]),
}


def scenario_of(steps: Sequence[str]) -> Scenario:
    """The steps, given as lines of YAML, for two guests."""
    return Scenario.from_yaml("name: golden\nguests: 2\nsteps:\n" + "".join(f"- {step}\n" for step in steps))


def failures(predict: Callable[..., Any], design: Any, facts: Any) -> list[str]:
    """Sentences on every entry that a model (the real one or a mutated copy) gets wrong."""
    said = []
    for name, (steps, runs) in CONTENTS.items():
        predicted = predict(scenario_of(steps), design, {}, facts)
        got_runs = [[(r.start, r.count, r.generation) for r in s.contents] for s in predicted if s.contents]
        if got_runs != runs:
            said.append(f"{name}: {got_runs}, not {runs}")
    for name, (step_text, calls) in CALLS.items():
        (step,) = predict(scenario_of([step_text]), design, {}, facts)
        got_calls = [(c.start_page, c.pages, c.to.value) for c in step.conversions]
        if got_calls != calls:
            said.append(f"{name}: {got_calls}, not {calls}")
    return said


TWO_GUESTS = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})


def test_every_entry_of_the_tables_holds():
    assert failures(predict, design_named("order0"), TWO_GUESTS) == []


def test_only_writing_steps_use_a_generation_up():
    steps = ["{do: populate, range: 'g0.r0[0:1]'}", "{do: settle}", "{do: touch, range: 'g0.r0[0:1]', write: false}"]
    steps += ["{do: touch, range: 'g0.r0[0:1]'}", "{do: check, range: 'g0.r0[0:1]', expect: pattern}"]
    predicted = predict(scenario_of(steps), design_named("order0"), {}, TWO_GUESTS)
    assert [step.generation for step in predicted] == [1, None, None, 2, None]


def test_kinds_of_contents_are_named():
    steps = ["{do: populate, range: 'g0.r0[0:1]'}", "{do: check, range: 'g0.r0[0:2]', expect: either}"]
    runs = predict(scenario_of(steps), design_named("order0"), {}, TWO_GUESTS)[1].contents
    assert [run.kind for run in runs] == ["pattern", "zero"]
    assert runs[0].region == "g0.r0"


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (
            ["{do: check, range: 'g0.r0[0:4]', expect: pattern}"],
            "step 0 (check g0.r0[0:4] for the pattern) claims what design order0 does not do: g0.r0 holds zeroes in"
            " pages 0 to 3",
        ),
        (
            ["{do: populate, range: 'g0.r0[2:4]'}", "{do: check, range: 'g0.r0[0:4]', expect: zero}"],
            "g0.r0 holds the pattern of generation 1 in pages 2 to 3",
        ),
    ],
)
def test_a_claim_that_the_design_does_not_keep_is_refused(steps, says):
    with pytest.raises(UsageError) as error:
        predict(scenario_of(steps), design_named("order0"), {}, TWO_GUESTS)
    assert says in str(error.value)
