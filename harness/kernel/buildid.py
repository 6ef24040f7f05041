# SPDX-License-Identifier: GPL-2.0-only
"""The GNU build id of a kernel: of a bzImage, and of ``/sys/kernel/notes``, which the running kernel shows.

The linker makes it of everything that it links, so two kernels with one build id are one kernel.  In a bzImage it is in
the compressed vmlinux: ``payload_offset`` and ``payload_length`` of ``Documentation/arch/x86/boot.rst`` say where.
"""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import InfraError

_NT_GNU_BUILD_ID: Final = 3
_PT_NOTE: Final = 4
_UNPACK_SECONDS: Final = 60.0
_BY_PROGRAM: Final = {b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd", b"\x89LZO": "lzop"}
"""Formats that Python cannot read; programs that a build of such a kernel needs."""


@dataclass(frozen=True)
class BuildId:
    """Hexadecimal; ``""`` with the reason why it is not known."""

    value: str
    reason: str = ""


def of_notes(notes: bytes) -> str:
    """The build id of a file or segment of ELF notes in little-endian order; ``""`` if it has none."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = at + 12
        content = name + (name_size + 3) // 4 * 4
        if kind == _NT_GNU_BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            return notes[content : content + size].hex()
        at = content + (size + 3) // 4 * 4
    return ""


def of_image(image: Path) -> BuildId:
    """The build id of a bzImage."""
    try:
        found = _of_elf(vmlinux_of(image))
    except InfraError as error:
        return BuildId("", str(error))
    except (IndexError, struct.error, ValueError) as error:
        return BuildId("", f"its payload cannot be read ({error})")
    return BuildId(found, "" if found else "it has no build id")


def vmlinux_of(image: Path) -> bytes:
    """The vmlinux in a bzImage, as the kernel's build strips it; raises :class:`InfraError` with the reason."""
    try:
        data = image.read_bytes()
        setup_sectors = data[0x1F1] or 4
        offset, length = struct.unpack_from("<II", data, 0x248)
        start = (setup_sectors + 1) * 512 + offset
        return _unpack(data[start : start + length])
    except (OSError, IndexError, struct.error, zlib.error, lzma.LZMAError, ValueError) as error:
        raise InfraError(f"its payload cannot be read ({error})") from error


def _unpack(payload: bytes) -> bytes:
    """Behind all but gzip's, the kernel's build writes the size of the content: four bytes of no format."""
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(payload)
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    if payload.startswith(b"\x5d\0\0"):
        return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload)
    if payload.startswith(b"BZh"):
        return bz2.BZ2Decompressor().decompress(payload)
    if payload.startswith(b"\x7fELF"):
        return payload
    program = _BY_PROGRAM.get(payload[:4])
    if program is None:
        raise InfraError("its payload is packed in no format that is known here")
    if shutil.which(program) is None:
        raise InfraError(f"its payload is packed with {program}, which is not installed")
    try:
        done = subprocess.run(
            [program, "-dc"], input=payload[:-4], capture_output=True, timeout=_UNPACK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InfraError(f"{program} did not unpack it within {_UNPACK_SECONDS:g} s") from error
    return done.stdout


def _of_elf(data: bytes) -> str:
    """The first build id of the segments of notes of a 64-bit ELF file."""
    if data[:5] != b"\x7fELF\x02":
        raise ValueError("it does not unpack to a vmlinux")
    (table,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, table + number * size)
        if kind == _PT_NOTE and (found := of_notes(data[offset : offset + length])):
            return found
    return ""
