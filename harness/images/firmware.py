# SPDX-License-Identifier: GPL-2.0-only
"""The guest firmware: QEMU's packaged qboot with the table that QEMU asks of an SNP or a TDX firmware.

QEMU starts an ``sev-snp-guest`` only from an image that carries a GUIDed table (it ends 32 bytes before the end of the
image) with an SEV metadata entry and a reset block, and a ``tdx-guest`` only from one with TDX metadata.  qboot has its
16-bit entry code and its GDT exactly there.  Both are moved into the zero area below, and the three operands that hold
their addresses are corrected.  Everything is compared byte for byte with the one layout that is known, so that another
qboot is refused rather than broken.

Layout of the table: the one that OVMF ends with; of the metadata: QEMU's ``target/i386/sev.c`` and
``hw/i386/tdvf.c``.
"""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

from harness.errors import InfraError

ROM_SIZE = 0x10000
_CODE, _CODE_SIZE = 0xFF80, 0x41
_GDT, _GDT_SIZE = 0xFFC1, 0x28
_POINTER, _POINTER_SIZE = 0xFFE9, 6
_RESET_JUMP = 0xFFF0

_NEW_CODE = 0xFE80
_NEW_POINTER = 0xFEC8
_NEW_GDT = 0xFED0
_METADATA = 0xFE40
"""Where the (empty) SEV metadata goes; all of 0xfe40..0xff00 is zero in the package's image."""

_TDX_METADATA = 0xFF00
"""Where the TDX metadata goes; up to 0xff80 it is as empty."""
_TD_HOB, _TD_HOB_SIZE = 0x80000, 0x1000
"""Guest physical address of the list of memory that QEMU makes for a TD; qboot uses neither it nor its place."""
_BFV, _HOB = 0, 2
"""Types of sections in TDX metadata: boot firmware volume, hand-off blocks."""

_TABLE_END = ROM_SIZE - 32
_GUID_SEV_METADATA = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
_GUID_TDX_METADATA = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
_GUID_RESET_BLOCK = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
_GUID_FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_RESET_VECTOR = 0xFFFFFFF0

_ENTRY_CODE = bytes.fromhex(
    "31c08ed88ec08ee08ee88ed0bc007c"  # clear the segments, set a stack
    "0f20c06625ffffff9f0c010f22c0"  # caches on, protected mode on
    "2e660f0116e9ff"  # lgdtl %cs:0xffe9
    "66eaacffffff0800"  # ljmpl $0x8, $0xffffffac
    "66b810008ed88ec08ee08ee88ed0"  # flat data segments
    "ea0000ffff0800"  # ljmp $0x8, $0xffff0000
)
_GDT_POINTER = bytes.fromhex("2700c1ffffff90")  # and a byte of filling, which the image does not keep
_JUMP = bytes.fromhex("e98dff")


def _expect(rom: bytes, offset: int, expected: bytes, what: str, source: Path) -> None:
    found = rom[offset : offset + len(expected)]
    if found != expected:
        at = next(n for n, byte in enumerate(expected) if found[n] != byte)
        raise InfraError(
            f"{source}: this is not the qboot that the harness knows (byte {offset + at:#x}, in {what}, is "
            f"{found[at]:#04x}, expected {expected[at]:#04x}); install the qemu-system-data package of QEMU 10.0 or "
            f"teach harness/images/firmware.py the new layout"
        )


def _table() -> bytes:
    """The GUIDed table: entries end with their length and GUID, the footer is last."""

    def entry(data: bytes, guid: uuid.UUID, total: int | None = None) -> bytes:
        length = len(data) + 2 + 16 if total is None else total
        return data + struct.pack("<H", length) + guid.bytes_le

    entries = entry(struct.pack("<I", ROM_SIZE - _METADATA), _GUID_SEV_METADATA)
    entries += entry(struct.pack("<I", ROM_SIZE - _TDX_METADATA), _GUID_TDX_METADATA)
    entries += entry(struct.pack("<I", _RESET_VECTOR), _GUID_RESET_BLOCK)
    return entries + entry(b"", _GUID_FOOTER, total=len(entries) + 18)


def _tdx_metadata() -> bytes:
    """The two sections without which QEMU starts no TD: the image itself, and room for the list of memory."""
    section = struct.Struct("<IIQQII")  # offset and size in the image, address and size in memory, type, attributes
    sections = section.pack(0, ROM_SIZE, (1 << 32) - ROM_SIZE, ROM_SIZE, _BFV, 0)
    sections += section.pack(0, 0, _TD_HOB, _TD_HOB_SIZE, _HOB, 0)
    head = struct.Struct("<4sIII")
    return head.pack(b"TDVF", head.size + len(sections), 1, len(sections) // section.size) + sections


def firmware_from_qboot(source: Path) -> bytes:
    """The firmware image (65,536 bytes) made of the qboot at ``source``.

    Raises ``InfraError`` when the file is missing or has another layout than the known one.
    """
    try:
        rom = source.read_bytes()
    except OSError as error:
        raise InfraError(f"{source}: cannot read qboot ({error.strerror}); install qemu-system-data") from error
    if len(rom) != ROM_SIZE:
        raise InfraError(
            f"{source}: qboot is {len(rom)} bytes long, expected {ROM_SIZE}; the harness knows only that one"
        )
    _expect(rom, _CODE, _ENTRY_CODE, "the entry code", source)
    _expect(rom, _POINTER, _GDT_POINTER, "the GDT pointer", source)
    _expect(rom, _RESET_JUMP, _JUMP, "the reset jump", source)
    _expect(rom, _METADATA, bytes(_CODE - _METADATA), "the area that must be free", source)

    image = bytearray(rom)
    code = bytearray(rom[_CODE : _CODE + _CODE_SIZE])
    struct.pack_into("<H", code, _ENTRY_CODE.index(b"\x2e\x66\x0f\x01\x16") + 5, _NEW_POINTER)
    far_jump = _ENTRY_CODE.index(b"\x66\xea\xac\xff\xff\xff")
    struct.pack_into("<I", code, far_jump + 2, 0xFFFFFFAC - (_CODE - _NEW_CODE))
    image[_NEW_CODE : _NEW_CODE + _CODE_SIZE] = code
    image[_NEW_GDT : _NEW_GDT + _GDT_SIZE] = rom[_GDT : _GDT + _GDT_SIZE]
    image[_NEW_POINTER : _NEW_POINTER + _POINTER_SIZE] = struct.pack("<HI", _GDT_SIZE - 1, 0xFFFF0000 + _NEW_GDT)

    table = _table()
    image[_CODE:_RESET_JUMP] = bytes(_RESET_JUMP - _CODE)
    image[_TABLE_END - len(table) : _TABLE_END] = table
    image[_METADATA : _METADATA + 16] = b"ASEV" + struct.pack("<III", 16, 1, 0)
    tdx = _tdx_metadata()
    image[_TDX_METADATA : _TDX_METADATA + len(tdx)] = tdx
    struct.pack_into("<h", image, _RESET_JUMP + 1, _NEW_CODE - (_RESET_JUMP + 3))
    return bytes(image)
