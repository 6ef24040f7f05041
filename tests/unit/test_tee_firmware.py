# SPDX-License-Identifier: GPL-2.0-only
"""Firmware images built byte by byte: what is read of whole ones, and the sentence for every way to be broken."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import NothingRanError
from harness.guest.tee.candidates import PLACES, Candidate, Place, choose_firmware, gather
from harness.guest.tee.firmware import (
    FOOTER,
    SEV_HASH_TABLE,
    SEV_METADATA,
    TDX_METADATA,
    Firmware,
    FirmwareError,
    Section,
    read_firmware,
)
from harness.guest.tee.kinds import PLAIN, SNP, TDX, TeeKind
from harness.host.reach import Done
from tests.fake.firmware_images import (
    HASHES,
    NO_HASHES,
    OTHER,
    SEV,
    SEV_ENTRY,
    SIZE,
    TDX_ENTRY,
    TDX_TABLE,
    WHOLE,
    entry,
    image,
)


def test_a_whole_image() -> None:
    assert read_firmware(WHOLE) == Firmware(
        sev=(Section(0x800000, 0x9000, 1),), tdx=(Section(0xFFFFF000, SIZE, 0),), hash_table=(0x810C00, 0x400)
    )
    assert read_firmware(WHOLE).hashes


def test_an_empty_table_says_that_it_can_nothing() -> None:
    firmware = read_firmware(image())
    assert firmware == Firmware(None, None, None)
    assert not firmware.hashes
    assert [firmware.metadata(name) for name in ("", "SEV", "TDX")] == [True, False, False]


@pytest.mark.parametrize(
    ("base", "size", "usable"),
    [(0x810C00, 0x400, True), (0x810C00, 176, True), (0x810C00, 175, False), (0, 0x400, False), (0, 0, False)],
)
def test_hashes_need_a_place_that_is_large_enough(base: int, size: int, usable: bool) -> None:
    assert read_firmware(image(entry(SEV_HASH_TABLE, struct.pack("<II", base, size)))).hashes == usable


BROKEN = {
    "is no firmware": b"\0" * 49,
    "no table of GUIDs at its end": image(footer=OTHER),
    "its table has 5000 bytes, and has 4064": image(total=5000),
    "its table has 17 bytes": image(total=17),
    "7 bytes too many in its table": image(HASHES, total=len(HASHES) + 18 + 7),
    r"entry \S+ of 27 bytes in its table, where 26 are left": image(HASHES[:8] + b"\x1b\0" + HASHES[10:]),
    r"entry \S+ of 17 bytes in its table": image(HASHES[:8] + b"\x11\0" + HASHES[10:]),
    "two entries dc886566": image(SEV_ENTRY, SEV_ENTRY),
    "3 bytes where the offset of its SEV metadata": image(entry(SEV_METADATA, b"\0\0\0")),
    "TDX metadata lies 4097 bytes before its end": image(entry(TDX_METADATA, struct.pack("<I", SIZE + 1))),
    "SEV metadata lies 15 bytes before its end": image(entry(SEV_METADATA, struct.pack("<I", 15))),
    "must begin with b'ASEV'": image(SEV_ENTRY, sev=b"VESA" + SEV[4:]),
    "must begin with b'TDVF'": image(TDX_ENTRY, tdx=b"\0" * 8),
    "SEV metadata of version 2": image(SEV_ENTRY, sev=SEV[:8] + b"\x02" + SEV[9:]),
    "SEV metadata of 28 bytes with 2 sections": image(SEV_ENTRY, sev=SEV[:12] + b"\x02" + SEV[13:]),
    "SEV metadata of 28 bytes with 0 sections": image(SEV_ENTRY, sev=SEV[:12] + b"\x00" + SEV[13:]),
    "TDX metadata of 320000016 bytes": image(
        TDX_ENTRY, tdx=struct.pack("<4sIII", b"TDVF", 16 + 32 * 10_000_000, 1, 10_000_000)
    ),
    "SEV section of 0 bytes": image(SEV_ENTRY, sev=SEV[:20] + bytes(4) + SEV[24:]),
    "SEV section of 36864 bytes at 0xffffffff": image(SEV_ENTRY, sev=SEV[:16] + b"\xff" * 4 + SEV[20:]),
    "TDX section of 4096 bytes at 0x1, behind its end": image(TDX_ENTRY, tdx=TDX_TABLE[:16] + b"\x01" + TDX_TABLE[17:]),
    "TDX section of 4096 bytes for 1 bytes": image(
        TDX_ENTRY, tdx=TDX_TABLE[:32] + struct.pack("<Q", 1) + TDX_TABLE[40:]
    ),
    "base and size of its hash table": image(entry(SEV_HASH_TABLE, bytes(7))),
    "hash table of 4294967295 bytes": image(entry(SEV_HASH_TABLE, b"\x02\0\0\0\xff\xff\xff\xff")),
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_a_broken_image_has_one_sentence(sentence: str) -> None:
    with pytest.raises(FirmwareError, match=sentence):
        read_firmware(BROKEN[sentence])


@given(st.integers(0, SIZE - 1), st.integers(0, 255))
def test_no_byte_breaks_the_reader(at: int, value: int) -> None:
    changed = bytearray(WHOLE)
    changed[at] = value
    with contextlib.suppress(FirmwareError):
        read_firmware(bytes(changed))


@given(st.binary(max_size=300))
def test_nothing_breaks_the_reader(tail: bytes) -> None:
    with contextlib.suppress(FirmwareError):
        read_firmware(bytes(64) + tail + FOOTER.bytes_le + bytes(32))


GENERIC = Place("/g/OVMF.fd", "package ovmf")
AMD = Place("/g/OVMF.amdsev.fd", "package ovmf-amdsev", hashes_only=True)
INTEL = Place("/g/OVMF.inteltdx.ms.fd", "package ovmf-inteltdx", secure_boot=True)
NO_PLACE = image(TDX_ENTRY, SEV_ENTRY, NO_HASHES)


@pytest.mark.parametrize(
    ("kind", "hashes", "path"),
    [(SNP, False, "/g/OVMF.fd"), (TDX, False, "/g/OVMF.fd"), (PLAIN, False, "/g/OVMF.fd"), (SNP, True, AMD.path)],
)
def test_the_first_that_can_is_chosen(kind: TeeKind, hashes: bool, path: str) -> None:
    """As Debian trixie has it with forky's packages: the generic image has no place for hashes."""
    candidates = [Candidate(INTEL, NO_PLACE), Candidate(GENERIC, NO_PLACE), Candidate(AMD, WHOLE)]
    choice = choose_firmware(kind, candidates, wants_hashes=hashes)
    assert choice.path == path
    assert ("hashes" in choice.reason) == hashes


def test_the_refusal_names_every_image_and_its_lack() -> None:
    candidates = [
        Candidate(GENERIC, None),
        Candidate(replace(GENERIC, path="/g/old.fd"), image(SEV_ENTRY)),
        Candidate(replace(GENERIC, path="/g/vars.fd"), bytes(SIZE)),
        Candidate(INTEL, NO_PLACE),
        Candidate(AMD, WHOLE),
    ]
    with pytest.raises(NothingRanError) as raised:
        choose_firmware(TDX, candidates, wants_hashes=False)
    said = str(raised.value)
    for part in (
        "no firmware for a TDX guest",
        "/g/OVMF.fd is not there (package ovmf)",
        "/g/old.fd has no TDX metadata",
        "/g/vars.fd has no table of GUIDs",
        "OVMF.inteltdx.ms.fd has Secure Boot on",
        "OVMF.amdsev.fd boots a kernel only with kernel hashes",
        "install Debian's package ovmf",
    ):
        assert part in said


def test_kernel_hashes_need_a_place_for_them() -> None:
    with pytest.raises(NothingRanError, match=r"no place for hashes of the kernel \(base 0x0, size 0x0\).*ovmf-amdsev"):
        choose_firmware(SNP, [Candidate(GENERIC, NO_PLACE)], wants_hashes=True)
    with pytest.raises(NothingRanError, match="none was looked for"):
        choose_firmware(SNP, [], wants_hashes=False)


def test_an_ordinary_guest_does_without() -> None:
    assert choose_firmware(PLAIN, [Candidate(GENERIC, None)], wants_hashes=False).path == ""


class OneFile:
    """A host with one file."""

    name = "lab"

    def run(self, arguments: list[str], *, stdin: bytes = b"", timeout: float = 0) -> Done:
        there = arguments[0] == "head" and arguments[-1] == "/usr/share/ovmf/OVMF.fd"
        return Done(0, WHOLE, b"") if there else Done(1, b"", b"no such file")


def test_the_images_of_a_host() -> None:
    found = gather(OneFile())  # type: ignore[arg-type]
    assert [candidate.place for candidate in found] == list(PLACES)
    assert choose_firmware(SNP, found, wants_hashes=True).path == "/usr/share/ovmf/OVMF.fd"
