# SPDX-License-Identifier: GPL-2.0-only
"""A testbed that stays up, with everything real but the testbed: however it ends, one sentence, and nothing stays."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from harness.errors import CrashError, GmemError, InfraError, NoBootError, UsageError
from harness.host.emulated import state
from harness.host.lab import client, ending
from harness.host.lab import launch as launching
from harness.host.lab.find import DeadTestbed, Found, NoTestbed, everything, find, find_alive, look
from harness.host.lab.launch import launch
from harness.host.lab.place import Place
from harness.host.lab.record import LabRecord, Life, Plan

BENCH = Path(__file__).with_name("lab_bench.py")
PROGRAM = (sys.executable, str(BENCH))
SECONDS = 15.0
"""Deadline of everything here; a holder starts in half a second on an idle machine."""

LAUNCH = """
import sys
from pathlib import Path
import msgspec
from harness.host.lab.launch import launch
from harness.host.lab.record import Plan
launch(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan), phase=lambda name: print(name, flush=True),
       program=(sys.executable, sys.argv[2]))
print("up", flush=True)
"""


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {SECONDS:g} s"
        time.sleep(0.02)


class Bench:
    """A cache of its own, and what processes and run directories it has left."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root
        self.scratch = scratch

    def plan(self, kernel: str = "up", *, name: str = "default", origin: str = "test") -> Plan:
        return Plan(
            root=str(self.root),
            name=name,
            image="/none/bzImage",
            initrd="/none/host.cpio",
            spec=state.TestbedSpec.of(),
            kernel=kernel,
            origin=origin,
            guest_kind="sw-protected (SNP stand-in)",
        )

    def up(self, kernel: str = "up", *, name: str = "default", origin: str = "test") -> Found:
        launch(self.plan(kernel, name=name, origin=origin), program=PROGRAM)
        return find_alive(self.root, name)

    def left(self) -> list[str]:
        """Run directories, and processes that name one."""
        found = [str(path) for path in self.scratch.iterdir()]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if str(self.scratch) in command:
                    found.append(f"{entry.name} {command}")
        return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    bench = Bench(tmp_path / "cache", scratch)
    yield bench
    for found in everything(bench.root):
        ending.end(found)
    wait_for(lambda: not bench.left(), "the end of everything")


def test_up_ask_down(bench: Bench) -> None:
    phases: list[str] = []
    rows = launch(bench.plan(), phase=phases.append, program=PROGRAM)
    found = find_alive(bench.root, None)
    assert [row.name for row in rows] == ["start the holder", "start QEMU", "monitors"]
    assert phases == ["start QEMU", "monitors"]
    assert found.name == "default"
    assert client.ask(found, "status") == {"health": {"g0": "running", "host": "running"}}
    assert client.ask(found, "pulse") == {}
    assert client.ask(found, "ssh") == {"port": 2222}
    assert client.ask(found, "ssh", machine="g0") == {"port": 2200}
    assert state.TestbedState.load(found.place.state).release == "7.3"
    run, folder = Path(found.record.run), found.place.folder
    assert run.is_dir()
    ending.end(found)
    assert not folder.exists()
    assert not run.exists()
    assert not bench.left()
    with pytest.raises(NoTestbed, match="no testbed is up; gmem lab up brings one up"):
        find(bench.root, None)


def test_only_the_owner_gets_near_it(bench: Bench) -> None:
    place = bench.up().place
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
    for path in (place.state, place.record, place.folder / "socket"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_it_outlives_whoever_brought_it_up(bench: Bench, tmp_path: Path) -> None:
    starter = start(bench, tmp_path, "up")
    out, _ = starter.communicate(timeout=SECONDS)
    assert out.endswith("up\n")
    found = find_alive(bench.root, None)
    parent = next(
        line.split()[1] for line in Path(f"/proc/{found.record.holder}/status").read_text().splitlines()
        if line.startswith("PPid:")
    )  # fmt: skip
    assert int(parent) not in (os.getpid(), starter.pid)
    assert os.getsid(found.record.holder) != os.getsid(0)


def test_the_folder_may_have_a_long_name(bench: Bench, tmp_path: Path) -> None:
    bench.root = tmp_path / ("long" * 30) / "cache"
    found = bench.up()
    assert len(str(found.place.folder)) > 108
    assert "health" in client.ask(found, "status")


def test_several_at_a_time(bench: Bench) -> None:
    one, two = bench.up(name="one"), bench.up(name="two")
    assert one.record.qemu != two.record.qemu
    with pytest.raises(UsageError, match=r"several testbeds \(one, two\): choose one with --name"):
        find(bench.root, None)
    with pytest.raises(NoTestbed, match="no testbed called three is up; gmem lab up --name three brings it up"):
        find(bench.root, "three")
    ending.end(one)
    assert find(bench.root, None).name == "two"
    assert two.alive


def test_no_two_holders_of_one_place(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "END_SECONDS", 0.1)
    first = bench.up()
    with pytest.raises(InfraError, match="testbed default"):
        launch(bench.plan(), program=PROGRAM)
    assert find_alive(bench.root, None).record.holder == first.record.holder
    assert "health" in client.ask(first, "status")


@pytest.mark.parametrize(
    ("kernel", "kind", "says"),
    [
        ("no-boot", NoBootError, "the kernel under test did not come up"),
        ("crash", CrashError, "the kernel under test printed: Oops"),
        ("defect", InfraError, "defect of gmem itself"),
        ("vanish", InfraError, "ended while it was starting"),
    ],
)
def test_it_does_not_come_up(bench: Bench, kernel: str, kind: type[GmemError], says: str) -> None:
    with pytest.raises(kind, match=says):
        launch(bench.plan(kernel), program=PROGRAM)
    place = Place(bench.root, "default")
    wait_for(lambda: not bench.left(), "the end of everything")
    assert not place.held()
    assert (place.evidence / "host-console.txt").exists()
    found = look(place)
    assert found is not None
    assert not found.alive
    assert "Traceback" in place.log.read_text() or kernel != "defect"
    place.sweep()
    assert bench.up().alive


def test_a_program_that_is_no_holder(bench: Bench) -> None:
    with pytest.raises(InfraError, match=r"(does not start|ended while it was starting): this is nonsense"):
        launch(bench.plan(), program=(sys.executable, "-c", "raise SystemExit('this is nonsense')"))
    assert not bench.left()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_whoever_brings_it_up_is_ended(bench: Bench, tmp_path: Path, number: signal.Signals) -> None:
    starter = start(bench, tmp_path, "slow")
    assert starter.stdout is not None
    assert starter.stdout.readline() == "start QEMU\n"
    wait_for(lambda: bool(list(bench.scratch.iterdir())), "the run directory")
    starter.send_signal(number)
    starter.communicate(timeout=SECONDS)
    wait_for(lambda: not bench.left() and not Place(bench.root, "default").held(), "the end of everything")
    assert look(Place(bench.root, "default")) is None


def start(bench: Bench, tmp_path: Path, kernel: str) -> subprocess.Popen[str]:
    plan = tmp_path / "plan.json"
    plan.write_bytes(msgspec.json.encode(bench.plan(kernel)))
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(plan), str(BENCH)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_holder_is_killed(bench: Bench) -> None:
    found = bench.up()
    os.kill(found.record.holder, signal.SIGKILL)
    wait_for(lambda: not found.place.held(), "the end of the holder")
    with pytest.raises(DeadTestbed) as dead:
        find_alive(bench.root, None)
    for words in (f"process {found.record.holder}, was killed", "gmem lab up", "gmem lab down", "evidence"):
        assert words in str(dead.value)
    with pytest.raises(DeadTestbed, match="was killed"):
        client.ask(found, "status")
    wait_for(lambda: not bench.left(), "the janitor's work")
    ending.clear(found)
    found.place.sweep()
    assert (found.place.evidence_before / "host-console.txt").exists()
    assert bench.up().alive


def test_the_holder_and_its_janitor_are_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "JANITOR_SECONDS", 0.5)
    found = bench.up()
    janitors = [int(line.split()[0]) for line in bench.left() if "gmem-janitor" in line]
    for pid in (*janitors, found.record.holder):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not found.place.held(), "the end of the holder")
    assert Path(found.record.run).exists()
    ending.end(found)
    assert not bench.left()


def test_qemu_is_killed(bench: Bench) -> None:
    found = bench.up()
    os.kill(found.record.qemu, signal.SIGKILL)
    wait_for(lambda: not found.place.held(), "the end of the holder")
    now = find(bench.root, None)
    assert now.record.life is Life.ENDED
    with pytest.raises(DeadTestbed, match="is not up any more: QEMU was killed by SIGKILL; its evidence is in"):
        find_alive(bench.root, None)
    assert not bench.left()


def test_the_holder_is_told_to_end_from_outside(bench: Bench) -> None:
    found = bench.up()
    os.kill(found.record.holder, signal.SIGTERM)
    wait_for(lambda: not found.place.held(), "the end of the holder")
    assert not bench.left()
    assert "its holder was ended by SIGTERM" in find(bench.root, None).death()


@pytest.mark.parametrize("how", ["ignored", "aside"])
def test_it_is_told_where_the_main_thread_does_not_hear_it(bench: Bench, how: str) -> None:
    launch(bench.plan(how), program=PROGRAM)
    wait_for(lambda: not find(bench.root, None).place.held(), "the end of the holder")
    assert "its holder was ended by SIGTERM" in find(bench.root, None).death()
    assert not bench.left()


def test_the_holder_hangs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "HANG_SECONDS", 0.5)
    found = bench.up()
    os.kill(found.record.holder, signal.SIGSTOP)
    with pytest.raises(InfraError, match=r"does not answer status within 0\.5 s .*gmem lab down ends it"):
        client.ask(found, "status", timeout=0.5)
    ending.end(found)
    wait_for(lambda: not bench.left(), "the end of everything")
    assert not found.place.folder.exists()


def test_a_stale_socket_and_record_are_in_nobodys_way(bench: Bench) -> None:
    found = bench.up()
    kept = found.place.record.read_bytes()
    ending.end(found)
    found.place.make()
    found.place.record.write_bytes(kept)
    found.place.listen().close()  # a socket that nobody listens on
    with pytest.raises(DeadTestbed):
        find_alive(bench.root, None)
    found.place.sweep()
    assert bench.up().alive


def test_a_record_that_cannot_be_read(bench: Bench) -> None:
    place = Place(bench.root, "default")
    place.make()
    place.record.write_text('{"plan": 7}')
    with pytest.raises(InfraError, match=r"record\.json is not the record of a testbed"):
        find(bench.root, None)
    place.remove()


def test_save(bench: Bench, tmp_path: Path) -> None:
    found = bench.up()
    done = client.save(found, tmp_path / "a" / "b")
    assert done["bytes"] >= 4096
    with pytest.raises(UsageError, match="is not empty"):
        client.save(found, tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder"):
        client.save(found, tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be made"):
        client.save(found, tmp_path / "file" / "below")
    with pytest.raises(UsageError, match="absolute path"):
        client.ask(found, "save", folder="relative")
    assert found.alive


@pytest.mark.parametrize(("origin", "says"), [("save fails", "No space left"), ("save is wrong", "defect of gmem")])
def test_half_a_save_is_removed(bench: Bench, tmp_path: Path, origin: str, says: str) -> None:
    found = bench.up(origin=origin)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new"):
        with pytest.raises(InfraError, match=says):
            client.save(found, folder)
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "empty").iterdir())
    assert found.alive


def test_nonsense_is_answered_with_an_error(bench: Bench) -> None:
    found = bench.up(origin="no pulse")
    with pytest.raises(InfraError, match="QEMU does not answer"):
        client.ask(found, "pulse")
    with pytest.raises(UsageError, match=r"does not know the request .* it knows down, pulse, save, ssh, status"):
        client.ask(found, "dance")
    with found.place.connect(SECONDS) as connection, connection.makefile("rb") as lines:
        for line in (b"\n", b"[]\n", b'"down"\n', b"\xff\xfe\n", b"x" * 100 + b"\n"):
            connection.sendall(line)
            assert json.loads(lines.readline())["code"] == UsageError.exit_code
    assert "health" in client.ask(found, "status")


def test_the_record_is_readable_by_people_and_back(bench: Bench) -> None:
    found = bench.up()
    text = found.place.record.read_text()
    assert LabRecord.load(found.place.record) == found.record
    assert text.startswith("{\n")
    assert '"life": "up"' in text
