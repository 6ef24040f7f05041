# SPDX-License-Identifier: GPL-2.0-only
"""The firmware made of the packaged qboot: what QEMU and the CPU find in it, read by code of its own."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest

from harness.errors import InfraError
from harness.images.firmware import firmware_from_qboot

QBOOT = Path("/usr/share/qemu/qboot.rom")
TOP = 1 << 32
"""The image ends at 4 GiB; the CPU starts 16 bytes below, in real mode with CS base 0xffff0000."""

FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
SEV_METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
TDX_METADATA = "e47a6535-984a-4798-865e-4685a7bf8ec2"
RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"


@pytest.fixture(scope="module")
def qboot() -> bytes:
    return QBOOT.read_bytes()


@pytest.fixture(scope="module")
def image() -> bytes:
    return firmware_from_qboot(QBOOT)


def read_table(image: bytes) -> dict[str, bytes]:
    """The GUIDed table as QEMU walks it (hw/i386/pc_sysfw_ovmf.c): backwards, each entry ends with length and GUID."""

    def tail(end: int) -> tuple[str, int]:
        return str(uuid.UUID(bytes_le=image[end - 16 : end])), struct.unpack_from("<H", image, end - 18)[0]

    end = len(image) - 32
    guid, total = tail(end)
    assert guid == FOOTER
    begin, at = end - total, end - 18
    found = {}
    while at > begin:
        guid, length = tail(at)
        assert 18 <= length <= at - begin, f"entry {guid} of {length} bytes does not fit"
        found[guid] = image[at - length : at - 18]
        at -= length
    assert at == begin
    return found


class TestTable:
    def test_metadata_is_found_and_empty(self, image: bytes) -> None:
        (offset,) = struct.unpack("<I", read_table(image)[SEV_METADATA])
        at = len(image) - offset
        signature, length, version, descriptions = struct.unpack_from("<4sIII", image, at)
        assert (signature, version, descriptions) == (b"ASEV", 1, 0)
        assert at + length <= len(image)

    def test_reset_block_names_the_reset_vector(self, image: bytes) -> None:
        assert struct.unpack("<I", read_table(image)[RESET_BLOCK]) == (TOP - 16,)

    def test_nothing_else_is_promised(self, image: bytes) -> None:
        assert set(read_table(image)) == {SEV_METADATA, TDX_METADATA, RESET_BLOCK}

    def test_tdx_metadata_has_the_two_sections_that_qemu_wants(self, image: bytes) -> None:
        """As tdvf_parse_metadata() reads it (hw/i386/tdvf.c)."""
        (offset,) = struct.unpack("<I", read_table(image)[TDX_METADATA])
        at = len(image) - offset
        signature, length, version, count = struct.unpack_from("<4sIII", image, at)
        assert (signature, version, count, length) == (b"TDVF", 1, 2, 16 + 2 * 32)
        volume, hob = (struct.unpack_from("<IIQQII", image, at + 16 + 32 * n) for n in range(2))
        assert volume == (0, len(image), TOP - len(image), len(image), 0, 0)
        begin, size = hob[2:4]
        assert (hob[0], hob[1], hob[4]) == (0, 0, 2)
        # in the RAM below 640 KiB, whole pages, and not where a loaded kernel's setup or command line lies
        assert begin % 4096 == size % 4096 == 0
        assert 0x30000 <= begin < begin + size <= 0xA0000


class TestMovedCode:
    """Follows the CPU from the reset vector; all addresses are taken from the image itself."""

    def entry(self, image: bytes) -> int:
        jump, distance = struct.unpack_from("<Bh", image, len(image) - 16)
        assert jump == 0xE9
        return (len(image) - 16 + 3 + distance) & 0xFFFF

    def test_the_same_instructions_stand_at_the_entry(self, image: bytes, qboot: bytes) -> None:
        old, new = self.entry(qboot), self.entry(image)
        assert old != new
        assert image[new : new + 31] == qboot[old : old + 31]  # up to the operand of lgdt

    def test_the_gdt_is_loaded_from_where_it_went(self, image: bytes, qboot: bytes) -> None:
        def gdt(rom: bytes) -> bytes:
            at = rom.index(b"\x2e\x66\x0f\x01\x16", self.entry(rom)) + 5  # lgdtl %cs:imm16
            pointer = struct.unpack_from("<H", rom, at)[0]
            limit, base = struct.unpack_from("<HI", rom, pointer)
            start = base - (TOP - len(rom))
            return rom[start : start + limit + 1]

        assert len(gdt(qboot)) == 0x28
        assert gdt(image) == gdt(qboot)

    def test_the_far_jump_goes_to_the_next_instruction(self, image: bytes, qboot: bytes) -> None:
        for rom in (qboot, image):
            at = rom.index(b"\x66\xea", self.entry(rom))  # ljmpl $selector, $imm32
            target, selector = struct.unpack_from("<IH", rom, at + 2)
            assert selector == 8
            assert target - (TOP - len(rom)) == at + 8

    def test_the_last_jump_still_goes_to_the_body(self, image: bytes, qboot: bytes) -> None:
        at = self.entry(image) + 0x41 - 7
        assert image[at] == 0xEA
        assert struct.unpack_from("<IH", image, at + 1) == (TOP - len(image), 8)

    def test_the_body_is_untouched(self, image: bytes, qboot: bytes) -> None:
        assert image[:0xFE40] == qboot[:0xFE40]
        assert image[0xFFF3:] == qboot[0xFFF3:]


class TestRefusals:
    def test_every_byte_at_the_end_is_known_or_kept(self, image: bytes, qboot: bytes, tmp_path: Path) -> None:
        """One changed byte of the part that is rearranged is refused, unless it reaches the image."""
        other = tmp_path / "qboot.rom"
        for at in range(0xFE40, 0x10000):
            rom = bytearray(qboot)
            rom[at] ^= 0x5A
            other.write_bytes(rom)
            try:
                made = firmware_from_qboot(other)
            except InfraError:
                continue
            assert made[:0xFE40] == image[:0xFE40]
            differ = sum(one != two for one, two in zip(made[0xFE40:], image[0xFE40:], strict=True))
            assert differ == 1, f"byte {at:#x} of qboot was lost"

    def test_another_layout_says_which_part_and_what_to_install(self, qboot: bytes, tmp_path: Path) -> None:
        other = tmp_path / "qboot.rom"
        other.write_bytes(qboot[:0xFF80] + b"\x90" + qboot[0xFF81:])
        with pytest.raises(InfraError, match=r"not the qboot .*byte 0xff80, in the entry code, is 0x90, .* install "):
            firmware_from_qboot(other)

    @pytest.mark.parametrize("size", [0, 0xFFFF, 0x10001, 0x20000])
    def test_another_size(self, size: int, tmp_path: Path) -> None:
        (tmp_path / "qboot.rom").write_bytes(bytes(size))
        with pytest.raises(InfraError, match=rf"qboot\.rom: qboot is {size} bytes long, expected 65536"):
            firmware_from_qboot(tmp_path / "qboot.rom")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InfraError, match=r"absent\.rom: cannot read qboot .*install qemu-system-data"):
            firmware_from_qboot(tmp_path / "absent.rom")
