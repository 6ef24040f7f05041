# SPDX-License-Identifier: GPL-2.0-only
"""Firmware images, built byte by byte."""

from __future__ import annotations

import struct
import uuid

from harness.guest.tee.firmware import FOOTER, SEV_HASH_TABLE, SEV_METADATA, TDX_METADATA

SIZE = 4096
OTHER = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SEV_AT = 2048
"""Bytes before the end of the image where it has its SEV metadata."""
TDX_AT = 1024
SEV = struct.pack("<4sIII", b"ASEV", 28, 1, 1) + struct.pack("<III", 0x800000, 0x9000, 1)
TDX_TABLE = struct.pack("<4sIII", b"TDVF", 48, 1, 1) + struct.pack("<IIQQII", 0, SIZE, 0xFFFFF000, SIZE, 0, 1)


def entry(guid: uuid.UUID, data: bytes) -> bytes:
    return data + struct.pack("<H", len(data) + 18) + guid.bytes_le


def image(
    *entries: bytes, sev: bytes = SEV, tdx: bytes = TDX_TABLE, total: int | None = None, footer: uuid.UUID = FOOTER
) -> bytes:
    """An image of ``SIZE`` bytes with these entries, the last of them nearest to the end."""
    table = b"".join(entries)
    length = len(table) + 18 if total is None else total
    end = table + struct.pack("<H", length) + footer.bytes_le + b"\xf4" * 32
    data = bytearray(SIZE - len(end)) + end
    data[SIZE - SEV_AT : SIZE - SEV_AT + len(sev)] = sev
    data[SIZE - TDX_AT : SIZE - TDX_AT + len(tdx)] = tdx
    return bytes(data)


SEV_ENTRY = entry(SEV_METADATA, struct.pack("<I", SEV_AT))
TDX_ENTRY = entry(TDX_METADATA, struct.pack("<I", TDX_AT))
HASHES = entry(SEV_HASH_TABLE, struct.pack("<II", 0x810C00, 0x400))
NO_HASHES = entry(SEV_HASH_TABLE, bytes(8))
WHOLE = image(TDX_ENTRY, SEV_ENTRY, HASHES, entry(OTHER, b"\x04\xb0\x80\x00"))
