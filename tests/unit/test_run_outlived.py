# SPDX-License-Identifier: GPL-2.0-only
"""A VM has to be gone with its QEMU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import InfraError
from harness.run.outlived import GONE_SECONDS, outlived


class Control:
    """Lists what is given for the first ``times`` times, then nothing."""

    def __init__(self, text: str, times: int = 1_000_000) -> None:
        self.text, self.times, self.asked = text, times, [""]

    def run(self, arguments: list[str]) -> Any:
        self.asked.append(arguments[-1])
        self.times -= 1
        return SimpleNamespace(output=self.text if self.times >= 0 else "", code=0)


class Time:
    """A clock that only sleeping moves."""

    now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def asked(control: Control | None, *, bare: bool = False) -> tuple[list[str], float]:
    channels = SimpleNamespace() if control is None else SimpleNamespace(control=control)
    spec = SimpleNamespace(guests=[SimpleNamespace(launch=SimpleNamespace(bare=bare))])
    bench: Any = SimpleNamespace(channels=channels, spec=spec, guest=lambda name: SimpleNamespace(pid=41))
    time = Time()
    return outlived(bench, "g0", time.clock, time.sleep), time.now


def test_a_vm_that_stays_is_told() -> None:
    control = Control("/sys/kernel/debug/kvm/41-12\n")
    messages, waited = asked(control)
    assert messages == [
        "the VM of g0 outlives its QEMU: KVM still shows /sys/kernel/debug/kvm/41-12, so it was not destroyed"
    ]
    assert waited >= GONE_SECONDS
    assert "/sys/kernel/debug/kvm/41-*" in control.asked[-1]


def test_one_that_goes_a_moment_later_is_not() -> None:
    assert asked(Control("/sys/kernel/debug/kvm/41-12\n", times=0)) == ([], 0.0)
    messages, waited = asked(Control("/sys/kernel/debug/kvm/41-12\n", times=3))
    assert messages == []
    assert 0 < waited < GONE_SECONDS


def test_where_nobody_can_be_asked_nothing_is_said() -> None:
    assert asked(None) == ([], 0.0)


def test_a_bare_guest_has_no_vm_of_its_own_to_ask_about() -> None:
    control = Control("/sys/kernel/debug/kvm/41-12\n")
    assert asked(control, bare=True) == ([], 0.0)
    assert control.asked == [""]


def test_an_answer_to_another_question_is_no_vm() -> None:
    with pytest.raises(InfraError, match=r"asked for the VMs of process 41, the host answered '7\.3\.4'"):
        asked(Control("7.3.4\n"))
