# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios in YAML: read back equal, and refused with one sentence that names the place and the nearest word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    Check,
    Close,
    Convert,
    Empty,
    Fallocate,
    PageRange,
    Populate,
    PunchHole,
    Settle,
    Side,
    Touch,
)

WRITTEN = """\
# one page there and back
name: one page back
guests: 2
steps:
- {do: convert, range: 'g0.r0[0:512]', to: private}
- {do: populate, range: 'g0.r0[0:512]'}
- {do: touch, range: 'g1.r0[0:512]', stride: 2, write: false}
- {do: check, range: 'g0.r0[0:512]', expect: pattern}
- {do: settle}
- {do: close, guest: g1}
"""

ranges = st.builds(
    lambda guest, start, count: PageRange(f"g{guest}.r0", start, count),
    st.integers(0, 1),
    st.integers(0, 1000),
    st.integers(1, 24),
)
steps = st.one_of(
    st.builds(Populate, ranges),
    st.builds(Touch, ranges, st.integers(1, 9), st.booleans()),
    st.builds(Convert, ranges, st.sampled_from([Side.PRIVATE, Side.SHARED])),
    st.builds(Check, ranges, st.sampled_from(["pattern", "zero", "either"])),
    st.builds(Fallocate, ranges),
    st.builds(PunchHole, ranges),
    st.just(Settle()),
    st.just(Empty()),
)
names = st.text(min_size=1, max_size=20).filter(str.isprintable)


def test_a_written_scenario_is_read():
    scenario = Scenario.from_yaml(WRITTEN)
    assert scenario.guests == 2
    assert scenario.chunks == 8
    assert scenario.steps[0] == Convert(PageRange("g0.r0", 0, 512), Side.PRIVATE)
    assert scenario.steps[2] == Touch(PageRange("g1.r0", 0, 512), stride=2, write=False)
    assert scenario.steps[-1] == Close("g1")
    assert Scenario.from_yaml(scenario.to_yaml()) == scenario


@given(names, st.lists(steps, max_size=6), st.none() | st.integers(0, 2**64))
def test_yaml_and_repr_round_trip(name, listed, seed):
    scenario = Scenario(name, tuple(listed), guests=2, chunks=2, seed=seed)
    text = scenario.to_yaml()
    assert Scenario.from_yaml(text) == scenario
    assert Scenario.from_yaml(text).to_yaml() == text
    assert eval(repr(scenario)) == scenario


def test_keys_are_sorted_and_defaults_left_out():
    scenario = Scenario("x", (Touch(PageRange("g0.r0", 0, 1)), Convert(PageRange("g0.r0", 0, 1), Side.SHARED)))
    assert scenario.to_yaml() == (
        "name: x\nsteps:\n- {do: touch, range: 'g0.r0[0:1]'}\n- {do: convert, range: 'g0.r0[0:1]', to: shared}\n"
    )


def step(text: str) -> str:
    return f"name: x\nsteps:\n- {text}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\nstep: []\n", "top level has an unknown key 'step': did you mean 'steps'?"),
        ("name: x\n", "top level lacks the key 'steps'"),
        ("name: 5\nsteps: []\n", "name: expected `str`, got `int`"),
        ("name: ''\nsteps: []\n", "is empty or not a printable line"),
        ("name: x\nchunks: 0\nsteps: []\n", "has 0 chunks: at least 1 is needed"),
        ("name: x\nname: y\nsteps: []\n", "key 'name' is given twice in line 2"),
        ("- a\n", "a scenario is a mapping with the keys name, steps, guests, chunks, seed"),
        ("name: [\n", "not readable as YAML"),
        (step("settle"), "step 0 is not a mapping: write e.g. {do: settle}"),
        (step("{range: 'g0.r0[0:5]'}"), "step 0 lacks the key 'do'"),
        (step("{do: convrt, range: 'g0.r0[0:5]'}"), "step 0 has an unknown step 'convrt': did you mean 'convert'?"),
        (step("{do: xyzzy}"), "unknown step 'xyzzy': known are populate, touch, convert"),
        (
            step("{do: touch, range: 'g0.r0[0:5]', strid: 2}"),
            "step 0 (touch) has an unknown key 'strid': did you mean 'stride'?",
        ),
        (step("{do: settle, now: 1}"), "step 0 (settle) has an unknown key 'now': known are do"),
        (step("{do: convert, range: 'g0.r0[0:5]'}"), "step 0 (convert) lacks the key 'to'"),
        (step("{do: convert, range: 'g0.r0[0:5]', to: unset}"), "has no side: say private or shared"),
        (step("{do: convert, range: 'g0.r0[0:5]', to: public}"), "step 0 (convert): to: invalid enum value 'public'"),
        (step("{do: populate, range: 'g0.r0[0:5'}"), "step 0: range 'g0.r0[0:5' is not of the form"),
        (step("{do: populate, range: 7}"), "step 0 (populate): the range is not of the form 'g0.r0[0:512]'"),
        (step("{do: touch, range: 'g0.r0[0:5]', stride: a}"), "step 0 (touch): stride: expected `int`, got `str`"),
        (step("{do: populate, range: 'g0.r0[0:5000]'}"), "ends at page 5000: g0.r0 has 8 chunks, 4096 pages"),
        (step("{do: populate, range: 'g0.r1[0:5]'}"), "uses region g0.r1: guest g0 has only g0.r0"),
        (step("{do: populate, range: 'g3.r0[0:5]'}"), "uses guest g3: the scenario has 1 guest"),
        (step("{do: populate, range: 'g00.r0[0:5]'}"), "uses guest g00: the scenario has 1 guest"),
        (step("{do: close, guest: g0}\n- {do: close, guest: g0}"), "uses guest g0, which step 0 closed"),
    ],
)
def test_bad_input_gives_one_sentence_with_the_place(text, says):
    with pytest.raises(UsageError) as error:
        Scenario.from_yaml(text, "suite.yaml")
    assert str(error.value).startswith("suite.yaml: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)
