# SPDX-License-Identifier: GPL-2.0-only
"""The emulated host's QEMU: its command line, and every way in which it can fail to become a machine.

A shell script stands for QEMU where a real one would take long or would not fail as wanted.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from harness.errors import InfraError, NoBootError
from harness.guest.console import read_console
from harness.guest.qmp import QmpSession
from harness.host.emulated.machine import (
    Machine,
    MachineSpec,
    MemoryFiles,
    StateFormat,
    command_line,
    qemu_program,
)

KERNEL, INITRD = Path("/k/bzImage"), Path("/i/host.cpio")


def arguments(run: Path, evidence: Path, *, guests: int = 1, incoming: bool = False, words: str = "") -> list[str]:
    spec = MachineSpec(guests=guests, command_line=words)
    return command_line(spec, kernel=KERNEL, initrd=INITRD, run=run, evidence=evidence, incoming=incoming)


def by_option(words: list[str]) -> list[str]:
    """One line per option with its value."""
    lines: list[str] = []
    for word in words:
        if word.startswith("-"):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return lines


GOLDEN = """
-machine q35,memory-backend=ram
-cpu max
-accel tcg,thread=multi
-smp 2
-m 3072M
-nodefaults
-no-user-config
-display none
-no-reboot
-name gmem-emulated-host
-pidfile /run/outer.pid
-qmp unix:/run/outer.qmp,server=on,wait=off
-chardev file,id=console,path=/ev/host-console.txt,append=on
-serial chardev:console
-device virtio-serial-pci,max_ports=31
-netdev user,id=net0,restrict=on,ipv6=off
-device virtio-net-pci,netdev=net0,romfile=
-kernel /k/bzImage
-initrd /i/host.cpio
-append console=ttyS0 panic=-1 loglevel=6 mem=2G
-object memory-backend-ram,id=ram,size=3072M
-chardev pipe,id=port0,path=/run/gmem.probe
-device virtserialport,chardev=port0,name=gmem.probe
-chardev pipe,id=port1,path=/run/gmem.control
-device virtserialport,chardev=port1,name=gmem.control
-chardev pipe,id=port2,path=/run/gmem.g0.agent
-device virtserialport,chardev=port2,name=gmem.g0.agent
-chardev pipe,id=port3,path=/run/gmem.g0.qmp
-device virtserialport,chardev=port3,name=gmem.g0.qmp
-chardev file,id=port4,path=/ev/g0-console.txt,append=on
-device virtserialport,chardev=port4,name=gmem.g0.console
-chardev file,id=port5,path=/ev/g0-qemu.log,append=on
-device virtserialport,chardev=port5,name=gmem.g0.log
-incoming defer
"""


class TestCommandLine:
    def test_as_it_is(self) -> None:
        words = arguments(Path("/run"), Path("/ev"), incoming=True, words="mem=2G")
        assert words[0] == str(qemu_program())
        assert by_option(words[1:]) == GOLDEN.strip().splitlines()

    def test_a_machine_that_is_not_restored_waits_for_nothing(self) -> None:
        assert "-incoming" not in arguments(Path("/run"), Path("/ev"))

    def test_the_first_ports_are_the_same_for_any_number_of_guests(self) -> None:
        one = [word for word in arguments(Path("/run"), Path("/ev")) if "port" in word]
        two = [word for word in arguments(Path("/run"), Path("/ev"), guests=2) if "port" in word]
        assert two[: len(one)] == one
        assert len(two) > len(one)

    @pytest.mark.parametrize("nodes", [1, 2])
    @pytest.mark.parametrize("copied", [False, True])
    def test_ram_in_files_is_what_the_real_qemu_maps(self, tmp_path: Path, nodes: int, copied: bool) -> None:
        memory = MemoryFiles(tmp_path / "a,b", copied=copied)
        memory.folder.mkdir()
        spec = MachineSpec(memory_mib=512, nodes=nodes)
        for backend, size in spec.memories().items():
            with memory.file(backend).open("wb") as file:
                file.truncate(size << 20)
            if copied:
                memory.file(backend).chmod(0o400)
        words = command_line(
            spec, kernel=KERNEL, initrd=INITRD, run=tmp_path, evidence=tmp_path, incoming=False, memory=memory
        )
        kept = [
            word
            for pair in pairwise(words)
            if pair[0] in ("-machine", "-object", "-numa", "-m", "-smp")
            for word in pair
        ]
        command = [words[0], *kept, "-nodefaults", "-display", "none", "-S", "-accel", "tcg"]
        path = tmp_path / "qmp"
        with subprocess.Popen([*command, "-qmp", f"unix:{path},server=on,wait=off"]) as process:
            try:
                monitor = QmpSession("QEMU", str(path), None, timeout=20, alive=lambda: process.poll() is None)
                found = monitor.execute("query-memdev")
                monitor.close()
            finally:
                process.kill()
        assert {entry["id"]: (entry["size"] >> 20, entry["share"]) for entry in found} == {
            backend: (size, not copied) for backend, size in spec.memories().items()
        }

    def test_commas_in_paths_reach_the_real_qemu(self, tmp_path: Path) -> None:
        run, evidence = tmp_path / "run,id=x", tmp_path / "ev,a=b,,c"
        run.mkdir()
        evidence.mkdir()
        words = arguments(run, evidence)
        kept = [word for pair in pairwise(words) if pair[0] in ("-qmp", "-chardev", "-pidfile") for word in pair]
        for port in MachineSpec().ports():
            if not port.file:
                for end in ("in", "out"):
                    os.mkfifo(run / f"{port.name}.{end}")
        command = [words[0], "-machine", "none", "-nodefaults", "-display", "none", *kept]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                monitor = QmpSession(
                    "QEMU", str(run / "outer.qmp"), None, timeout=20, alive=lambda: process.poll() is None
                )
                labels = {entry["label"] for entry in monitor.execute("query-chardev")}
                monitor.close()
            finally:
                process.kill()
        assert {f"port{number}" for number in range(6)} <= labels
        assert sorted(path.name for path in evidence.iterdir()) == ["g0-console.txt", "g0-qemu.log", "host-console.txt"]

    def test_no_qemu(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(InfraError, match=r"^qemu-system-x86_64 is not installed; install the Debian package"):
            arguments(Path("/run"), Path("/ev"))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Machine]]:
    """Starts a machine whose QEMU is the given shell script; $run and $evidence are its folders."""
    run, evidence, bin = tmp_path / "run", tmp_path / "evidence", tmp_path / "bin"
    for folder in (run, evidence, bin):
        folder.mkdir()
    stack = ExitStack()

    def start(script: str, *, incoming: bool = False) -> Machine:
        program = bin / "qemu-system-x86_64"
        program.write_text(
            f"#!/bin/sh\nrun={run}\nevidence={evidence}\nconsole={evidence}/host-console.txt\n{script}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{bin}:/usr/bin:/bin")
        machine = Machine(MachineSpec(), kernel=KERNEL, initrd=INITRD, run=run, evidence=evidence, incoming=incoming)
        stack.callback(machine.close)
        return machine

    yield start
    stack.close()


Start = Callable[..., Machine]
UP = "gmem: emulated host is up"


class TestBoot:
    def test_up(self, start: Start) -> None:
        machine = start(f"printf '[    1.0] one\\r\\n[    4.2] {UP}: 7.3\\r\\n' > $console; exec sleep 60")
        assert machine.wait_for_console(UP, 10) == f"[    4.2] {UP}: 7.3"
        assert machine.running

    def test_a_line_counts_when_it_is_whole(self, start: Start) -> None:
        machine = start(f"printf '{UP}: 7.' > $console; sleep 0.3; printf '3.4\\n' >> $console; exec sleep 60")
        assert machine.wait_for_console(UP, 10) == f"{UP}: 7.3.4"

    def test_up_and_gone_at_once_is_up(self, start: Start) -> None:
        machine = start(f"echo '{UP}' > $console")
        assert machine.wait_for_console(UP, 10) == UP

    def test_qemu_refuses_its_command_line(self, start: Start) -> None:
        machine = start("echo 'qemu-system-x86_64: warning: first' >&2; echo 'qemu: could not load kernel' >&2; exit 1")
        with pytest.raises(InfraError) as caught:
            machine.wait_for_console(UP, 10)
        assert str(caught.value) == (
            "QEMU ended with status 1: qemu: could not load kernel, before the kernel under test came up; "
            "it printed nothing on its console"
        )

    def test_qemu_is_killed(self, start: Start) -> None:
        machine = start("echo '[    1.0] booting' > $console; kill -9 $$")
        with pytest.raises(InfraError, match=r"^QEMU was killed by SIGKILL: .* console is: \[    1\.0\] booting$"):
            machine.wait_for_console(UP, 10)

    def test_a_panic_is_the_kernels_fault(self, start: Start) -> None:
        log = "[    2.4] Kernel panic - not syncing: VFS: no root fs\\r\\n[    2.5] Kernel Offset: disabled"
        machine = start(f"sleep 0.2; printf '{log}\\r\\n' > $console; exit 0")
        with pytest.raises(NoBootError) as caught:
            machine.wait_for_console(UP, 10)
        assert str(caught.value).startswith(
            "the kernel under test did not come up; it printed: Kernel panic - not syncing: VFS: no root fs; QEMU ended"
        )

    def test_what_is_printed_last_is_read(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """The machine prints and ends between a look at its console and a look at its process."""
        machine = start("sleep 0.3; echo 'Kernel panic - not syncing: x' > $console")

        def slowly(path: Path) -> str:
            text = read_console(path)
            end = time.monotonic() + 5
            while machine.running and time.monotonic() < end:
                time.sleep(0.01)
            return text

        monkeypatch.setattr("harness.host.emulated.machine.read_console", slowly)
        with pytest.raises(NoBootError, match="Kernel panic - not syncing: x"):
            machine.wait_for_console(UP, 10)

    def test_the_last_line_is_told_without_its_escapes(self, start: Start) -> None:
        machine = start("printf 'one\\n\\033[31mFreeing initrd\\007\\r\\n\\r\\n' > $console; exit 0")
        with pytest.raises(NoBootError, match=r"; the last line of its console is: Freeing initrd; QEMU ended with"):
            machine.wait_for_console(UP, 10)

    def test_a_kernel_that_hangs(self, start: Start) -> None:
        machine = start("echo '[    0.1] APIC: switched' > $console; exec sleep 60")
        began = time.monotonic()
        with pytest.raises(NoBootError, match=r"did not come up within 0\.3 s; the last line .*: \[    0\.1\] APIC: s"):
            machine.wait_for_console(UP, 0.3)
        assert time.monotonic() - began < 3

    def test_a_kernel_that_prints_nothing(self, start: Start) -> None:
        machine = start("exec sleep 60")
        with pytest.raises(NoBootError, match=r"within 0\.2 s; it printed nothing on its console$"):
            machine.wait_for_console(UP, 0.2)


class TestMonitor:
    def test_qemu_that_ends_without_one(self, start: Start) -> None:
        machine = start("echo 'cannot set up guest memory: Cannot allocate memory' >&2; exit 1")
        began = time.monotonic()
        with pytest.raises(InfraError, match=r"^outer QEMU: no QMP session .* QEMU ended with status 1: cannot set up"):
            machine.qmp  # noqa: B018 - connects
        assert time.monotonic() - began < 3

    def test_a_restore_tells_why_qemu_ended(self, start: Start, tmp_path: Path) -> None:
        machine = start("echo 'not a migration stream' >&2; exit 1", incoming=True)
        with pytest.raises(InfraError, match=r"status 1: not a migration stream"):
            machine.load(tmp_path / "state", StateFormat.STREAM)

    def test_last_words_while_it_runs(self, start: Start) -> None:
        machine = start("exec sleep 60")
        assert machine.last_words() == "QEMU runs and printed no error"


class TestProcess:
    def test_fifos_are_private_and_match_the_command(self, start: Start, tmp_path: Path) -> None:
        start("exec sleep 60")
        fifos = sorted((tmp_path / "run").iterdir())
        assert [path.name for path in fifos] == [
            f"gmem.{port}.{end}" for port in ("control", "g0.agent", "g0.qmp", "probe") for end in ("in", "out")
        ]
        assert {stat.filemode(path.stat().st_mode) for path in fifos} == {"prw-------"}

    def test_the_kept_script_runs_the_same_command(self, start: Start, tmp_path: Path) -> None:
        machine = start('for word in "$@"; do printf "%s\\n" "$word"; done > $evidence/words; exec sleep 60')
        end = time.monotonic() + 5
        words = tmp_path / "evidence" / "words"
        while not (words.exists() and words.read_text().endswith("gmem.g0.log\n")) and time.monotonic() < end:
            time.sleep(0.01)
        first = words.read_text()
        machine.close()
        words.unlink()
        script = tmp_path / "evidence" / "outer-qemu.sh"
        with subprocess.Popen([script]) as again:
            while not (words.exists() and words.read_text() == first):
                assert time.monotonic() < end + 5
                time.sleep(0.01)
            again.kill()

    def test_close_ends_it_and_may_be_repeated(self, start: Start) -> None:
        machine = start("trap '' TERM; sleep 60 & wait")
        machine.close()
        assert not machine.running
        machine.close()

    def test_setpriv_is_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "qemu-system-x86_64").symlink_to("/bin/sh")
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(InfraError, match=r"^setpriv is not installed; install the Debian package util-linux$"):
            Machine(MachineSpec(), kernel=KERNEL, initrd=INITRD, run=tmp_path, evidence=tmp_path)


PARENT = """
import sys, time
from pathlib import Path
from harness.host.emulated.machine import Machine, MachineSpec
place = Path(sys.argv[1])
machine = Machine(MachineSpec(), kernel=place, initrd=place, run=place / "run", evidence=place / "evidence")
print(machine.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_qemu_dies_with_the_harness(tmp_path: Path, number: signal.Signals) -> None:
    for folder in ("run", "evidence", "bin"):
        (tmp_path / folder).mkdir()
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    end = time.monotonic() + 10
    while "sleep" not in Path(f"/proc/{pid}/cmdline").read_text():
        assert time.monotonic() < end, "the fake QEMU does not start"
        time.sleep(0.01)
    parent.send_signal(number)
    parent.wait()
    parent.stdout.close()
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break
        except FileNotFoundError:
            break
        time.sleep(0.01)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("QEMU outlived the harness")
