# SPDX-License-Identifier: GPL-2.0-only
"""A silent guest whose faults never end is the kernel's doing; any other silence says nothing about it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import InfraError, StuckError
from harness.run.outcome import verdict_of_error
from harness.run.stuck import ENDLESS, check_stuck, endless, fault_counts
from harness.run.verdict import Verdict

SEEN = {"pf_taken": 100, "pf_fixed": 90, "pf_emulate": 5, "pf_spurious": 0, "pf_fast": 1}


class Control:
    """Answers with one text after the other."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def run(self, arguments: list[str]) -> Any:
        if not self.texts:
            raise InfraError("silent")
        return SimpleNamespace(output=self.texts.pop(0), code=0)


def bench(control: Control | None) -> Any:
    channels = SimpleNamespace() if control is None else SimpleNamespace(control=control)
    guests = (SimpleNamespace(name="g0", pid=41), SimpleNamespace(name="g1", pid=42))
    return SimpleNamespace(channels=channels, state=SimpleNamespace(guests=guests))


def check(*texts: str) -> None:
    check_stuck(bench(Control(*texts)), sleep=lambda seconds: None)


def test_faults_that_never_end_are_the_kernels() -> None:
    with pytest.raises(
        StuckError, match=r"guest g1 is stuck .* KVM took 5000 page faults of it \(pf_taken\)"
    ) as caught:
        check("41-9 10 10 0 0 0\n42-9 100 90 5 0 1\n", "41-9 10 10 0 0 0\n42-9 5100 90 5 0 1\n")
    assert verdict_of_error(caught.value) is Verdict.DEVIATES
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pf_fixed", "pf_emulate", "pf_spurious", "pf_fast"])
def test_one_that_ended_in_any_way_is_enough(name: str) -> None:
    after = SEEN | {"pf_taken": 9000}
    assert endless(SEEN, after) == 8900
    assert endless(SEEN, after | {name: SEEN[name] + 1}) == 0


def test_a_guest_that_hangs_by_itself_takes_no_faults() -> None:
    assert endless(SEEN, SEEN) == 0
    assert endless(SEEN, SEEN | {"pf_taken": 100 + ENDLESS - 1}) == 0
    check("42-9 100 90 5 0 1\n", "42-9 100 90 5 0 1\n")


def test_where_nobody_can_be_asked_nothing_is_said() -> None:
    check_stuck(bench(None), sleep=lambda seconds: None)
    check()
    check("42-9 100 90 5 0 1\n")
    check("42-9 100 90 5 0 1\n", "")


def test_another_vm_of_the_host_is_none_of_ours() -> None:
    check("77-9 100 90 5 0 1\n", "77-9 9000 90 5 0 1\n")


def test_a_kernel_that_lacks_a_counter_is_not_read() -> None:
    assert fault_counts("42-9 100 90 5 0\n\nnonsense\n42-9 100 90 5 0 x\n-9 1 2 3 4 5\n") == {}
    assert fault_counts("42-9 100 90 5 0 1\n") == {42: SEEN}
