# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's trace log: every form of the lines we need, and silence about none that we cannot read."""

from __future__ import annotations

import pytest

from harness.errors import InfraError
from harness.guest.conversions import Conversion, parse_trace

LINE = "kvm_convert_memory start 0x2c00000 size 0x200000 shared_to_private"
CHUNK = Conversion(0x2C00000, 512, True)


def test_both_directions_in_order() -> None:
    text = LINE + "\nkvm_convert_memory start 0x2c07000 size 0x1000 private_to_shared\n" + LINE + "\n"
    assert parse_trace(text) == [CHUNK, Conversion(0x2C07000, 1, False), CHUNK]
    assert str(parse_trace(text)[1]) == "0x2c07000+1 pages to shared"


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "73@1763841201.123456:",
        "[gmem-g0] ",
        "2025-11-22T20:13:21.123456Z ",
        "2025-11-22T20:13:21.123456+01:00 ",
        "qemu-system-x86_64(73:main): ",
        "[gmem-g0] 2025-11-22T20:13:21.123456Z qemu-system-x86_64(73:CPU 0/KVM): ",
    ],
)
def test_what_qemu_puts_in_front(prefix: str) -> None:
    assert parse_trace(f"{prefix}{LINE}\n") == [CHUNK]
    assert parse_trace(f"{prefix}{LINE}\r\n") == [CHUNK]


def test_an_unfinished_line_is_not_read_yet() -> None:
    for end in range(len(LINE) + 1):
        assert parse_trace(LINE + "\n" + LINE[:end]) == [CHUNK]
    assert parse_trace(LINE) == []
    assert parse_trace("") == []


def test_other_events_are_ignored() -> None:
    others = [
        "kvm_vm_ioctl type 0x4020aed2, arg 0x7ffe30",
        "kvm_memory_fault gpa 0x2c00000 size 0x1000 flags 0x8",
        "kvm_convert_memory_block start 0x2c00000",
        "qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.80000001H:ECX.svm [bit 2]",
        "",
    ]
    assert parse_trace("\n".join([*others, LINE, *others, ""])) == [CHUNK]


@pytest.mark.parametrize(
    "line",
    [
        "kvm_convert_memory start 0x2c00000 size 0x200000 both_ways",
        "kvm_convert_memory start 0x2c00000 size 0x200000",
        "kvm_convert_memory start 46137344 size 0x200000 shared_to_private",
        "kvm_convert_memory start 0x2c00000 size 0x200000 shared_to_private and more",
        "kvm_convert_memory",
        "kvm_convert_memory start 0x2c00000 size 0xkvm_convert_memory start 0x2c00000 size 0x1000 shared_to_private",
        "kvm_convert_memory start 0x12345678123456781234 size 0x1000 shared_to_private",
    ],
)
def test_a_line_that_cannot_be_read_is_an_error(line: str) -> None:
    with pytest.raises(InfraError, match=r"^QEMU's trace log has a kvm_convert_memory line that the harness") as caught:
        parse_trace(f"{LINE}\n{line}\n")
    assert line in str(caught.value)


@pytest.mark.parametrize("numbers", [("0x2c00800", "0x1000"), ("0x2c00000", "0x800"), ("0x2c00000", "0x0")])
def test_parts_of_pages_are_an_error(numbers: tuple[str, str]) -> None:
    with pytest.raises(InfraError, match="not whole pages"):
        parse_trace(f"kvm_convert_memory start {numbers[0]} size {numbers[1]} shared_to_private\n")


def test_an_error_shows_no_flood_and_no_escape() -> None:
    with pytest.raises(InfraError) as caught:
        parse_trace("\x1b[31mkvm_convert_memory start " + "x" * 10_000 + "\n")
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)
