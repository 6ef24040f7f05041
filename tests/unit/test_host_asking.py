# SPDX-License-Identifier: GPL-2.0-only
"""What is tried while a testbed is prepared: which touches, and what counts as an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from harness.errors import InfraError
from harness.guest.backing import BACKING_RECORDS
from harness.host.emulated import asking
from harness.host.emulated.asking import PREFAULTS, QUESTIONS, answer, prefaults


class Host:
    """A guest's agent and the probe: the n-th touch moves ``counter`` by ``moves[n]``."""

    def __init__(self, counter: str, *moves: int) -> None:
        self.counter, self.moves = counter, list(moves)
        self.value = 7
        self.log: list[tuple[object, ...]] = []

    def convert(self, region: int, start: int, count: int, *, private: bool, timeout: float) -> None:
        self.log.append(("convert", region, start, count, private))

    def touch(self, region: int, start: int, count: int, *, stride: int, write: bool, gen: int, timeout: float) -> None:
        self.log.append(("touch", start, write))
        self.value += self.moves.pop(0)

    def settle(self) -> None:
        pass

    def read(self, path: str) -> bytes:
        return f"nr_free_pages 1\n{self.counter}_other 99\n{self.counter} {self.value}\n".encode()


def ask(question: str, host: Host) -> dict[str, str]:
    return dict(answer(question, cast(Any, host), 1, cast(Any, host)))


@pytest.mark.parametrize(("moved", "said"), [(1, "y"), (0, "n")])
def test_a_write_under_the_huge_zero_folio(moved: int, said: str) -> None:
    host = Host("thp_fault_alloc", 0, moved)
    assert ask("thp.huge_zero_replaced", host) == {"thp.huge_zero_replaced": said}
    assert host.log == [
        ("convert", 1, 0, 512, True), ("convert", 1, 0, 512, False), ("touch", 0, False), ("touch", 0, True),
    ]  # fmt: skip


@pytest.mark.parametrize(("mapped", "said"), [(256, "y"), (16, "n")])
def test_a_read_beside_a_hole(mapped: int, said: str) -> None:
    host = Host("nr_mapped", 512, mapped)
    assert ask("shmem.whole_folio_around", host) == {"shmem.whole_folio_around": said}
    assert host.log[-3:] == [("touch", 0, True), ("convert", 1, 0, 1, True), ("touch", 256, False)]


def test_a_counter_that_is_missing() -> None:
    with pytest.raises(InfraError, match="has no thp_fault_alloc"):
        ask("thp.huge_zero_replaced", Host("else", 0))


def test_records_ask_what_there_is() -> None:
    asked = {record.question for record in BACKING_RECORDS.values()}
    assert asked - {""} == set(QUESTIONS)
    assert ask("", Host("nothing")) == {}


class Traced:
    """A QEMU with its guest: a conversion writes to the log what ``lines`` has for it, as long as events are on."""

    def __init__(self, log: Path, *lines: str) -> None:
        self.log, self.lines = log, list(lines)
        self.events: list[tuple[str, bool]] = []
        log.write_text("kvm_vcpu_ioctl cpu_index 0, type 0xc040aed5, arg 0x1\n")  # of an earlier time

    def execute(self, command: str, arguments: dict[str, Any]) -> None:
        assert command == "trace-event-set-state"
        self.events.append((arguments["name"], arguments["enable"]))

    def convert(self, region: int, start: int, count: int, *, private: bool, timeout: float) -> None:
        assert (region, start, count) == (1, 0, 1)
        with self.log.open("a") as log:
            log.write(self.lines.pop(0))


SHARED = "kvm_convert_memory start 0x1000 size 0x1000 private_to_shared\n"
PRIVATE = "kvm_convert_memory start 0x1000 size 0x1000 shared_to_private\n"
RUN = "kvm_vcpu_ioctl cpu_index 0, type 0xae80, arg 0x0\n"
POPULATE = "kvm_vcpu_ioctl cpu_index 0, type 0xc040aed5, arg 0x7ffd2f3ff0c0\n"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (PRIVATE + POPULATE + RUN, SHARED + POPULATE, "y"),
        (PRIVATE + POPULATE, SHARED, "y"),
        (RUN + PRIVATE, SHARED, "n"),
    ],
    ids=["both ways", "the second not written yet", "never"],
)
def test_a_qemu_that_populates_is_known_by_its_trace(tmp_path: Path, first: str, second: str, said: str) -> None:
    traced = Traced(tmp_path / "log", first, second)
    assert prefaults(cast(Any, traced), 1, cast(Any, traced), traced.log) == {PREFAULTS: said}
    assert traced.events == [("kvm_vcpu_ioctl", True), ("kvm_vcpu_ioctl", False)]


def test_a_qemu_that_traces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_LOG_SECONDS", 0.05)
    traced = Traced(tmp_path / "log", PRIVATE, "")
    with pytest.raises(InfraError, match=r"QEMU traced no conversion in log within 0\.05 s"):
        prefaults(cast(Any, traced), 1, cast(Any, traced), traced.log)
