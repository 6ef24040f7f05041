# SPDX-License-Identifier: GPL-2.0-only
"""What is done to a testbed before it is saved, so that a run's own requests take nothing while steps are observed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.guest.agent import CALLS_AT_ONCE
from harness.host.emulated import prepare
from harness.host.emulated import state as shapes  # by its module: its classes begin with Test

PROBE, QEMU = 7, 70


class Bench:
    """Probe and agent that write down what is asked of them."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.probe = SimpleNamespace(
            hello=lambda: SimpleNamespace(pid=PROBE),
            place=lambda pid, cpu: self.log.append(("place", pid, cpu)),
            answer=lambda size, count: self.log.append(("answer", size, count)),
            stock=lambda count: self.log.append(("stock", count)),
            settle=lambda: self.log.append(("settle",)),
            sample=lambda slot: self.log.append(("sample",)),
        )
        self.agent = SimpleNamespace(convert=self.convert)

    def convert(self, region: int, start: int, count: int, *, private: bool, by: int, timeout: float) -> None:
        self.log.append(("convert", count // by, private))

    def warm(self, number: int) -> list[tuple[object, ...]]:
        spec = shapes.TestbedSpec.of(guests=2)
        prepare._warm_cpus(spec, number, QEMU, cast(Any, self.agent), cast(Any, self.probe))
        return self.log


def test_every_cpu_answers_requests_of_every_size() -> None:
    at: dict[object, object] = {}
    seen: set[tuple[object, ...]] = set()
    for verb, *words in Bench().warm(0):
        if verb == "place":
            at[words[0]] = words[1]
        else:
            seen.add((verb, *words, at[PROBE], at[QEMU]))
    sizes = [1, 2, 4, 8, CALLS_AT_ONCE]
    assert seen == {("settle", cpu, cpu) for cpu in (0, 1)} | {("sample", cpu, cpu) for cpu in (0, 1)} | {
        ("convert", calls, private, cpu, cpu) for cpu in (0, 1) for calls in sizes for private in (True, False)
    } | {("stock", 128, cpu, cpu) for cpu in (0, 1)} | {
        ("answer", size, 24, cpu, cpu) for cpu in (0, 1) for size in (32, 64, 96, 128, 192, 256, 512, 1024, 2048)
    }


def test_a_cpu_has_its_stock_behind_all_that_takes_from_it() -> None:
    log = [entry for entry in Bench().warm(0) if entry[0] != "place"]
    first = log.index(("stock", 128))
    assert log[first + 1] == ("answer", 32, 24), "of the next CPU"
    assert log[-1] == ("stock", 128)
    assert prepare._STOCK >= 2 * (CALLS_AT_ONCE + prepare._AT_ONCE), "two for each line and each write of an answer"


def test_what_becomes_private_becomes_shared_again() -> None:
    private = [entry[1:] for entry in Bench().warm(0) if entry[0] == "convert"]
    assert private[0::2] == [(calls, True) for calls, _ in private[1::2]]
    assert not any(to for _, to in private[1::2])


@pytest.mark.parametrize(("number", "cpu"), [(0, 1), (1, 0)])
def test_everybody_stays_on_a_cpu_of_his_own(number: int, cpu: int) -> None:
    assert Bench().warm(number)[-2:] == [("place", QEMU, cpu), ("place", PROBE, 0)]
