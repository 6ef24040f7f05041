# SPDX-License-Identifier: GPL-2.0-only
"""The build id in notes, and in what a bzImage packs."""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.kernel.buildid import BuildId, of_image, of_notes
from tests.unit.test_kernel_image import image

ID = bytes(range(20))
NOTE = struct.pack("<III", 4, 20, 3) + b"GNU\0" + ID
OTHER = struct.pack("<III", 6, 5, 0x101) + b"Linux\0\0\0" + b"12345\0\0\0"


def vmlinux(notes: bytes) -> bytes:
    """An ELF file with one segment, of notes."""
    header = bytearray(64)
    header[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", header, 0x20, 64)
    struct.pack_into("<HH", header, 0x36, 56, 1)
    return bytes(header) + struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(notes), len(notes), 4) + notes


def bzimage(path: Path, payload: bytes) -> Path:
    """A bzImage with that payload, 32 bytes into its kernel."""
    data = bytearray(image())
    struct.pack_into("<II", data, 0x248, 32, len(payload))
    path.write_bytes(bytes(data) + payload)
    return path


def test_notes() -> None:
    assert of_notes(OTHER + NOTE) == ID.hex()
    assert of_notes(OTHER) == ""
    assert of_notes(b"") == ""
    assert of_notes(NOTE[:10]) == ""


def gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


SIZE = b"\x40\0\0\0"
PACKERS: list[Callable[[bytes], bytes]] = [
    gzip,
    lambda data: lzma.compress(data, check=lzma.CHECK_CRC32) + SIZE,
    lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE) + SIZE,
    lambda data: bz2.compress(data) + SIZE,
    lambda data: data,
]


@pytest.mark.parametrize("packer", PACKERS)
def test_every_format_that_python_reads(tmp_path: Path, packer: Callable[[bytes], bytes]) -> None:
    assert of_image(bzimage(tmp_path / "k", packer(vmlinux(OTHER + NOTE)))) == BuildId(ID.hex())


@pytest.mark.parametrize(("program", "words"), [("lz4", ["-l"]), ("zstd", [])])
def test_formats_of_programs(tmp_path: Path, program: str, words: list[str]) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    packed = subprocess.run([program, *words, "-c"], input=vmlinux(NOTE), capture_output=True, check=True).stdout
    assert of_image(bzimage(tmp_path / "k", packed + SIZE)) == BuildId(ID.hex())


def test_why_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_image(bzimage(tmp_path / "k", vmlinux(OTHER))) == BuildId("", "it has no build id")
    assert "packed in no format" in of_image(bzimage(tmp_path / "k", b"????")).reason
    assert "cannot be read" in of_image(bzimage(tmp_path / "k", gzip(b"no ELF"))).reason
    assert "cannot be read" in of_image(bzimage(tmp_path / "k", b"\x1f\x8b?")).reason
    monkeypatch.setenv("PATH", "")
    assert "lz4, which is not installed" in of_image(bzimage(tmp_path / "k", b"\x02\x21\x4c\x18....")).reason
