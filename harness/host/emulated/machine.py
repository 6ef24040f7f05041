# SPDX-License-Identifier: GPL-2.0-only
"""The emulated host as a machine: what QEMU is asked for, and one running instance of it.

QEMU runs unprivileged under TCG with nested SVM (``-cpu max``).  Everything that must survive a save and a restore is a
virtio-serial port; nothing that matters goes over the network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from harness.errors import InfraError, NoBootError
from harness.guest.console import clean, find_crash, read_console
from harness.guest.qmp import QmpLost, QmpSession
from harness.host.emulated.ports import Port

QEMU = "qemu-system-x86_64"
MIGRATE_SECONDS = 120.0
_POLL = 0.005
# Measured on quiet hosts with one and two guests: five of eight stops found all CPUs halted, the third try at the
# latest did.  Five seconds without is a busy host, which is saved as it is.
_IDLE_TRIES = 100
_IDLE_PAUSE = 0.05


class StateFormat(Enum):
    """How the state of a machine is written."""

    STREAM = "stream"
    """As a migration, pages in the order in which they were sent."""
    MAPPED_RAM = "mapped-ram"
    """Each page at its own place in the one file; the file is read whole."""
    RAM_FILES = "ram-files"
    """The RAM in files of its own (``MemoryFiles``), which are mapped, and read where they are touched.  Loading the
    default testbed took 40 ms of CPU time in place of 195 (mapped-ram)."""


_CAPABILITY = {StateFormat.MAPPED_RAM: "mapped-ram", StateFormat.RAM_FILES: "x-ignore-shared"}


FAR_MIB = 256
"""RAM of a second node: what is left on the first one still has both its zones, DMA32 and Normal."""


@dataclass(frozen=True)
class MachineSpec:
    """Shape of the emulated host; part of the key under which its saved state lies."""

    memory_mib: int = 3072
    """More than 2.75 GiB, so that q35 puts RAM above 4 GiB too: with one zone only, the page allocator would skip
    its ALLOC_NOFRAGMENT rules."""
    cpus: int = 2
    guests: int = 1
    command_line: str = ""
    """Appended to the command line of the kernel under test."""
    nodes: int = 1
    """NUMA nodes, 1 or 2.  The second is the last FAR_MIB of the RAM, without a CPU."""

    def memories(self) -> dict[str, int]:
        """QEMU's memory backends, one for each node, with their size in MiB."""
        if self.nodes == 1:
            return {"ram": self.memory_mib}
        return {"near": self.memory_mib - FAR_MIB, "far": FAR_MIB}

    def ports(self) -> tuple[Port, ...]:
        """The virtio-serial ports, in the order in which the kernel numbers them."""
        ports = [Port("gmem.probe"), Port("gmem.control")]
        for number in range(self.guests):
            ports += [
                Port(f"gmem.g{number}.agent"),
                Port(f"gmem.g{number}.qmp"),
                Port(f"gmem.g{number}.console", file=f"g{number}-console.txt"),
                Port(f"gmem.g{number}.log", file=f"g{number}-qemu.log"),
            ]
        return tuple(ports)


@dataclass(frozen=True)
class MemoryFiles:
    """The RAM in files of a folder, one for each memory backend, in place of anonymous memory."""

    folder: Path
    copied: bool = False
    """Restored: the files are only read, and a page is copied when it is first written."""

    def file(self, backend: str) -> Path:
        """The file of a backend."""
        return self.folder / f"{backend}.bin"

    def object(self, backend: str, size_mib: int) -> str:
        """The argument of QEMU's ``-object``."""
        mapped = "share=off,readonly=on,rom=off" if self.copied else "share=on"
        return f"memory-backend-file,id={backend},size={size_mib}M,mem-path={_escape(self.file(backend))},{mapped}"


def qemu_program() -> Path:
    """The QEMU that runs the emulated host; raises ``InfraError`` when there is none."""
    found = shutil.which(QEMU)
    if not found:
        raise InfraError(f"{QEMU} is not installed; install the Debian package qemu-system-x86 (10.0 or later)")
    return Path(found)


def command_line(
    spec: MachineSpec,
    *,
    kernel: Path,
    initrd: Path,
    run: Path,
    evidence: Path,
    incoming: bool,
    memory: MemoryFiles | None = None,
) -> list[str]:
    """QEMU's arguments for an emulated host whose FIFOs lie in ``run`` and whose consoles go to ``evidence``.

    Without ``memory`` its RAM is anonymous memory.
    """
    backends = spec.memories()
    arguments = [
        str(qemu_program()),
        *("-machine", "q35" if len(backends) > 1 else f"q35,memory-backend={next(iter(backends))}"),
        *("-cpu", "max"),  # the only model with everything that TCG's SVM offers
        *("-accel", "tcg,thread=multi"),
        *("-smp", str(spec.cpus)),
        *("-m", f"{spec.memory_mib}M"),
        "-nodefaults",
        "-no-user-config",
        *("-display", "none"),
        "-no-reboot",  # the kernel runs with panic=-1: a panic ends QEMU
        *("-name", "gmem-emulated-host"),
        *("-pidfile", f"{run}/outer.pid"),
        *("-qmp", f"unix:{_escape(run / 'outer.qmp')},server=on,wait=off"),
        *("-chardev", f"file,id=console,path={_escape(evidence / 'host-console.txt')},append=on"),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-pci,max_ports=31"),
        *("-netdev", "user,id=net0,restrict=on,ipv6=off"),  # reached only by forwards that are asked for
        *("-device", "virtio-net-pci,netdev=net0,romfile="),
        *("-kernel", str(kernel)),
        *("-initrd", str(initrd)),
        *("-append", f"console=ttyS0 panic=-1 loglevel=6 {spec.command_line}".strip()),
    ]
    for backend, size in backends.items():
        anonymous = f"memory-backend-ram,id={backend},size={size}M"
        arguments += ["-object", memory.object(backend, size) if memory else anonymous]
    if len(backends) > 1:
        arguments += [
            *("-numa", f"node,nodeid=0,memdev=near,cpus=0-{spec.cpus - 1}"),
            *("-numa", "node,nodeid=1,memdev=far"),
        ]
    for number, port in enumerate(spec.ports()):
        back = f"file,id=port{number},path={_escape(evidence / port.file)},append=on"
        if not port.file:
            back = f"pipe,id=port{number},path={_escape(run / port.name)}"
        arguments += ["-chardev", back, "-device", f"virtserialport,chardev=port{number},name={port.name}"]
    if incoming:
        arguments += ["-incoming", "defer"]
    return arguments


def _escape(path: Path) -> str:
    """A path inside a QEMU option list: a comma is written twice."""
    return str(path).replace(",", ",,")


class Machine:
    """One running emulated host: its process and its monitor."""

    def __init__(
        self,
        spec: MachineSpec,
        *,
        kernel: Path,
        initrd: Path,
        run: Path,
        evidence: Path,
        incoming: bool = False,
        memory: MemoryFiles | None = None,
    ) -> None:
        self.spec = spec
        self.evidence = evidence
        self.memory = memory
        for port in spec.ports():
            if not port.file:
                for end in ("in", "out"):
                    os.mkfifo(run / f"{port.name}.{end}", 0o600)
        arguments = command_line(
            spec, kernel=kernel, initrd=initrd, run=run, evidence=evidence, incoming=incoming, memory=memory
        )
        self._errors = evidence / "outer-qemu-errors.txt"
        write_script(evidence / "outer-qemu.sh", arguments)
        # setpriv: QEMU dies with us even before it has written its pid file.
        try:
            with self._errors.open("ab") as errors:
                self._process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", "--", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    start_new_session=True,
                )
        except FileNotFoundError as error:
            raise InfraError("setpriv is not installed; install the Debian package util-linux") from error
        self._qmp_path = str(run / "outer.qmp")
        self._qmp: QmpSession | None = None

    @property
    def pid(self) -> int:
        """Process id of the outer QEMU."""
        return self._process.pid

    @property
    def qmp(self) -> QmpSession:
        """The outer monitor, connected on first use."""
        if self._qmp is None:
            try:
                self._qmp = QmpSession(
                    "outer QEMU", self._qmp_path, self.evidence / "outer-qmp.txt", alive=lambda: self.running
                )
            except QmpLost as error:
                raise InfraError(f"{error}; {self.last_words()}") from error
        return self._qmp

    @property
    def running(self) -> bool:
        """Whether QEMU still runs."""
        return self._process.poll() is None

    def last_words(self) -> str:
        """What QEMU wrote to stderr last, and how it ended, for an error's sentence."""
        text = clean(read_console(self._errors)).strip().splitlines()
        said = text[-1][:300] if text else "it printed nothing"
        status = self._process.poll()
        if status is None:
            return f"QEMU runs; it printed last: {said}" if text else "QEMU runs and printed no error"
        ended = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"QEMU {ended}: {said}"

    def save(self, state: Path) -> StateFormat:
        """Stop the machine and write its whole state to ``state``; RAM that is in shared files stays where it is.

        How it is written follows from what QEMU says it can do, not from its version.
        """
        known = self._capabilities()
        in_files = self.memory is not None and not self.memory.copied
        wanted = StateFormat.RAM_FILES if in_files else StateFormat.MAPPED_RAM
        form = wanted if _CAPABILITY[wanted] in known else StateFormat.STREAM
        self._stop_idle()
        self._migrate("migrate", state, form)
        if self.memory and in_files:
            for backend in self.spec.memories():
                file = self.memory.file(backend)
                _dig_holes(file) if form is wanted else file.unlink()
        return form

    def _capabilities(self) -> set[str]:
        """What QEMU can do to a migration."""
        return {str(entry["capability"]) for entry in self.qmp.execute("query-migrate-capabilities")}

    def _stop_idle(self) -> None:
        """Stop while every CPU is halted, if that can be had.

        QEMU writes a CPU that runs a nested guest and refuses to read it again ("vCPU set in guest-mode inconsistent
        with migrated kernel nested state", target/i386/machine.c, whatever the accelerator is).  A halted CPU is in
        the host's own idle loop.
        """
        for _ in range(_IDLE_TRIES):
            self.qmp.execute("stop")
            registers = str(self.qmp.execute("human-monitor-command", {"command-line": "info registers -a"}))
            if "HLT=0" not in registers:
                return
            self.qmp.execute("cont")
            time.sleep(_IDLE_PAUSE)
        self.qmp.execute("stop")

    def load(self, state: Path, form: StateFormat) -> None:
        """Load a saved state into a machine started with ``incoming=True``; it stays stopped."""
        self._migrate("migrate-incoming", state, form)

    def _migrate(self, command: str, state: Path, form: StateFormat) -> None:
        """Run a migration to its end; a QEMU that cannot load a state says why on stderr and ends."""
        try:
            self._follow_migration(command, state, form)
        except QmpLost as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)  # its monitor goes a moment before it does
            raise InfraError(f"{command} of {state} failed: {self.last_words()}") from error

    def _follow_migration(self, command: str, state: Path, form: StateFormat) -> None:
        known = self._capabilities()
        wanted = [  # all of them: what a restore switched on would change the format of a later save
            {"capability": name, "state": name == _CAPABILITY.get(form)}
            for name in _CAPABILITY.values()
            if name in known
        ]
        if wanted:
            self.qmp.execute("migrate-set-capabilities", {"capabilities": wanted})
        self.qmp.execute(command, {"uri": f"file:{state}"})
        end = time.monotonic() + MIGRATE_SECONDS
        while True:
            answer = self.qmp.execute("query-migrate")
            status = answer.get("status")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise InfraError(f"{command} of {state} failed: {answer.get('error-desc', 'QEMU gives no reason')}")
            if time.monotonic() > end:
                raise InfraError(f"{command} of {state} did not finish within {MIGRATE_SECONDS:g} s")
            time.sleep(_POLL)

    def resume(self) -> None:
        """Let the machine run."""
        self.qmp.execute("cont")

    def wait_for_console(self, text: str, timeout: float) -> str:
        """Wait until the host's console shows ``text`` and return that line.

        Raises ``NoBootError`` when the kernel ends the machine first or the deadline passes, and ``InfraError`` when
        QEMU fails: a kernel that panics ends it with status 0.
        """
        console = self.evidence / "host-console.txt"
        end = time.monotonic() + timeout
        while True:
            running = self.running  # asked before the console is read: what comes last must be in what is read
            seen = read_console(console)
            for line in seen[: seen.rfind("\n") + 1].splitlines():
                if text in line:
                    return line
            if not running and self._process.returncode:
                raise InfraError(f"{self.last_words()}, before the kernel under test came up; {_told(seen)}")
            if not running:
                raise NoBootError(f"the kernel under test did not come up; {_told(seen)}; {self.last_words()}")
            if time.monotonic() > end:
                raise NoBootError(f"the kernel under test did not come up within {timeout:g} s; {_told(seen)}")
            time.sleep(0.02)

    def close(self) -> None:
        """End QEMU at once; there is no orderly shutdown to wait for."""
        if self._qmp is not None:
            self._qmp.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(10)


def _dig_holes(file: Path) -> None:
    """Give back the blocks of a file that hold zeroes: most of a machine's RAM was never used."""
    try:
        subprocess.run(
            ["fallocate", "--dig-holes", str(file)], check=True, capture_output=True, timeout=MIGRATE_SECONDS
        )
    except FileNotFoundError as error:
        raise InfraError("fallocate is not installed; install the Debian package util-linux") from error
    except subprocess.CalledProcessError as error:
        if b"not supported" not in error.stderr:  # a file system without holes keeps the zeroes
            raise InfraError(f"fallocate --dig-holes {file} failed: {error.stderr.decode().strip()}") from error


def _told(console: str) -> str:
    """What a console says about why a kernel did not come up, as part of a sentence."""
    crash = find_crash(console)
    if crash:
        return f"it printed: {crash.title}"
    last = next((line for line in reversed(clean(console).splitlines()) if line.strip()), "")[:200]
    return f"the last line of its console is: {last}" if last else "it printed nothing on its console"


def write_script(path: Path, arguments: list[str]) -> None:
    """Write a command as a shell script that a person can read, edit and run."""
    quoted = [
        argument if argument.replace("-", "").replace("_", "").isalnum() else _quote(argument) for argument in arguments
    ]
    lines = ["#!/bin/sh", "# SPDX-License-Identifier: GPL-2.0-only", "exec " + " \\\n    ".join(quoted), ""]
    path.write_text("\n".join(lines))
    path.chmod(0o755)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
