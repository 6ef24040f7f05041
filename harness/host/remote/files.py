# SPDX-License-Identifier: GPL-2.0-only
"""What a host under test needs of ours, put there once: programs, firmware, the guest's kernel and image."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.host.reach import Reach, ReachError, check, put_file
from harness.images.firmware import firmware_from_qboot
from harness.images.recipes import QEMU_DATA
from harness.native.build import PROGRAMS, build_program

ROOT: Final = "/run/gmem-harness"
"""Below it is everything of ours on a host: a file system in memory, so that a reboot removes it."""
_SECONDS: Final = 300.0
_NOT_FOR_GUESTS: Final = ("bare", "kvmcaps", "kexec")
_RUNNABLE: Final = 0o755


@dataclass(frozen=True)
class Payload:
    """Files by their name on the host; ``key`` names their contents."""

    files: Mapping[str, bytes]

    @property
    def key(self) -> str:
        """Hexadecimal, 16 digits."""
        digest = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            digest.update(f"{name} {len(data)} ".encode() + hashlib.sha256(data).digest())
        return digest.hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Where they are on the host."""
        return f"{ROOT}/{self.key}"


def payload(guest: Path, guest_kernel: Path) -> Payload:
    """Everything that a testbed of stand-in guests takes."""
    programs = {name: program.file for name, program in PROGRAMS.items() if name not in _NOT_FOR_GUESTS}
    with tempfile.TemporaryDirectory(prefix="gmem-payload-") as scratch:
        built = {file: build_program(name, Path(scratch)).read_bytes() for name, file in programs.items()}
    return Payload(
        {
            **built,
            "firmware.bin": firmware_from_qboot(QEMU_DATA / "qboot.rom"),
            "qboot.rom": (QEMU_DATA / "qboot.rom").read_bytes(),
            "guest-kernel": guest_kernel.read_bytes(),
            "guest-image": guest.read_bytes(),
        }
    )


def install(reach: Reach, wanted: Payload) -> str:
    """Put the files there, unless they are; returns the folder.  Raises ``ReachError`` where they cannot be put."""
    done = reach.run(["test", "-e", f"{wanted.folder}/complete"])
    if done.code:
        check(reach, ["mkdir", "-p", "-m", "0700", ROOT])
        check(reach, ["mkdir", "-p", wanted.folder])
        for name, data in wanted.files.items():
            mode = _RUNNABLE if data.startswith(b"\x7fELF") else 0o644
            try:
                put_file(reach, f"{wanted.folder}/{name}", data, mode=mode, timeout=_SECONDS)
            except ReachError as error:
                raise ReachError(
                    f"{error} (it takes {sum(map(len, wanted.files.values())) >> 20} MiB in {ROOT})"
                ) from error
        put_file(reach, f"{wanted.folder}/complete", b"")
    return wanted.folder
