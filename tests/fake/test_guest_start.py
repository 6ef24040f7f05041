# SPDX-License-Identifier: GPL-2.0-only
"""Waiting for a guest to come up: one that says so, one that hangs, one that is slow, one that is ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import GmemError, InfraError, NoBootError
from harness.guest.launch import GuestSpec
from harness.host.emulated import launching
from harness.host.emulated.launching import GuestLost, StandIns, wait_guest

GUEST: Any = SimpleNamespace(name="g0", error_log="/run/g0-qemu.err")


class Hasty(StandIns):
    """The same guests, of which nobody expects patience."""

    silent_seconds = 0.3


class Lacking(Hasty):
    def failed(self, guest: GuestSpec, what: str, said: str, console: str) -> GmemError:
        return NoBootError(f"{guest.name}: {what}")


def channels(state: str = "running", machine: bool = True) -> Any:
    control = SimpleNamespace(status=lambda pid: state, get=lambda path: b"")
    return SimpleNamespace(control=control, machine_runs=lambda: machine)


@contextmanager
def printing(console: Path, lines: list[str], every: float) -> Iterator[None]:
    def talk() -> None:
        for line in lines:
            time.sleep(every)
            with console.open("a") as file:
                file.write(line + "\n")

    thread = threading.Thread(target=talk)
    thread.start()
    yield
    thread.join()


def test_it_is_up(tmp_path: Path) -> None:
    with printing(tmp_path / "g0-console.txt", ["[    0.1] APIC: s", "gmem: guest g0 is up"], 0.1):
        wait_guest(Hasty(), GUEST, 1, channels(), tmp_path)


def test_one_that_prints_now_and_then_is_waited_for(tmp_path: Path) -> None:
    lines = [f"[    0.{number}] line" for number in range(8)]
    began = time.monotonic()
    with printing(tmp_path / "g0-console.txt", [*lines, "gmem: guest g0 is up"], 0.1):
        wait_guest(Hasty(), GUEST, 1, channels(), tmp_path)
    assert time.monotonic() - began > Hasty.silent_seconds


@pytest.mark.parametrize("first", ["", "[    0.1] APIC: s\n"])
def test_one_that_hangs_is_told_from_one_that_is_slow(tmp_path: Path, first: str) -> None:
    (tmp_path / "g0-console.txt").write_text(first)
    with pytest.raises(GuestLost, match=r"its console stood still for 0\.3 s before it was up; .*ends with: "):
        wait_guest(Hasty(), GUEST, 1, channels(), tmp_path)


def test_what_the_kernel_lacks_is_no_silence(tmp_path: Path) -> None:
    with pytest.raises(NoBootError, match=r"^g0: its console stood still"):
        wait_guest(Lacking(), GUEST, 1, channels(), tmp_path)


def test_one_that_prints_for_ever_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "GUEST_SECONDS", 0.5)
    with (
        printing(tmp_path / "g0-console.txt", ["again"] * 10, 0.1),
        pytest.raises(InfraError, match=r"it did not come up within 0\.5 s") as met,
    ):
        wait_guest(Hasty(), GUEST, 1, channels(), tmp_path)
    assert not isinstance(met.value, GuestLost)


def test_one_that_resets_itself_is_lost_too(tmp_path: Path) -> None:
    with pytest.raises(GuestLost, match="its QEMU exited with status 0; "):
        wait_guest(Hasty(), GUEST, 1, channels("exited with status 0"), tmp_path)
    with pytest.raises(NoBootError):
        wait_guest(Lacking(), GUEST, 1, channels("exited with status 0"), tmp_path)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (channels("exited with status 1"), "its QEMU exited with status 1"),
        (channels(machine=False), "the outer QEMU ended"),
    ],
)
def test_one_that_ended_is_not_waited_for(tmp_path: Path, answer: Any, words: str) -> None:
    with pytest.raises(InfraError, match=words) as met:
        wait_guest(Hasty(), GUEST, 1, answer, tmp_path)
    assert not isinstance(met.value, GuestLost)
