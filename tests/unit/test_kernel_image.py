# SPDX-License-Identifier: GPL-2.0-only
"""What is a kernel image, and what only looks like one."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.kernel.image import ImageHeader, read_image

TEXT = b"7.3.4 (gmem@0123) #1 SMP PREEMPT Thu Jan  1 00:00:00 UTC 1970\0"


def image(**changes: bytes) -> bytes:
    """The smallest bzImage: one setup sector beside the boot sector, 32 bytes of kernel, the version at 0x300."""
    data = bytearray(2 * 512 + 32)
    fields = {
        "setup_sects": (0x1F1, b"\x01"),
        "syssize": (0x1F4, struct.pack("<I", 2)),
        "boot_flag": (0x1FE, b"\x55\xaa"),
        "magic": (0x202, b"HdrS"),
        "protocol": (0x206, struct.pack("<H", 0x20F)),
        "kernel_version": (0x20E, struct.pack("<H", 0x100)),
        "xloadflags": (0x236, struct.pack("<H", 1)),
        "text": (0x300, TEXT),
    }
    for name, (offset, value) in fields.items():
        value = changes.get(name, value)
        data[offset : offset + len(value)] = value
    return bytes(data)


def read(tmp_path: Path, data: bytes) -> ImageHeader:
    (tmp_path / "bzImage").write_bytes(data)
    return read_image(tmp_path / "bzImage")


def test_a_kernel(tmp_path: Path) -> None:
    header = read(tmp_path, image())
    assert header.release == "7.3.4"
    assert header.version == "#1 SMP PREEMPT Thu Jan  1 00:00:00 UTC 1970"
    assert header.builder == "gmem@0123"


def test_a_version_without_builder(tmp_path: Path) -> None:
    assert read(tmp_path, image(text=b"6.1.0 #1 x\0")) == ImageHeader("6.1.0", "#1 x", "")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (image(boot_flag=b"\0\0"), "the boot signature 0x55AA at 0x1fe is missing"),
        (image(magic=b"HdrT"), 'the mark "HdrS" at 0x202 is missing'),
        (image(protocol=struct.pack("<H", 0x204)), "no 64-bit entry point"),
        (image(xloadflags=b"\0\0"), "no 64-bit entry point"),
        (image(kernel_version=b"\0\0"), "names no kernel version"),
        (image(text=b"\x1b]0;x\0"), "kernel version is not readable"),
        (image(text=b"7.3\x1b[31m\0"), "kernel version is not readable"),
        (image()[:-1], "it is cut short: its header promises 1056 bytes, the file has 1055"),
        (image(syssize=struct.pack("<I", 3)), "it is cut short: its header promises 1072 bytes"),
        (b"", "it has only 0 bytes"),
        (b"x" * 100, "it has only 100 bytes"),
        (b"\x7fELF" + bytes(5000), r"it is an ELF file \(a vmlinux\?\): give arch/x86/boot/bzImage"),
        (b"\x1f\x8b" + bytes(5000), "it is a gzip archive"),
        (b"070701" + bytes(5000), "it is a cpio archive"),
    ],
)
def test_no_kernel(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        read(tmp_path, data)
    assert "bzImage is not an x86-64 kernel image" in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_image(tmp_path)
