# SPDX-License-Identifier: GPL-2.0-only
"""Compile the small C programs that run on the host under test and in the guest.

A program is every ``*.c`` of a few folders beside this file. Programs are static, so that one binary runs on any
distribution and inside an initramfs; a preloaded library is a shared object. Nothing is cached here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from harness.errors import InfraError

HERE: Final = Path(__file__).parent
_COMMON: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing")
_COMPILE_SECONDS: Final = 120.0  # the largest takes 2 s on a busy laptop core


class BuildError(InfraError):
    """A native program cannot be compiled on this machine."""


_PRELOADED: Final = ("-shared", "-fPIC", "-Wl,--as-needed", "-ldl")


@dataclass(frozen=True)
class NativeProgram:
    """One program: which folders make it, and how it is linked."""

    folders: tuple[str, ...]  # every *.c in them is compiled, and each is on the include path
    file: str  # name of the result
    link: tuple[str, ...] = ("-static",)


PROGRAMS: Final[Mapping[str, NativeProgram]] = MappingProxyType(
    {
        # reads the counters of a host without moving them
        "probe": NativeProgram(folders=("probe", "frame"), file="gmem-probe"),
        # starts processes and moves files, in the emulated host and in the guest
        "control": NativeProgram(folders=("control", "frame"), file="gmem-control"),
        # carries the streams of all others over one link, to a host that is reached over SSH
        "relay": NativeProgram(folders=("relay", "frame"), file="gmem-relay"),
        # has a guest_memfd without a guest, on the machine it runs on
        "bare": NativeProgram(folders=("bare", "frame"), file="gmem-bare"),
        # takes memory of the host and keeps it
        "pressure": NativeProgram(folders=("pressure",), file="gmem-pressure"),
        # asks KVM of a host what it can do
        "kvmcaps": NativeProgram(folders=("kvmcaps",), file="gmem-kvmcaps"),
        # puts a kernel into the memory of a host and starts it
        "kexec": NativeProgram(folders=("kexec",), file="gmem-kexec"),
        # stands in for the SNP firmware under a stock QEMU
        "snp-standin": NativeProgram(
            folders=("interposer/snp", "interposer/slots"), file="snp-standin.so", link=_PRELOADED
        ),
        # the same for the TDX module
        "tdx-standin": NativeProgram(
            folders=("interposer/tdx", "interposer/slots"), file="tdx-standin.so", link=_PRELOADED
        ),
        # makes a software-protected VM of an ordinary one
        "swprot": NativeProgram(folders=("interposer/direct",), file="swprot.so", link=_PRELOADED),
        # behind one of them: translates for a kernel that converts in place
        "inplace": NativeProgram(folders=("interposer/inplace",), file="inplace.so", link=_PRELOADED),
    }
)


def build_program(name: str, out: Path, compiler: str = "gcc") -> Path:
    """Compile the program ``name`` of PROGRAMS into the directory ``out`` (made if missing) and return its path.

    The result appears under its name only when it is complete. Raises BuildError when the compiler or the static C
    library is missing, or when the sources do not compile; KeyError for an unknown name.
    """
    program = PROGRAMS[name]
    tool = shutil.which(compiler)
    if tool is None:
        raise BuildError(
            f"cannot build {program.file}: there is no {compiler} here; install it (Debian: apt install gcc libc6-dev)"
        )
    folders = [HERE / folder for folder in program.folders]
    sources = [str(source) for folder in folders for source in sorted(folder.glob("*.c"))]
    out.mkdir(parents=True, exist_ok=True)
    target = out / program.file
    part = out / f".{program.file}.{os.getpid()}"
    includes = [f"-I{folder}" for folder in folders]
    try:
        _run([tool, *_COMMON, *includes, *program.link, "-o", str(part), *sources], program.file)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _run(command: list[str], file: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"cannot build {file}: the compiler did not finish within {_COMPILE_SECONDS:.0f} s") from error
    if done.returncode == 0:
        return
    if "cannot find -lc" in done.stderr:
        raise BuildError(
            f"cannot build {file}: the static C library is missing; install it (Debian: apt install libc6-dev)"
        )
    first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
    raise BuildError(f"cannot build {file}: {command[0]} exited with {done.returncode}: {first}")
