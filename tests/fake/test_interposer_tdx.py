# SPDX-License-Identifier: GPL-2.0-only
"""The stand-in for TDX between a program that calls as QEMU does and a KVM of paper."""

from __future__ import annotations

from typing import Final

import pytest

from tests.fake.interposer_bench import (
    HVA,
    MIB,
    PAGE,
    ROM,
    TYPES,
    Stage,
    stage,
)

__all__ = ["stage"]


class TestTdxStandIn:
    """tdx_standin.c: QEMU sees TDX, KVM sees a software-protected VM."""

    VM = TYPES + "vm 5\n"
    VM_SEEN: Final = ["kvm: create_vm type=1", "vm: ok"]
    ROM_SIZE = 64 << 10
    # RAM, and a ROM that ends at 4 GiB
    MEMORY = (
        f"{VM}map {HVA} {MIB}\nmap {ROM} {ROM_SIZE}\nregion2 0 0 0 {MIB} {HVA}\n"
        f"region2 1 0 {4096 * MIB - ROM_SIZE} {ROM_SIZE} {ROM}\n"
    )
    ROM_PAGES = f"{4096 * MIB - ROM_SIZE} {ROM_SIZE // PAGE}"
    NO_ROM = "there was no firmware that ends at 4 GiB"
    MADV_DONTNEED = 4

    @pytest.fixture(autouse=True)
    def _on(self, stage: Stage) -> None:
        self.stage = stage

    def play(self, script: str, complaint: str = "") -> list[str]:
        return self.stage.play("tdx-standin", script, f"tdx_standin: {complaint}\n" if complaint else "")

    @pytest.mark.parametrize(("kernel", "told"), [(0b11, 0b100011), (0b1, 0b1), (0b10001, 0b10001), (0, 0)])
    def test_tdx_is_offered_where_the_kernel_has_software_protected_vms(self, kernel: int, told: int) -> None:
        assert self.play(f"fake types {kernel}\nextension 235\n") == [f"extension: {told}"]

    def test_a_td_becomes_a_software_protected_vm(self) -> None:
        """QEMU itself asks that it hands conversions over (tdx_kvm_init)."""
        assert self.play(self.VM) == self.VM_SEEN

    @pytest.mark.parametrize("vm_type", [0, 1])
    def test_other_vms_stay_what_they_are(self, vm_type: int) -> None:
        assert self.play(f"{TYPES}vm {vm_type}\n") == [f"kvm: create_vm type={vm_type}", "vm: ok"]

    def test_capabilities_wait_for_room_and_then_have_everything(self) -> None:
        answers = self.play(self.VM + "tdx_caps 6\ntdx_caps 12\n")[2:]
        assert answers[:2] == ["tdx_caps: E2BIG", "caps: attributes=0 xfam=0 leaves=8 0.0 0.0 0.0 0.0 0.0 0.0"]
        everything = f"attributes={2**64 - 1:#x} xfam={2**64 - 1:#x} leaves=8"
        assert answers[2:] == [
            "tdx_caps: 0",
            f"caps: {everything} 0x1.0 0x6.0 0x7.0 0x7.1 0x7.2 0xd.1 0x80000001.0 0x80000007.0",
        ]

    def test_an_unknown_command_is_refused_and_kvm_sees_none_of_them(self) -> None:
        assert self.play(self.VM + "tdx 1\ntdx 2\n")[2:] == ["tdx: 0"] * 2
        assert self.play(self.VM + "tdx 6\n", "TDX command that it does not know")[2:] == ["tdx: ENOTTY"]

    def test_attributes_are_dropped_until_the_vm_is_finalized(self) -> None:
        attributes = "attributes 0x1000 0x2000 8\n"
        script = f"{self.MEMORY}{attributes}tdx_region {ROM} {self.ROM_PAGES}\n{attributes}tdx 4\n{attributes}"
        assert self.play(script)[-5:] == [
            *("tdx_region: 0", "attributes: 0", "tdx: 0"),
            *("kvm: set_attributes address=0x1000 size=0x2000 attributes=8 flags=0", "attributes: 0"),
        ]

    def test_the_firmware_that_qemu_gave_up_is_there_again_in_both_places(self) -> None:
        script = (
            f"{self.MEMORY}number {ROM} {self.ROM_SIZE}\ntdx_region {ROM} {self.ROM_PAGES}\n"
            f"madvise {ROM} {self.ROM_SIZE} {self.MADV_DONTNEED}\nnumbers {ROM} {self.ROM_SIZE}\n"
            f"tdx 4\nnumbers {ROM} {self.ROM_SIZE}\nnumbers {HVA} {MIB}\n"
        )
        assert self.play(script)[-5:] == [
            *("madvise: 0", "numbers: 0:0", "tdx: 0", "numbers: 0:1"),
            f"numbers: 0:0 {MIB - self.ROM_SIZE:#x}:1",
        ]

    def test_any_other_section_is_copied_to_its_address(self) -> None:
        script = (
            f"{self.MEMORY}number {ROM} {self.ROM_SIZE}\ntdx_region {ROM + PAGE} 0x3000 2\nnumbers {HVA} {MIB}\ntdx 4\n"
        )
        assert self.play(script, self.NO_ROM)[-3:] == [
            *("tdx_region: 0", "numbers: 0:0 0x3000:513 0x5000:0", "tdx: EINVAL"),
        ]

    def test_a_section_without_memory_is_refused(self) -> None:
        complaint = "a section of the firmware is for an address without memory"
        assert self.play(f"{self.MEMORY}tdx_region {ROM} {MIB} 1\n", complaint)[-1] == "tdx_region: EINVAL"

    def test_what_tdx_forces_on_is_taken_back_where_kvm_has_it_not(self) -> None:
        """The registers that drive.c sets are 0xa, 0xb, 0xc and 0xd."""
        script = f"{self.VM}vcpu\nfake supports 7 8 9 8 5\nsupported\ncpuid 7 0x80000001 0x80000008\n"
        assert [line for line in self.play(script) if line.startswith("kvm: cpuid")] == [
            *("kvm: cpuid 0x7.0 0x8 0x9 0x8 0x5", "kvm: cpuid 0x7.1 0 0 0 0"),
            *("kvm: cpuid 0x80000001.0 0 0 0 0", "kvm: cpuid 0x80000001.1 0xa 0xb 0xc 0xd"),
            *("kvm: cpuid 0x80000008.0 0xa 0xb 0xc 0xd", "kvm: cpuid 0x80000008.1 0xa 0xb 0xc 0xd"),
        ]

    def test_the_guest_gets_the_leaf_of_kvm_s_own_features(self) -> None:
        """QEMU leaves a TD without a paravirtual clock (TDX_SUPPORTED_KVM_FEATURES)."""
        script = f"{self.VM}vcpu\nfake supports 0x40000001 0x1000007 0 0 0\nsupported\ncpuid 0x40000001\n"
        assert "kvm: cpuid 0x40000001.0 0x1000007 0xb 0xc 0xd" in self.play(script)

    def test_other_requests_pass_untouched(self) -> None:
        older = f"region 3 2 0x4000 0x1000 {HVA}\n"
        assert self.play(f"{self.VM}pipe 17\nkvm 0xae00 0\nkvm 0x1234 0\n{older}")[2:] == [
            *("pipe: 0 waiting=17", "kvm: 12", "kvm: unexpected request=0x1234", "kvm: ENOTTY"),
            *(f"kvm: region slot=3 flags=2 gpa=0x4000 size=0x1000 hva={HVA:#x}", "region: 0"),
        ]
