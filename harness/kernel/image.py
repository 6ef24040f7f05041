# SPDX-License-Identifier: GPL-2.0-only
"""Reads the header of a bzImage: is it an x86-64 Linux kernel, and which one.

Offsets are those of the kernel's ``Documentation/arch/x86/boot.rst``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError

_HEADER_BYTES = 0x268
_FOREIGN = {
    b"\x7fELF": "it is an ELF file (a vmlinux?): give arch/x86/boot/bzImage of the same build",
    b"\x1f\x8b": "it is a gzip archive",
    b"\xfd7zXZ": "it is an xz archive",
    b"070701": "it is a cpio archive (an initramfs?)",
    b"!<arch>\n": "it is a package: unpack it and give the vmlinuz in its boot folder",
}


@dataclass(frozen=True)
class ImageHeader:
    """What the header of a bzImage says."""

    # As "uname -r" prints it.
    release: str
    # As "uname -v" prints it.
    version: str
    # "user@host" of the build, "" if the header has none.
    builder: str


def read_image(path: Path) -> ImageHeader:
    """The header of the bzImage at ``path``.

    Raises :class:`UsageError` with the reason if it is no x86-64 bzImage, is cut short, or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_HEADER_BYTES)
            size = path.stat().st_size
            text = _kernel_version(path, data, size)
    except OSError as error:
        raise UsageError(f"the kernel image {path} cannot be read: {error.strerror}") from error
    release, _, rest = text.partition(" ")
    builder = ""
    if rest.startswith("("):
        builder, _, rest = rest[1:].partition(") ")
    return ImageHeader(release=release, version=rest, builder=builder)


def _kernel_version(path: Path, data: bytes, size: int) -> str:
    """The string that the header's ``kernel_version`` field points to."""

    def refuse(reason: str) -> UsageError:
        return UsageError(f"{path} is not an x86-64 kernel image (bzImage): {reason}")

    for magic, reason in _FOREIGN.items():
        if data.startswith(magic):
            raise refuse(reason)
    if len(data) < _HEADER_BYTES:
        raise refuse(f"it has only {size} bytes")
    if data[0x1FE:0x200] != b"\x55\xaa":
        raise refuse("the boot signature 0x55AA at 0x1fe is missing")
    if data[0x202:0x206] != b"HdrS":
        raise refuse('the mark "HdrS" at 0x202 is missing')
    (protocol, version_at) = struct.unpack_from("<H6xH", data, 0x206)
    (xloadflags,) = struct.unpack_from("<H", data, 0x236)
    if protocol < 0x20C or not xloadflags & 1:
        raise refuse("it has no 64-bit entry point (a 32-bit kernel?)")
    setup_sectors = data[0x1F1] or 4
    (paragraphs,) = struct.unpack_from("<I", data, 0x1F4)
    whole = (setup_sectors + 1) * 512 + paragraphs * 16
    if size < whole:
        raise refuse(f"it is cut short: its header promises {whole} bytes, the file has {size}")
    if not version_at:
        raise refuse("its header names no kernel version")
    with path.open("rb") as stream:
        stream.seek(version_at + 0x200)
        text = stream.read(512).partition(b"\0")[0]
    if not text or not text[:1].isdigit() or not text.decode("latin-1").isprintable():
        raise refuse("its kernel version is not readable")
    return text.decode("latin-1")
