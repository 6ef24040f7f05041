# SPDX-License-Identifier: GPL-2.0-only
"""A testbed whose guest hangs is booted once more; a kernel that does not come up, or crashes, is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cache import ContentCache
from harness.errors import CrashError, GmemError, InfraError, NoBootError
from harness.host.emulated.machine import MemoryFiles
from harness.host.emulated.prepare import Clock
from harness.host.emulated.state import TestbedSpec, TestbedState
from harness.host.emulated.testbed import BOOTS_AT_MOST, Lab, Testbed
from harness.host.frames import ChannelTimeout
from harness.host.probe import ProbeError
from harness.host.probed import GuestCrash

SPEC = TestbedSpec.of(guests=1)


class Saver:
    """A testbed that only saves."""

    def save(self, folder: Path) -> None:
        (folder / "state.bin").write_bytes(b"state")


def lab_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boots: list[GmemError | None]) -> tuple[Lab, list[Path]]:
    """A lab whose boots end as ``boots`` says; the places where each was tried."""
    for name in ("kernel", "initrd"):
        (tmp_path / name).write_bytes(b"x")
    places: list[Path] = []

    def booted(self: Lab, spec: TestbedSpec, evidence: Path, clock: Clock, memory: MemoryFiles) -> Any:
        places.append(evidence)
        assert not list(memory.folder.iterdir()), "RAM of an attempt that failed is no RAM to begin with"
        memory.file("ram").write_bytes(b"RAM")
        end = boots.pop(0)
        if end is not None:
            raise end
        return nullcontext(Saver())

    def calibrate(self: Lab, spec: TestbedSpec, saved: Path, evidence: Path) -> None:
        assert (saved / "state.bin").exists()
        (saved / "noise").write_text(evidence.name)

    monkeypatch.setattr(Lab, "booted", booted)
    monkeypatch.setattr(Lab, "_calibrate", calibrate)
    notice: Callable[[str], None] = lambda line: (tmp_path / "notices").open("a").write(line + "\n")  # noqa: E731
    cache = ContentCache(tmp_path / "cache", notify=notice)
    return Lab(cache, kernel=tmp_path / "kernel", initrd=tmp_path / "initrd", notice=notice), places


def test_a_hang_is_booted_again_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, places = lab_with(tmp_path, monkeypatch, [InfraError("guest g0 hangs"), None])
    saved = lab.saved(SPEC, tmp_path / "evidence", Clock())
    assert (saved / "state.bin").read_bytes() == b"state"
    assert (saved / "ram.bin").read_bytes() == b"RAM"
    assert (saved / "noise").read_text() == "noise", "measured once the state is saved"
    assert places == [tmp_path / "evidence", tmp_path / "evidence" / "attempt-2"]
    assert "guest g0 hangs" in (tmp_path / "notices").read_text()


def test_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, places = lab_with(tmp_path, monkeypatch, [InfraError(f"hang {n}") for n in range(9)])
    with pytest.raises(InfraError, match=f"hang {BOOTS_AT_MOST - 1}"):
        lab.saved(SPEC, tmp_path / "evidence", Clock())
    assert len(places) == BOOTS_AT_MOST


@pytest.mark.parametrize("end", [NoBootError("no boot"), CrashError("oops")], ids=["no-boot", "crash"])
def test_what_the_kernel_did_stands(end: GmemError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, places = lab_with(tmp_path, monkeypatch, [end, None])
    with pytest.raises(type(end)):
        lab.saved(SPEC, tmp_path / "evidence", Clock())
    assert len(places) == 1


def restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[GmemError | None]
) -> tuple[Lab, Path, list[object]]:
    """A lab whose restored testbeds end as ``ends`` says, each leaving a console behind."""
    lab, _ = lab_with(tmp_path, monkeypatch, [])
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    (evidence / "scenario.yaml").write_text("name: x")
    given: list[object] = []

    def restored(self: Lab, spec: TestbedSpec, saved: Path, evidence: Path, clock: Clock) -> object:
        assert not (evidence / "host-console.txt").exists()
        (evidence / "host-console.txt").write_text(f"restore {len(given)}")
        given.append(object())
        end = ends.pop(0)
        if end is not None:
            raise end
        return given[-1]

    monkeypatch.setattr(Lab, "_restored", restored)
    return lab, evidence, given


def silent_probe() -> ProbeError:
    error = ProbeError("the probe did not answer")
    error.__cause__ = ChannelTimeout("the probe did not answer")
    return error


WARN = GuestCrash("guest g0 printed: WARNING: kernel/time/hrtimer.c:2101 (line 1 of g0-console.txt)")


@pytest.mark.parametrize("end", [ChannelTimeout("agent of g0 did not answer"), silent_probe(), WARN])
def test_a_restored_testbed_that_did_not_come_back_is_restored_again_and_said(
    end: GmemError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, evidence, given = restore(tmp_path, monkeypatch, [end, None])
    assert lab.restored(SPEC, tmp_path, evidence, Clock()) is given[1]
    assert f"({end}); restoring it again" in (tmp_path / "notices").read_text()
    assert (evidence / "restore-1" / "host-console.txt").read_text() == "restore 0"
    assert (evidence / "host-console.txt").read_text() == "restore 1"
    assert (evidence / "scenario.yaml").exists()


@pytest.mark.parametrize("kind", [ChannelTimeout, GuestCrash])
def test_a_testbed_that_comes_back_like_that_twice_is_given_up(
    kind: type[GmemError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, evidence, given = restore(tmp_path, monkeypatch, [kind("first"), kind("second")])
    with pytest.raises(kind, match="second"):
        lab.restored(SPEC, tmp_path, evidence, Clock())
    assert len(given) == 2


@pytest.mark.parametrize(("who", "kind"), [("g0", GuestCrash), ("host", CrashError)])
def test_what_is_printed_on_the_way_back_is_read(
    who: str, kind: type[GmemError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though everybody answers: a kernel that warns goes on."""
    answers = SimpleNamespace(hello=lambda *words, **more: None)
    state = SimpleNamespace(guests=[SimpleNamespace(name="g0")], form=None)
    testbed = Testbed.__new__(Testbed)
    testbed.spec, testbed.evidence = SPEC, tmp_path
    testbed.machine = SimpleNamespace(load=lambda *words: None, resume=lambda: None)  # type: ignore[assignment]
    channels = SimpleNamespace(greeted=set(), probe=answers, agents={"g0": answers})
    testbed.channels = channels  # type: ignore[assignment]
    monkeypatch.setattr(TestbedState, "load", lambda path: state)
    testbed.load(tmp_path, Clock())
    said = "[   17.4] WARNING: kernel/time/hrtimer.c:2101 at __hrtimer_run_queues+0x175/0x1af, CPU#0: kworker/0:0/8\n"
    (tmp_path / f"{who}-console.txt").write_text(said)
    with pytest.raises(CrashError, match="hrtimer") as caught:
        testbed.load(tmp_path, Clock())
    assert type(caught.value) is kind


@pytest.mark.parametrize("end", [CrashError("oops"), InfraError("QEMU ended with status 1")])
def test_what_else_happens_to_a_restore_stands(end: GmemError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, evidence, given = restore(tmp_path, monkeypatch, [end, None])
    with pytest.raises(type(end)):
        lab.restored(SPEC, tmp_path, evidence, Clock())
    assert len(given) == 1
