# SPDX-License-Identifier: GPL-2.0-only
"""inplace.so behind the other interposers: a VMM that discards, on a KVM of paper that converts in place."""

from __future__ import annotations

import errno
import mmap

import pytest

from tests.fake.interposer_bench import HVA, HYPERCALL, MMIO, PAGE, PRIVATE, RAM, SHARED, SNP_VM, TYPES, Stage, stage

__all__ = ["stage"]  # the fixture

HALF = RAM // 2
DONTNEED, REMOVE, WILLNEED = mmap.MADV_DONTNEED, mmap.MADV_REMOVE, mmap.MADV_WILLNEED
PUNCH = 1 | 2  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
IN_PLACE = "fake in_place\n"
PROBE = [
    f"kvm: create_guest_memfd size={PAGE:#x} flags=0x3",
    "kvm: set_attributes2 offset=0 size=0 attributes=0 flags=0",
]


class TestBehindTheStandIn:
    """QEMU's own SNP path: memory starts shared, QEMU converts and discards."""

    # RAM of two slots, with numbered words in it before it becomes the guest_memfd, after the launch
    MEMORY = (
        f"{IN_PLACE}{SNP_VM}map {HVA} {RAM}\nnumber {HVA} {RAM}\ngmem {RAM}\n"
        f"gmem_region 0 0 {HALF} {HVA} 0\ngmem_region 1 0x100000 {HALF} {HVA + HALF} {HALF}\nsev 102\n"
    )
    BOTH = f"numbers {HVA} {RAM}\nfake private\n"
    WHOLE = ("numbers: 0:1", f"private: 0-{RAM:#x}")

    @pytest.fixture(autouse=True)
    def _on(self, stage: Stage) -> None:
        self.stage = stage

    def play(self, script: str, complaint: str = "") -> list[str]:
        expected = f"inplace: {complaint}\n" if complaint else ""
        return self.stage.play("snp-standin inplace", script, expected)

    def converted(self, script: str, complaint: str = "") -> list[str]:
        """What comes of ``script`` in a VM with MEMORY, without what its making said."""
        lines = self.play(self.MEMORY + script, complaint)
        return lines[lines.index("sev: 0") + 1 :]

    def test_kvm_is_asked_whether_it_converts_in_place(self) -> None:
        lines = self.play(f"{IN_PLACE}{SNP_VM}extension 233\nextension 234\n")
        assert lines == [
            *("kvm: create_vm type=1", *PROBE, "kvm: enable_cap cap=201 flags=0 arg=0x1000", "vm: ok"),
            *("extension: 8", "extension: 3"),
        ]

    def test_a_kernel_that_does_not_is_refused(self) -> None:
        """An RAM that KVM does not know as the guest_memfd would be two memories, without a word."""
        lines = self.play(SNP_VM, "KVM does not convert a guest_memfd in place")
        assert lines[-1] == "vm: EOPNOTSUPP"

    def test_a_kernel_that_maps_but_does_not_convert_is_refused(self) -> None:
        script = f"{IN_PLACE}fake fail set_attributes2 {errno.ENOTTY}\n{SNP_VM}"
        assert self.play(script, "KVM does not convert a guest_memfd in place")[-1] == "vm: EOPNOTSUPP"

    def test_other_vms_are_left_alone(self) -> None:
        lines = self.play(f"{IN_PLACE}{TYPES}vm 0\nextension 233\nattributes 0 0x1000 8\n")
        assert lines == ["kvm: create_vm type=0", "vm: ok", "extension: 3", "attributes: 0"]

    def test_the_ram_becomes_the_guest_memfd_with_what_was_in_it(self) -> None:
        lines = self.play(self.MEMORY + self.BOTH)
        assert lines[5:] == [
            *(f"kvm: create_guest_memfd size={RAM:#x} flags=0x3", "gmem: ok"),
            f"kvm: region2 slot=0 flags=4 gpa=0 size={HALF:#x} hva={HVA:#x} guest_memfd=ours offset=0",
            "gmem_region: 0",
            f"kvm: region2 slot=1 flags=4 gpa=0x100000 size={HALF:#x} hva={HVA + HALF:#x} guest_memfd=ours "
            f"offset={HALF:#x}",
            *("gmem_region: 0", "sev: 0", *self.WHOLE),
        ]

    def test_a_slot_that_is_set_again_keeps_what_was_written_since(self) -> None:
        again = f"number {HVA + PAGE} {PAGE}\ngmem_region 0 0 0 {HVA} 0\ngmem_region 0 0 {HALF} {HVA} 0\n"
        assert self.converted(again + self.BOTH)[-2:] == [
            "numbers: 0:1 0x1000:1 0x2000:1025",
            f"private: 0-{RAM:#x}",
        ]

    def test_a_slot_that_says_another_place_is_refused(self) -> None:
        elsewhere = f"gmem_region 2 0x200000 {PAGE} {HVA} {PAGE}\n"
        complaint = "the guest_memfd cannot be the memory of slot 2 (Invalid argument)"
        assert self.converted(elsewhere, complaint) == ["gmem_region: EINVAL"]

    def test_memory_that_is_not_there_is_refused(self) -> None:
        script = f"{IN_PLACE}{SNP_VM}map {HVA} {HALF}\ngmem {RAM}\ngmem_region 0 0 {HALF} {HVA} 0\n"
        lines = self.play(script, "the guest_memfd cannot be the memory of slot 0 (Cannot allocate memory)")
        assert lines[-1] == "gmem_region: ENOMEM"

    @pytest.mark.parametrize("attributes", [8, 0])
    def test_a_conversion_is_one_on_the_descriptor(self, attributes: int) -> None:
        assert self.converted(f"attributes 0x100000 0x2000 {attributes}\n") == [
            f"kvm: set_attributes2 offset={HALF:#x} size=0x2000 attributes={attributes} flags=0",
            "attributes: 0",
        ]

    def test_attributes_before_the_launch_are_dropped(self) -> None:
        """As on any kernel of the stand-in: memory starts shared."""
        script = self.MEMORY.removesuffix("sev 102\n") + "attributes 0 0x1000 8\n"
        assert self.play(script)[-2:] == ["gmem_region: 0", "attributes: 0"]

    def test_a_conversion_over_two_slots_is_one_for_each(self) -> None:
        joined = f"gmem_region 1 {HALF:#x} {HALF} {HVA + HALF} {HALF}\nattributes 0 {RAM} 8\n{self.BOTH}"
        assert self.converted(joined)[2:] == [
            f"kvm: set_attributes2 offset=0 size={HALF:#x} attributes=8 flags=0",
            f"kvm: set_attributes2 offset={HALF:#x} size={HALF:#x} attributes=8 flags=0",
            *("attributes: 0", *self.WHOLE),
        ]

    def test_what_is_no_guest_memfd_is_not_converted(self) -> None:
        complaint = f"0x3000+{0x2000:#x} is not all guest_memfd"
        assert self.converted("attributes 0x3000 0x2000 8\n", complaint)[-1] == "attributes: EINVAL"

    @pytest.mark.parametrize(("attributes", "to"), [(8, "private"), (0, "shared")])
    def test_a_refusal_is_kvm_s_and_says_which_page(self, attributes: int, to: str) -> None:
        script = f"fake fail set_attributes2 {errno.EAGAIN}\nattributes 0 0x3000 {attributes}\n{self.BOTH}"
        complaint = (
            f"KVM does not convert 0+0x3000 of the guest_memfd to {to}: Resource temporarily unavailable, "
            "error_offset 0x1000"
        )
        assert self.converted(script, complaint)[1:] == ["attributes: EAGAIN", *self.WHOLE]

    def test_a_discard_after_a_refusal_happens(self) -> None:
        """Nothing was converted, so nothing is the other side of it."""
        script = f"fake fail set_attributes2 {errno.EAGAIN}\nattributes 0 0x1000 0\nfallocate {PUNCH} 0 {PAGE}\n"
        complaint = (
            "KVM does not convert 0+0x1000 of the guest_memfd to shared: Resource temporarily unavailable, "
            "error_offset 0x1000"
        )
        assert self.converted(script + "fake private\n", complaint)[-1] == f"private: {PAGE:#x}-{RAM:#x}"

    @pytest.mark.parametrize(
        ("direction", "attributes", "to", "discard"),
        [
            (PRIVATE, 8, "private", f"madvise {HVA} 0x2000 {DONTNEED}"),
            (SHARED, 0, "shared", f"fallocate {PUNCH} 0 0x2000"),
        ],
    )
    def test_what_the_guest_asked_for_is_refused_to_the_guest(
        self, direction: int, attributes: int, to: str, discard: str
    ) -> None:
        """QEMU would stop the guest.  It is told that all is well, and what it then discards stays."""
        script = (
            f"vcpu\nfake exit {HYPERCALL} 0 12 0 2 {direction}\nrun 0\nfake fail set_attributes2 {errno.EAGAIN}\n"
            f"attributes 0 0x2000 {attributes}\n{discard}\nfake exit {MMIO} 0\nrun 0\n{self.BOTH}"
        )
        complaint = (
            f"KVM does not convert 0+0x2000 of the guest_memfd to {to}: Resource temporarily unavailable, "
            "error_offset 0x1000"
        )
        lines = self.converted(script, complaint)
        assert lines[-6:] == [
            *("attributes: 0", f"{discard.split()[0]}: 0", f"kvm: hypercall returns {-errno.EAGAIN}"),
            *(f"run: 0 exit={MMIO}", *self.WHOLE),
        ]

    def test_the_next_hypercall_is_not_refused_with_it(self) -> None:
        ask = f"fake exit {HYPERCALL} 0 12 0 2 {PRIVATE}\nrun 0\n"
        script = (
            f"vcpu\n{ask}fake fail set_attributes2 {errno.EAGAIN}\nattributes 0 0x2000 8\n"
            f"{ask}attributes 0 0x2000 8\nfake exit {MMIO} 0\nrun 0\n"
        )
        complaint = (
            "KVM does not convert 0+0x2000 of the guest_memfd to private: Resource temporarily unavailable, "
            "error_offset 0x1000"
        )
        returned = [line for line in self.converted(script, complaint) if "hypercall returns" in line]
        # the driver answers no hypercall itself: -1 is what the fake had put there
        assert returned[0] == f"kvm: hypercall returns {-errno.EAGAIN}"
        assert returned[1] != returned[0]

    @pytest.mark.parametrize("call", ["fallocate", "fallocate64"])
    def test_the_discard_of_a_conversion_to_shared_does_not_happen(self, call: str) -> None:
        script = f"attributes 0x1000 0x2000 0\n{call} {PUNCH} 0x1000 0x2000\n{call} {PUNCH} 0x2000 0x1000\n"
        assert self.converted(script + self.BOTH)[2:] == [f"{call}: 0", f"{call}: 0", *self.WHOLE]

    @pytest.mark.parametrize("advice", [DONTNEED, REMOVE])
    def test_the_discard_of_a_conversion_to_private_does_not_happen(self, advice: int) -> None:
        script = f"attributes 0x1000 0x2000 8\nmadvise {HVA + PAGE} 0x2000 {advice}\n"
        assert self.converted(script + self.BOTH)[2:] == ["madvise: 0", *self.WHOLE]

    @pytest.mark.parametrize(
        ("discard", "left"),
        [
            (f"fallocate {PUNCH} 0x1000 0x3000", "0-0x1000 0x4000-0x8000"),
            (f"fallocate {PUNCH} 0 0x2000", "0x2000-0x8000"),
            (f"fallocate {PUNCH} 0x5000 0x1000", "0-0x5000 0x6000-0x8000"),
            (f"madvise {HVA} {2 * PAGE} {REMOVE}", "0x2000-0x8000"),
            (f"madvise {HVA + 2 * PAGE} {2 * PAGE} {REMOVE}", "0-0x2000 0x4000-0x8000"),
        ],
    )
    def test_any_other_discard_happens(self, discard: str, left: str) -> None:
        script = f"attributes 0x1000 0x2000 0\n{discard}\nfake private\n"
        assert self.converted(script)[2:] == [f"{discard.split()[0]}: 0", f"private: {left}"]

    def test_the_next_conversion_ends_what_is_held_back(self) -> None:
        script = f"attributes 0 0x1000 0\nattributes 0x1000 0x1000 0\nfallocate {PUNCH} 0 {PAGE}\nfake private\n"
        assert self.converted(script)[-1] == f"private: {PAGE:#x}-{RAM:#x}"

    def test_memory_that_is_no_guest_memfd_is_advised_and_discarded_as_ever(self) -> None:
        other = HVA + (1 << 32)
        script = (
            f"map {other} {RAM}\nnumber {other} {RAM}\nattributes 0 {HALF} 8\nmadvise {other} {PAGE} {DONTNEED}\n"
            f"numbers {other} {RAM}\nmadvise {HVA} {PAGE} {WILLNEED}\nmadvise {HVA} 0x1001 77\n"
        )
        assert self.converted(script)[2:] == [
            *("madvise: 0", "numbers: 0:0 0x1000:513", "madvise: 0", "madvise: EINVAL"),
        ]


class TestBehindTheDirectForm:
    """swprot.so converts and discards by itself; behind it stands the same translation."""

    MEMORY = (
        f"{IN_PLACE}{TYPES}vm 0\nvcpu\nmap {HVA} {RAM}\nnumber {HVA} {RAM}\nregion 0 0 0 {RAM} {HVA}\n"
    )  # fmt: skip
    BOTH = f"numbers {HVA} {RAM}\nfake private\n"

    @pytest.fixture(autouse=True)
    def _on(self, stage: Stage) -> None:
        self.stage = stage

    @pytest.mark.parametrize(("direction", "attributes"), [(PRIVATE, 8), (SHARED, 0)])
    def test_a_conversion_frees_nothing(self, direction: int, attributes: int) -> None:
        script = f"{self.MEMORY}fake exit {HYPERCALL} 0 12 0x1000 2 {direction}\nfake exit {MMIO} 0\nrun 0\n{self.BOTH}"
        lines = self.stage.play("swprot inplace", script, GMEM_RAM_BYTES=str(RAM))
        assert lines[lines.index("region: 0") + 1 :] == [
            f"kvm: set_attributes2 offset=0x1000 size=0x2000 attributes={attributes} flags=0",
            *("kvm: hypercall returns 0", f"run: 0 exit={MMIO}", "numbers: 0:1", f"private: 0-{RAM:#x}"),
        ]

    def test_what_is_no_ram_below_its_end_is_left_alone(self) -> None:
        """QEMU has a copy of the firmware below 1 MiB, writable and elsewhere."""
        elsewhere = HVA + (1 << 32)
        script = f"{self.MEMORY}region 1 0 {RAM // 2:#x} {PAGE} {elsewhere}\n"
        lines = self.stage.play("swprot inplace", script, GMEM_RAM_BYTES=str(RAM))
        assert "guest_memfd=ours" in next(line for line in lines if line.startswith("kvm: region2 slot=0"))
        assert "flags=0 " in next(line for line in lines if line.startswith("kvm: region2 slot=1"))
        assert lines[-1] == "region: 0"

    def test_the_guest_gets_the_refusal(self) -> None:
        script = (
            f"{self.MEMORY}fake fail set_attributes2 {errno.EAGAIN}\n"
            f"fake exit {HYPERCALL} 0 12 0 2 {PRIVATE}\nfake exit {MMIO} 0\nrun 0\n{self.BOTH}"
        )
        done = self.stage.run("swprot inplace", script, {"GMEM_RAM_BYTES": str(RAM)})
        assert f"kvm: hypercall returns {-errno.EAGAIN}" in done.stdout.splitlines()
        assert done.stdout.splitlines()[-2:] == ["numbers: 0:1", f"private: 0-{RAM:#x}"]
        assert "error_offset 0x1000" in done.stderr
