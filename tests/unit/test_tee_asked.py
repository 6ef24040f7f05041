# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's conversions beside what the guest asked for: joined, split, implicit, missing and made up."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InfraError
from harness.guest.conversions import Conversion
from harness.guest.tee import asked as module
from harness.guest.tee import proof
from harness.guest.tee.asked import Traced, differences, joined, read_trace

A = Conversion(0x200000, 512, False)
B = Conversion(0x400000, 1, True)


def line(conversion: Conversion, prefix: str = "") -> str:
    word = "shared_to_private" if conversion.to_private else "private_to_shared"
    return f"{prefix}kvm_convert_memory start {conversion.gpa:#x} size {conversion.pages * 4096:#x} {word}\n"


def fault(conversion: Conversion, prefix: str = "") -> str:
    flags = 8 if conversion.to_private else 0
    return f"{prefix}kvm_memory_fault start {conversion.gpa:#x} size {conversion.pages * 4096:#x} flags {flags:#x}\n"


def test_causes_are_told_apart() -> None:
    stamp = "73@1763841201.123456:"
    text = (
        line(A, stamp) + "ram_discard_range ram0: start: 0 1000\n" + fault(B, stamp) + line(B, stamp) + line(B, stamp)
    )
    assert read_trace(text) == Traced((A, B), (B,), ())


def test_two_vcpus_fault_at_once() -> None:
    assert read_trace(fault(A) + fault(B) + line(A) + line(B)) == Traced((), (A, B), ())


def test_a_fault_without_a_conversion_stays() -> None:
    traced = read_trace(fault(A) + line(B))
    assert traced == Traced((B,), (), (A,))
    assert differences([B], traced) == ["the guest touched 0x200000+512 pages to shared, and QEMU did not convert it"]


def test_the_line_that_is_on_its_way_is_left() -> None:
    assert read_trace(line(A) + line(B)[:-1]) == Traced((A,), (), ())
    assert read_trace("") == Traced((), (), ())


@pytest.mark.parametrize(
    "text",
    [
        "kvm_memory_fault start 0x1000 size 0x1000",
        "kvm_memory_fault start 0x1000 size 0x1000 flags 0x8 more",
        "kvm_memory_fault gpa 0x1000",
        "kvm_memory_fault start 0x1001 size 0x1000 flags 0x8",
        "kvm_memory_fault start 0x1000 size 0x0 flags 0x8",
        "kvm_convert_memory start 0x1000 size 0x1000 sideways",
    ],
)
def test_a_line_in_another_form_is_not_passed_over(text: str) -> None:
    with pytest.raises(InfraError, match="trace"):
        read_trace(text + "\n")


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(1, 8), st.booleans()), max_size=12), st.randoms())
def test_however_the_host_splits_it_nothing_differs(items: list[tuple[int, int, bool]], random: object) -> None:
    wanted = [Conversion(page * 4096, pages, private) for page, pages, private in items]
    split = []
    for conversion in wanted:
        cut = random.randint(1, conversion.pages)  # type: ignore[attr-defined]
        split.append(Conversion(conversion.gpa, cut, conversion.to_private))
        if cut < conversion.pages:
            split.append(Conversion(conversion.gpa + cut * 4096, conversion.pages - cut, conversion.to_private))
    traced = read_trace("".join(line(conversion) for conversion in split))
    assert differences(wanted, traced) == []
    assert sum(run.pages for run in joined(wanted)) == sum(conversion.pages for conversion in wanted)


@pytest.mark.parametrize(
    ("wanted", "made", "sentences"),
    [
        ([A, B], [A], ["the guest asked for 0x400000+1 pages to private, and QEMU did not convert it"]),
        ([A], [A, B], ["QEMU converted 0x400000+1 pages to private, and the guest did not ask for it"]),
        (
            [Conversion(0, 8, True)],
            [Conversion(0, 7, True)],
            [
                "the guest asked for 0x0+8 pages to private, and QEMU did not convert it",
                "QEMU converted 0x0+7 pages to private, and the guest did not ask for it",
            ],
        ),
        (
            [B],
            [Conversion(B.gpa, B.pages, False)],
            [
                "the guest asked for 0x400000+1 pages to private, and QEMU did not convert it",
                "QEMU converted 0x400000+1 pages to shared, and the guest did not ask for it",
            ],
        ),
    ],
)
def test_differences(wanted: list[Conversion], made: list[Conversion], sentences: list[str]) -> None:
    assert differences(wanted, read_trace("".join(line(conversion) for conversion in made))) == sentences


def test_the_examples_of_the_documentation() -> None:
    for documented in (module, proof):
        result = doctest.testmod(documented)
        assert result.attempted
        assert result.failed == 0
