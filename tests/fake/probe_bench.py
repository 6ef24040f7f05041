# SPDX-License-Identifier: GPL-2.0-only
"""The real probe as a child process over pipes, and processes that hold a guest_memfd for it to watch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.host.frames import FrameChannel
from harness.host.probe import ProbeClient

ROOT: Final = os.geteuid() == 0  # without it the probe cannot settle, watch or count; the tests then expect refusals


@dataclass(frozen=True)
class Bench:
    """A running probe and the ways to reach it."""

    process: subprocess.Popen[bytes]
    channel: FrameChannel
    probe: ProbeClient

    def minor_faults(self) -> int:
        """Pages the probe's process has faulted in so far (/proc/PID/stat, minflt)."""
        return int(Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[7])

    def status_kb(self, name: str) -> int:
        """A memory line of /proc/PID/status, such as VmRSS or VmLck."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0])


@contextmanager
def running(binary: Path, *arguments: str) -> Iterator[Bench]:
    """Start the probe with a channel over pipes; it is killed at the end."""
    with subprocess.Popen([binary, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with FrameChannel(os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno())) as channel:
                yield Bench(process, channel, ProbeClient(channel))
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                process.stdin.close()


# Holds a file of SIZE bytes as QEMU holds its guest_memfd: the real thing when KVM can make one, or a memfd whose link
# looks like one. Prints what it made, waits for the end of its input.
_HOLDER: Final = """
import fcntl, os, struct, sys, threading
kind, threads, sizes = sys.argv[1], int(sys.argv[2]), [int(size) for size in sys.argv[3:]]
for _ in range(threads):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
made = "nothing"
if kind == "memfd":
    fds = [os.memfd_create("kvm-gmem") for _ in sizes]
    for fd, size in zip(fds, sizes):
        os.ftruncate(fd, size)
    made = "memfd"
elif kind == "kvm":
    KVM_CREATE_VM, KVM_CREATE_GUEST_MEMFD, MMAP, INIT_SHARED = 0xAE01, 0xC040AED4, 1, 2
    try:
        vm = fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), KVM_CREATE_VM, 0)
        fds = [
            fcntl.ioctl(vm, KVM_CREATE_GUEST_MEMFD, bytearray(struct.pack("8Q", size, MMAP | INIT_SHARED, *[0] * 6)))
            for size in sizes
        ]
        made = "kvm"
    except OSError:
        pass
print(made, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Holder:
    """A process that stands for a QEMU: ``made`` is "kvm", "memfd" or "nothing"."""

    process: subprocess.Popen[str]
    made: str

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def holding(kind: str, *sizes: int, threads: int = 0) -> Iterator[Holder]:
    """A process with one file of ``kind`` per size, and ``threads`` idle threads beside its first.

    For "kvm" on a machine that cannot make one it holds nothing.
    """
    command = [sys.executable, "-I", "-c", _HOLDER, kind, *map(str, (threads, *sizes))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Holder(process, process.stdout.readline().strip())
        finally:
            process.kill()
