# SPDX-License-Identifier: GPL-2.0-only
"""What an OVMF image says about itself: the table of GUIDs at its end.

The format is OVMF's (OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm) as QEMU reads it (hw/i386/pc_sysfw_ovmf.c).  The
last 32 bytes are the reset vector; before it stands the GUID of the table, before that its length, and the entries
follow towards the start of the image: each has its data first, then its length, then its GUID.  Lengths are 16 bits,
little endian, and count the length and the GUID too.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

RESET_VECTOR: Final = 32
_GUID: Final = 16
_HEAD: Final = _GUID + 2
"""Bytes of an entry beside its data."""

FOOTER: Final = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
SEV_METADATA: Final = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
TDX_METADATA: Final = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
SEV_HASH_TABLE: Final = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")

HASH_TABLE_BYTES: Final = 176
"""What QEMU writes there: a head of 18 bytes and three entries of 50, padded to 16 (target/i386/sev.c,
PaddedSevHashTable)."""


class FirmwareError(Exception):
    """An image that cannot be read as OVMF; the text is the rest of the sentence "IMAGE ..."."""


@dataclass(frozen=True)
class Section:
    """A range of the guest's memory that metadata names."""

    base: int
    size: int
    """Bytes."""
    kind: int
    """As the metadata numbers it: for SEV 1 memory, 2 secrets, 3 CPUID, 16 hash table; for TDX 0 boot firmware volume,
    1 configuration, 2 hand-off block, 3 temporary memory."""


@dataclass(frozen=True)
class Firmware:
    """What an image can do."""

    sev: tuple[Section, ...] | None
    """Sections that SNP's launch needs; None where the image has no such metadata."""
    tdx: tuple[Section, ...] | None
    """The same of TDX."""
    hash_table: tuple[int, int] | None
    """Guest physical address and size in bytes of the table of hashes; (0, 0) where the image reserves no place."""

    def metadata(self, name: str) -> bool:
        """Whether the image has metadata ``SEV`` or ``TDX``; '' asks for nothing."""
        return {"": True, "SEV": self.sev is not None, "TDX": self.tdx is not None}[name]

    @property
    def hashes(self) -> bool:
        """Whether QEMU can hand over hashes of kernel, initrd and command line."""
        return self.hash_table is not None and self.hash_table[0] > 0 and self.hash_table[1] >= HASH_TABLE_BYTES


def read_firmware(image: bytes) -> Firmware:
    """Read an image; raises ``FirmwareError`` for one whose table is missing or broken."""
    entries: dict[uuid.UUID, bytes] = {}
    for guid, data in _entries(image):
        if guid in entries:
            raise FirmwareError(f"has two entries {guid} in its table")
        entries[guid] = data
    sev, tdx = entries.get(SEV_METADATA), entries.get(TDX_METADATA)
    hashes = entries.get(SEV_HASH_TABLE)
    return Firmware(
        sev=None if sev is None else _sev_sections(image, _offset(image, sev, "SEV")),
        tdx=None if tdx is None else _tdx_sections(image, _offset(image, tdx, "TDX")),
        hash_table=None if hashes is None else _hash_table(hashes),
    )


def _entries(image: bytes) -> Iterator[tuple[uuid.UUID, bytes]]:
    """GUID and data of every entry, the last one in the image first."""
    end = len(image) - RESET_VECTOR
    if end < _HEAD:
        raise FirmwareError(f"has {len(image)} bytes, which is no firmware")
    if uuid.UUID(bytes_le=image[end - _GUID : end]) != FOOTER:
        raise FirmwareError("has no table of GUIDs at its end: it is no OVMF, or only a part of one (CODE or VARS)")
    (total,) = struct.unpack_from("<H", image, end - _HEAD)
    start = end - total
    if total < _HEAD or start < 0:
        raise FirmwareError(f"says that its table has {total} bytes, and has {end} before its end")
    at = end - _HEAD
    while at > start:
        if at - start < _HEAD:
            raise FirmwareError(f"has {at - start} bytes too many in its table, too few for an entry")
        guid = uuid.UUID(bytes_le=image[at - _GUID : at])
        (size,) = struct.unpack_from("<H", image, at - _HEAD)
        if not _HEAD <= size <= at - start:
            raise FirmwareError(f"has an entry {guid} of {size} bytes in its table, where {at - start} are left")
        yield guid, image[at - size : at - _HEAD]
        at -= size


def _offset(image: bytes, data: bytes, name: str) -> int:
    """Where in the image the metadata lies: the entry has the distance from the end."""
    if len(data) < 4:
        raise FirmwareError(f"has an entry of {len(data)} bytes where the offset of its {name} metadata must be")
    back = int.from_bytes(data[:4], "little")
    if not 16 <= back <= len(image):
        raise FirmwareError(f"says that its {name} metadata lies {back} bytes before its end, and has {len(image)}")
    return len(image) - back


def _sev_sections(image: bytes, at: int) -> tuple[Section, ...]:
    """OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm: ASEV, length, version, count, then base, size, type of each."""
    count = _head(image, at, b"ASEV", "SEV", 12)
    rows = struct.iter_unpack("<III", image[at + 16 : at + 16 + 12 * count])
    return tuple(_section("SEV", base, size, kind, 1 << 32) for base, size, kind in rows)


def _tdx_sections(image: bytes, at: int) -> tuple[Section, ...]:
    """OvmfPkg/ResetVector/X64/OvmfTdxMetadata.asm: TDVF and the same head, then 32 bytes for each section."""
    count = _head(image, at, b"TDVF", "TDX", 32)
    found = []
    for offset, raw, base, size, kind, _ in struct.iter_unpack("<IIQQII", image[at + 16 : at + 16 + 32 * count]):
        if offset + raw > len(image):
            raise FirmwareError(f"has a TDX section of {raw} bytes at {offset:#x}, behind its end")
        if raw > size:
            raise FirmwareError(f"has a TDX section of {raw} bytes for {size} bytes of memory")
        found.append(_section("TDX", base, size, kind, 1 << 52))
    return tuple(found)


def _head(image: bytes, at: int, signature: bytes, name: str, row: int) -> int:
    """Check the head of metadata with rows of ``row`` bytes; how many rows there are."""
    found = image[at : at + 4]
    if found != signature:
        raise FirmwareError(f"has {found!r} where its {name} metadata must begin with {signature!r}")
    length, version = struct.unpack_from("<II", image, at + 4)
    count = int.from_bytes(image[at + 12 : at + 16], "little")
    if version != 1:
        raise FirmwareError(f"has {name} metadata of version {version}, and 1 is known")
    # OVMF counts the GUID before the head in TDX's length, and not in SEV's
    if not count or length not in (16 + row * count, 32 + row * count) or at + 16 + row * count > len(image):
        raise FirmwareError(f"has {name} metadata of {length} bytes with {count} sections, which does not fit")
    return count


def _section(name: str, base: int, size: int, kind: int, limit: int) -> Section:
    if not size or base + size > limit:
        raise FirmwareError(f"has a {name} section of {size} bytes at {base:#x}, which is no memory")
    return Section(base, size, kind)


def _hash_table(data: bytes) -> tuple[int, int]:
    if len(data) < 8:
        raise FirmwareError(f"has an entry of {len(data)} bytes where base and size of its hash table must be")
    base, size = struct.unpack_from("<II", data)
    if base + size > 1 << 32:
        raise FirmwareError(f"has a hash table of {size} bytes at {base:#x}, which is no memory")
    return base, size
