# SPDX-License-Identifier: GPL-2.0-only
"""The doctor on machines that lack something: everything missing is listed, with the command that mends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.cli import doctor
from harness.cli.doctor import CHECKS, Check, examine
from harness.errors import InfraError

CAPABILITIES = [{"capability": "xbzrle", "state": False}, {"capability": "mapped-ram", "state": False}]


class FakeMachine:
    """A PATH with nothing on it but a fake QEMU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.qemu()

    def qemu(
        self,
        objects: Sequence[str] = ("sev-guest", "sev-snp-guest"),
        accelerators: Sequence[str] = ("tcg", "kvm"),
        machines: Sequence[str] = ("microvm", "none"),
        reply: str = json.dumps({"return": CAPABILITIES}),
    ) -> None:
        """Install a QEMU that lists these, and answers QMP with ``reply``."""
        lists = {
            "--version": "QEMU emulator version 10.0.2 (of this test)\nCopyright\n",
            "-object": "List of user creatable objects:\n" + "".join(f"  {word}\n" for word in objects),
            "-accel": "Accelerators supported in QEMU binary:\n" + "".join(f"{word}\n" for word in accelerators),
            "-M": "Supported machines are:\n" + "".join(f"{word}   a machine\n" for word in machines),
        }
        text = f"""#!{sys.executable}
import sys
lists = {lists!r}
if "-qmp" in sys.argv:
    print('{{"QMP": {{}}}}\\nnot JSON\\n[]')
    print({reply!r})
elif sys.argv[1:] == ["--version"] or sys.argv[2:] == ["help"]:
    print(lists[sys.argv[1]], end="")
else:
    sys.exit("unexpected: " + " ".join(sys.argv))
"""
        self.script("qemu-system-x86_64", text)

    def script(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def states(self) -> dict[str, str]:
        return {answer.name: answer.state for answer in examine()}

    def found(self, name: str) -> str:
        return next(answer.found for answer in examine() if answer.name == name)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    monkeypatch.setenv("PATH", str(tmp_path))
    return FakeMachine(tmp_path)


QEMU = ["qemu-system-x86_64", "qemu: sev-snp-guest", "qemu: tcg", "qemu: microvm", "qemu: mapped-ram"]


def test_a_machine_with_everything_in_qemu(machine: FakeMachine) -> None:
    states = machine.states()
    assert [states[name] for name in QEMU] == ["ok"] * 5
    assert machine.found("qemu-system-x86_64").startswith("10.0.2 (of this test), /")


def test_a_qemu_that_lacks_one_thing_lacks_that_thing(machine: FakeMachine) -> None:
    for name, lacking in (
        ("qemu: sev-snp-guest", lambda: machine.qemu(objects=["sev-guest", "x-sev-snp-guest"])),
        ("qemu: tcg", lambda: machine.qemu(accelerators=["kvm"])),
        ("qemu: microvm", lambda: machine.qemu(machines=["pc", "microvm-2"])),
        ("qemu: mapped-ram", lambda: machine.qemu(reply=json.dumps({"return": CAPABILITIES[:1]}))),
        ("qemu: mapped-ram", lambda: machine.qemu(reply='{"error": {"class": "CommandNotFound"}}')),
        ("qemu: mapped-ram", lambda: machine.qemu(reply="")),
    ):
        lacking()
        states = machine.states()
        assert [wrong for wrong in QEMU if states[wrong] != "ok"] == [name]


def test_a_missing_qemu_is_reported_once_with_its_package(machine: FakeMachine) -> None:
    (machine.folder / "qemu-system-x86_64").unlink()
    answers = [answer for answer in examine() if answer.name in QEMU]
    assert [answer.state for answer in answers] == ["missing"] * 5
    assert "not installed" in answers[0].found
    assert answers[0].fix.startswith("apt-get install qemu-system-x86")
    assert {answer.found for answer in answers[1:]} == {"cannot be asked without qemu-system-x86_64"}
    assert {answer.fix for answer in answers[1:]} == {""}


def test_a_qemu_that_hangs_is_given_up(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ASK_SECONDS", 0.3)
    machine.script("qemu-system-x86_64", f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    began = time.monotonic()
    assert "did not answer within" in machine.found("qemu-system-x86_64")
    assert time.monotonic() - began < 10


def test_a_qemu_that_dies_says_so(machine: FakeMachine) -> None:
    machine.script("qemu-system-x86_64", f"#!{sys.executable}\nimport sys\nsys.exit('no \\x1b[31mlibslirp')\n")
    assert machine.found("qemu-system-x86_64") == "qemu-system-x86_64 exited with 1: no libslirp"
    machine.script("qemu-system-x86_64", "not a program")
    assert "cannot be run" in machine.found("qemu-system-x86_64")


def test_tools_that_are_not_on_the_path_are_missing(machine: FakeMachine) -> None:
    answers = {answer.name: answer for answer in examine()}
    for name, package in (("cpio", "cpio"), ("gcc and static libc", "libc6-dev"), ("kernel build tools", "flex")):
        assert answers[name].state == "missing"
        assert package in answers[name].fix
    for tool in ("make", "flex", "bison", "bc", "lz4"):
        assert tool in answers["kernel build tools"].found
    assert answers["linux-source"].state == "note"


def test_a_libc_that_cannot_be_linked_statically_is_missing(machine: FakeMachine) -> None:
    machine.script("gcc", "#!/bin/sh\necho '/usr/bin/ld: cannot find -lc: No such file' >&2\nexit 1\n")
    assert machine.found("gcc and static libc") == "the static C library is not installed"


def test_too_little_memory_and_disk(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_MEMORY_NEEDED", 1 << 60)
    monkeypatch.setattr(doctor, "_DISK_NEEDED", 1 << 60)
    states = machine.states()
    assert (states["memory"], states["disk"]) == ("missing", "missing")
    assert "needed 1073741824.0 GiB" in machine.found("memory")


def test_the_disk_is_that_of_the_cache_even_before_there_is_one(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine.folder / "not" / "yet"))
    assert str(machine.folder / "not" / "yet") in machine.found("disk")
    assert not (machine.folder / "not").exists()


def test_one_check_that_breaks_does_not_hide_the_others() -> None:
    def broken() -> str:
        raise PermissionError(13, "Permission denied", "/proc/meminfo")

    def absent() -> str:
        raise InfraError("absent")

    answers = examine([Check("a", broken, "mend a"), Check("b", absent, "mend b", needed=False), Check("c", str, "")])
    assert [(answer.name, answer.state, answer.fix) for answer in answers] == [
        ("a", "missing", "mend a"),
        ("b", "note", "mend b"),
        ("c", "ok", ""),
    ]


def test_every_needed_thing_has_a_command_that_mends_it() -> None:
    assert [check.name for check in CHECKS if check.needed and not check.fix] == []
    assert {check.after for check in CHECKS} <= {"", *(check.name for check in CHECKS)}


def doctor_process(path: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "doctor", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PATH": path},
        check=False,
    )


def test_json_is_one_object_and_agrees_with_the_exit_code(tmp_path: Path) -> None:
    bare = doctor_process(str(tmp_path), "--json")
    here = doctor_process(os.environ["PATH"], "--json")
    for done in (bare, here):
        report = json.loads(done.stdout)
        assert done.stderr == ""
        assert json.dumps(report, sort_keys=True) == json.dumps(report)
        assert report["ready"] == all(check["state"] != "missing" for check in report["checks"])
        assert done.returncode == (0 if report["ready"] else 3)
    assert bare.returncode == 3


def test_the_text_names_every_missing_thing_with_its_command(tmp_path: Path) -> None:
    done = doctor_process(str(tmp_path))
    assert done.returncode == 3
    assert "missing  cpio " in done.stdout
    assert "fix: apt-get install cpio\n" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("not ready, missing: qemu-system-x86_64, ")
    assert "cpio" in last
