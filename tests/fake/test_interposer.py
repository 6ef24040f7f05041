# SPDX-License-Identifier: GPL-2.0-only
"""The interposers between a program that calls as QEMU does and a KVM of paper: what KVM sees, what QEMU is told.

Each test is a script for interposer/drive.c and the whole of what comes of it; nothing here needs /dev/kvm.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from tests.fake.interposer_bench import (
    DIRTY_LOG,
    EHWPOISON,
    FAULT_PRIVATE,
    HVA,
    HYPERCALL,
    MEMORY_FAULT,
    MIB,
    MMIO,
    PAGE,
    PRIVATE,
    RAM,
    READONLY,
    ROM,
    SHARED,
    SNP_VM,
    SNP_VM_SEEN,
    TYPES,
    Stage,
    stage,
)

__all__ = ["stage"]


class TestStandIn:
    """snp_standin.c: QEMU sees SNP, KVM sees a software-protected VM."""

    @pytest.fixture(autouse=True)
    def _on(self, stage: Stage) -> None:
        self.stage = stage

    def play(self, script: str, complaint: str = "") -> list[str]:
        return self.stage.play("snp-standin", script, f"snp_standin: {complaint}\n" if complaint else "")

    @pytest.mark.parametrize("call", ["open", "open64"])
    def test_the_firmware_is_there_and_initialised(self, call: str) -> None:
        assert self.play(f"{call} {os.O_RDWR} 0 /dev/sev\nplatform\nsev_issue 8\n")[1:] == [
            "platform: api=1.55 state=1 guests=0 error=0",
            "sev_issue: 0",
            "issued: error=0",
        ]

    def test_only_the_firmware_s_descriptor_is_the_firmware(self) -> None:
        script = f"open {os.O_RDWR} 0 /dev/sev\nopen {os.O_RDWR} 0 /dev/null\nplatform\n"
        assert self.play(script) == [
            "open: /null mode=666 access=2 cloexec=1",  # harmless, and no file that KVM or the firmware owns
            "open: /null mode=666 access=2 cloexec=0",
            "platform: ENOTTY",
        ]

    @pytest.mark.parametrize(("kernel", "told"), [(0b11, 0b10011), (0b1, 0b1), (0b1101, 0b1101), (0, 0)])
    def test_snp_is_offered_where_the_kernel_has_software_protected_vms(self, kernel: int, told: int) -> None:
        """A kernel without them must not look fit: the VM would be an ordinary one."""
        assert self.play(f"fake types {kernel}\nextension 235\n") == [f"extension: {told}"]

    def test_other_capabilities_are_the_kernel_s(self) -> None:
        assert self.play("fake types 3\nextension 201\nextension 234\n") == ["extension: 3"] * 2

    def test_an_snp_vm_becomes_a_software_protected_one_that_hands_conversions_over(self) -> None:
        assert self.play(SNP_VM) == SNP_VM_SEEN

    @pytest.mark.parametrize("vm_type", [0, 1])
    def test_other_vms_stay_what_they_are(self, vm_type: int) -> None:
        assert self.play(f"{TYPES}vm {vm_type}\n") == [f"kvm: create_vm type={vm_type}", "vm: ok"]

    def test_a_refused_vm_is_refused(self) -> None:
        assert self.play("fake types 1\nvm 4\n") == ["kvm: create_vm type=1", "vm: EINVAL"]

    def test_a_kernel_that_keeps_conversions_to_itself_is_complained_about(self) -> None:
        script = f"fake fail enable_cap {errno.EINVAL}\n{SNP_VM}"
        assert self.play(script, "KVM does not hand KVM_HC_MAP_GPA_RANGE to user space") == SNP_VM_SEEN

    def test_attributes_are_dropped_until_the_launch_is_finished(self) -> None:
        attributes = "attributes 0x1000 0x2000 8\n"
        seen = "kvm: set_attributes address=0x1000 size=0x2000 attributes=8 flags=0"
        script = f"{SNP_VM}{attributes}sev 22\nsev 100\n{attributes}sev 102\n{attributes}"
        failing = f"fake fail set_attributes {errno.ENOMEM}\n{attributes}"
        assert self.play(script + failing)[3:] == [
            *("attributes: 0", "sev: 0", "sev: 0", "attributes: 0", "sev: 0"),
            *(seen, "attributes: 0", seen, "attributes: ENOMEM"),
        ]

    def test_an_unknown_launch_command_is_refused_and_kvm_sees_none_of_them(self) -> None:
        assert self.play(SNP_VM + "sev 103\n", "SEV command that it does not know")[3:] == ["sev: ENOTTY"]
        encrypted_memory = "".join(f"vm_call {number:#x} 0\n" for number in (0x8010AEBB, 0x8010AEBC))
        assert self.play(SNP_VM + encrypted_memory)[3:] == ["vm_call: 0"] * 2

    def test_the_question_whether_there_are_launch_commands_is_answered(self) -> None:
        """query-sev-capabilities asks with no command at all; KVM says yes by 0 (sev_mem_enc_ioctl)."""
        assert self.play(SNP_VM + "sev_null\n")[3:] == ["sev_null: 0"]

    @pytest.mark.parametrize("kib", [64, 128, 256])
    def test_the_end_of_the_rom_is_copied_below_1_mib(self, kib: int) -> None:
        size = kib << 10
        copied = min(size, 128 << 10)
        script = (
            f"{SNP_VM}map {HVA} {2 * MIB}\nmap {ROM} {size}\nnumber {ROM} {size}\nregion2 0 0 0 {2 * MIB} {HVA}\n"
            f"region2 1 0 {4096 * MIB} {MIB} {ROM}\n"
            f"launch_update {(4096 * MIB - size) // PAGE} {ROM} {size}\nnumbers {HVA} {2 * MIB}\n"
        )
        assert self.play(script)[-3:] == [
            "launch_update: 0",
            f"updated: gfn=0x100000 hva={ROM + size:#x} len=0 error=0",
            f"numbers: 0:0 {MIB - copied:#x}:{(size - copied) // 8 + 1} 0x100000:0",
        ]

    def test_what_is_no_rom_is_copied_nowhere(self) -> None:
        script = (
            f"{SNP_VM}map {HVA} {2 * MIB}\nnumber {HVA + MIB} {MIB}\nregion2 0 0 0 {2 * MIB} {HVA}\n"
            f"launch_update 0x100 {HVA + MIB} 0x3000\nnumbers {HVA} {2 * MIB}\n"
        )
        assert self.play(script)[-2:] == [
            f"updated: gfn=0x103 hva={HVA + MIB + 0x3000:#x} len=0 error=0",
            "numbers: 0:0 0x100000:1",
        ]

    @pytest.mark.parametrize(
        "slots",
        [
            "",
            f"region2 0 0 0 {MIB - PAGE} {HVA}\n",
            f"region2 0 0 0 {MIB} {HVA}\nregion2 0 0 0 0 {HVA}\n",
            f"fake fail region2 {errno.EEXIST}\nregion2 0 0 0 {MIB} {HVA}\n",
        ],
        ids=["never", "one page short", "deleted", "refused"],
    )
    def test_a_rom_without_ram_below_1_mib_is_refused(self, slots: str) -> None:
        script = f"{SNP_VM}map {HVA} {MIB}\n{slots}launch_update 0xfffff {HVA} 0x1000\nnumbers {HVA} {MIB}\n"
        lines = self.play(script, "no RAM below 1 MiB to copy the ROM to")
        assert lines[-2:] == ["launch_update: EINVAL", "numbers: 0:0"]

    def test_only_the_leaf_of_encrypted_memory_is_zeroed(self) -> None:
        leaves = (0x1F, 0x80000008, 0x8000001E, 0x8000001F, 0x80000020)
        script = f"{SNP_VM}vcpu\ncpuid {' '.join(map(hex, leaves))}\nfake fail cpuid {errno.E2BIG}\ncpuid 0\n"
        registers = {leaf: "0 0 0 0" if leaf == 0x8000001F else "0xa 0xb 0xc 0xd" for leaf in (*leaves, 0)}
        seen = [f"kvm: cpuid {leaf:#x}.{index} {registers[leaf]}" for leaf in leaves for index in (0, 1)]
        refused = ["kvm: cpuid 0.0 0xa 0xb 0xc 0xd", "kvm: cpuid 0.1 0xa 0xb 0xc 0xd", "cpuid: E2BIG"]
        assert self.play(script)[4:] == [*seen, "cpuid: 0", *refused]

    @pytest.mark.parametrize("call", ["open", "open64"])
    def test_other_files_open_as_ever(self, call: str, tmp_path: Path) -> None:
        created, there = tmp_path / "created", tmp_path / "there"
        there.touch(mode=0o604)
        there.chmod(0o604)
        script = (
            f"{call} {os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC} {0o640} {created}\n{call} {os.O_RDONLY} 0 {there}\n"
            f"{call} {os.O_RDWR} 0 {tmp_path}/missing\n{call} {os.O_TMPFILE | os.O_RDWR} {0o600} /dev/shm\n"
        )
        assert [re.sub(r"/#\d+ \(deleted\)", "(no name)", line) for line in self.play(script)] == [
            f"{call}: /created mode=640 access=1 cloexec=1",
            f"{call}: /there mode=604 access=0 cloexec=0",
            f"{call}: ENOENT",
            f"{call}: (no name) mode=600 access=2 cloexec=0",
        ]

    def test_other_requests_pass_untouched(self) -> None:
        older = f"region 3 2 0x4000 0x1000 {HVA}\n"
        assert self.play(f"{SNP_VM}pipe 17\nkvm 0xae00 0\nkvm 0x1234 0\n{older}")[3:] == [
            *("pipe: 0 waiting=17", "kvm: 12", "kvm: unexpected request=0x1234", "kvm: ENOTTY"),
            *(f"kvm: region slot=3 flags=2 gpa=0x4000 size=0x1000 hva={HVA:#x}", "region: 0"),
        ]


class TestDirect:
    """swprot.c: QEMU sees an ordinary VM, KVM a software-protected one."""

    VM = f"{TYPES}vm 0\nvcpu\n"
    # RAM of two slots, numbered words on its shared side and every page on its private side
    MEMORY = (
        f"{VM}map {HVA} {RAM}\nnumber {HVA} {RAM}\nregion 0 0 0 {RAM // 2} {HVA}\n"
        f"region2 1 0 {RAM // 2} {RAM // 2} {HVA + RAM // 2}\nfake private_fill\n"
    )
    BOTH = f"numbers {HVA} {RAM}\nfake private\n"

    @pytest.fixture(autouse=True)
    def _on(self, stage: Stage) -> None:
        self.stage = stage

    def play(self, script: str, complaint: str = "") -> list[str]:
        expected = f"swprot: {complaint}\n" if complaint else ""
        return self.stage.play("swprot", script, expected, GMEM_RAM_BYTES=str(RAM))

    def converted(self, script: str, complaint: str = "") -> list[str]:
        """What comes of ``script`` in a VM with MEMORY, without what its making said."""
        lines = self.play(self.MEMORY + script, complaint)
        return lines[lines.index("region2: 0") + 1 :]

    def test_an_ordinary_vm_becomes_a_software_protected_one_with_a_guest_memfd(self) -> None:
        assert self.play(f"{TYPES}vm 0\n") == [
            *SNP_VM_SEEN[:2],
            f"kvm: create_guest_memfd size={RAM:#x} flags=0",
            "vm: ok",
        ]

    @pytest.mark.parametrize("vm_type", [1, 4])
    def test_any_other_vm_is_left_to_the_kernel(self, vm_type: int) -> None:
        script = f"fake types {0b10011}\nvm {vm_type}\n"
        assert self.play(script) == [f"kvm: create_vm type={vm_type}", "vm: ok"]

    @pytest.mark.parametrize(
        ("request_name", "complaint", "answer"),
        [
            ("create_vm", "KVM makes no software-protected VM (Invalid argument)", "EINVAL"),
            ("enable_cap", "KVM does not hand KVM_HC_MAP_GPA_RANGE to user space (Invalid argument)", "ok"),
            ("create_guest_memfd", "KVM makes no guest_memfd (Invalid argument)", "ok"),
        ],
    )
    def test_what_kvm_refuses_is_complained_about(self, request_name: str, complaint: str, answer: str) -> None:
        lines = self.play(f"{TYPES}fake fail {request_name} {errno.EINVAL}\nvm 0\n", complaint)
        assert lines[-1] == f"vm: {answer}"

    @pytest.mark.parametrize("request_name", ["region", "region2"])
    @pytest.mark.parametrize(
        ("flags", "gpa", "size", "private"),
        [
            (0, 0, RAM, True),
            (0, 3 * PAGE, PAGE, True),
            (0, RAM - PAGE, PAGE, True),
            (0, RAM - PAGE, 2 * PAGE, False),
            (0, RAM, PAGE, False),
            (0, 4096 * MIB - PAGE, PAGE, False),
            (READONLY, PAGE, PAGE, False),
            (DIRTY_LOG, PAGE, PAGE, False),
            (0, PAGE, 0, False),
        ],
        ids=["RAM", "piece", "end", "across the end", "beyond", "ROM", "read-only", "dirty log", "deletion"],
    )
    def test_ram_gets_its_guest_memfd(self, request_name: str, flags: int, gpa: int, size: int, private: bool) -> None:
        hexadecimal = [f"{number:#x}" if number else "0" for number in (gpa, size, HVA)]
        place = "gpa={} size={} hva={}".format(*hexadecimal)
        memfd = f" guest_memfd=ours offset={hexadecimal[0]}" if private else ""
        assert self.play(f"{self.VM}{request_name} 5 {flags} {gpa} {size} {HVA}\n")[-2:] == [
            f"kvm: region2 slot=5 flags={4 if private else flags} {place}{memfd}",
            f"{request_name}: 0",
        ]

    def test_to_private_sets_attributes_and_discards_the_shared_side(self) -> None:
        """Across both slots; the neighbours stay, and so does all of the private side."""
        script = f"fake exit {HYPERCALL} 0 12 0x3000 2 {PRIVATE}\nfake exit {MMIO} 0\nrun 0\n{self.BOTH}"
        assert self.converted(script) == [
            "kvm: set_attributes address=0x3000 size=0x2000 attributes=8 flags=0",
            "kvm: hypercall returns 0",
            f"run: 0 exit={MMIO}",
            "numbers: 0:1 0x3000:0 0x5000:2561",
            "private: 0-0x8000",
        ]

    def test_to_shared_sets_attributes_and_discards_the_private_side(self) -> None:
        script = f"fake exit {HYPERCALL} 0 12 0x3000 2 {SHARED}\nfake exit {MMIO} 0\nrun 0\n{self.BOTH}"
        assert self.converted(script) == [
            "kvm: set_attributes address=0x3000 size=0x2000 attributes=0 flags=0",
            "kvm: hypercall returns 0",
            f"run: 0 exit={MMIO}",
            "numbers: 0:1",
            "private: 0-0x3000 0x5000-0x8000",
        ]

    def test_the_size_in_the_hypercall_is_not_the_direction(self) -> None:
        """The low bits of the third argument are the page size (KVM_MAP_GPA_RANGE_PAGE_SZ_2M)."""
        script = f"fake exit {HYPERCALL} 0 12 0 1 1\nrun 0\nfake exit {HYPERCALL} 0 12 0 1 0x11\nrun 0\n"
        assert [line for line in self.converted(script) if "attributes" in line] == [
            f"kvm: set_attributes address=0 size=0x1000 attributes={attributes} flags=0" for attributes in (0, 8)
        ]

    @pytest.mark.parametrize(
        ("flags", "attributes", "numbers", "private"),
        [
            (FAULT_PRIVATE, 8, "0:1 0x2000:0 0x3000:1537", "0-0x8000"),
            (0, 0, "0:1", "0-0x2000 0x3000-0x8000"),
        ],
        ids=["private", "shared"],
    )
    def test_a_memory_fault_converts_its_page(self, flags: int, attributes: int, numbers: str, private: str) -> None:
        script = f"fake exit {MEMORY_FAULT} {errno.EFAULT} {flags} 0x2000 {PAGE}\nfake exit {MMIO} 0\nrun 0\n"
        assert self.converted(script + self.BOTH) == [
            f"kvm: set_attributes address=0x2000 size=0x1000 attributes={attributes} flags=0",
            f"run: 0 exit={MMIO}",
            f"numbers: {numbers}",
            f"private: {private}",
        ]

    def test_conversions_follow_each_other_on_any_vcpu(self) -> None:
        exits = "".join(f"fake exit {HYPERCALL} 0 12 {page * PAGE} 1 {PRIVATE}\n" for page in (1, 6))
        lines = self.converted(f"vcpu\n{exits}fake exit {MMIO} 0\nrun 1\n{self.BOTH}")
        assert lines[-3:] == [
            f"run: 0 exit={MMIO}",
            "numbers: 0:1 0x1000:0 0x2000:1025 0x6000:0 0x7000:3585",
            "private: 0-0x8000",
        ]

    @pytest.mark.parametrize("change", ["1 0 {half} 0 {hva}", "1 2 {half} {half} {hva}"], ids=["deleted", "read-only"])
    def test_memory_that_is_no_ram_any_more_is_not_discarded(self, change: str) -> None:
        region = "region2 " + change.format(half=RAM // 2, hva=HVA + RAM // 2) + "\n"
        convert = f"fake exit {HYPERCALL} 0 12 0 {RAM // PAGE} {PRIVATE}\nrun 0\n"
        assert f"numbers: 0:0 0x4000:{RAM // 2 // 8 + 1}" in self.converted(region + convert + self.BOTH)

    @pytest.mark.parametrize(
        ("exit_of_kvm", "told"),
        [
            (f"{MMIO} 0", f"0 exit={MMIO}"),
            (f"{HYPERCALL} 0 13 0 1 {PRIVATE}", f"0 exit={HYPERCALL}"),
            (f"{MMIO} {errno.EFAULT} {FAULT_PRIVATE} 0 {PAGE}", f"EFAULT exit={MMIO}"),
            (f"{MEMORY_FAULT} {EHWPOISON} {FAULT_PRIVATE} 0 {PAGE}", f"EHWPOISON exit={MEMORY_FAULT}"),
            (f"{MEMORY_FAULT} 0 {FAULT_PRIVATE} 0 {PAGE}", f"0 exit={MEMORY_FAULT}"),
            (f"{HYPERCALL} {errno.EINTR} 12 0 1 {PRIVATE}", f"EINTR exit={HYPERCALL}"),
        ],
    )
    def test_other_exits_and_errors_pass(self, exit_of_kvm: str, told: str) -> None:
        """What is left in the kvm_run of an earlier exit does not count when KVM_RUN itself failed."""
        lines = self.converted(f"fake exit {exit_of_kvm}\nfake exit {MMIO} 0\nrun 0\n{self.BOTH}")
        assert lines == [f"run: {told}", "numbers: 0:1", "private: 0-0x8000"]

    def test_a_refused_conversion_is_the_guest_s_to_know_and_discards_nothing(self) -> None:
        """Attributes come first: the side that is still in use must not lose its pages."""
        script = f"fake fail set_attributes {errno.ENOMEM}\nfake exit {HYPERCALL} 0 12 0 8 {{}}\nrun 0\n{self.BOTH}"
        for direction in (PRIVATE, SHARED):
            lines = self.converted(script.format(direction), "KVM does not set the attributes (Cannot allocate memory)")
            assert lines[1:2] + lines[3:] == [
                f"kvm: hypercall returns {-errno.ENOMEM}",
                "numbers: 0:1",
                "private: 0-0x8000",
            ]

    def test_a_fault_that_cannot_be_converted_is_handed_on_as_kvm_gave_it(self) -> None:
        script = (
            f"fake fail set_attributes {errno.ENOMEM}\nfake exit {MEMORY_FAULT} {errno.EFAULT} 0 0 {PAGE}\n"
            f"fake exit {MMIO} 0\nrun 0\n{self.BOTH}"
        )
        lines = self.converted(script, "KVM does not set the attributes (Cannot allocate memory)")
        assert lines[1:] == [f"run: EFAULT exit={MEMORY_FAULT}", "numbers: 0:1", "private: 0-0x8000"]

    def test_other_requests_pass_untouched(self) -> None:
        lines = self.play(f"{TYPES}vm 1\npipe 17\nkvm 0xae00 0\nextension 235\nkvm 0x1234 0\n")
        assert lines[2:] == [
            *("pipe: 0 waiting=17", "kvm: 12", "extension: 3"),
            *("kvm: unexpected request=0x1234", "kvm: ENOTTY"),
        ]

    @pytest.mark.parametrize("ram", [None, "", "0", "4095", "134217729", "128M", "much"])
    def test_without_the_size_of_the_ram_nothing_runs(self, ram: str | None) -> None:
        done = self.stage.run("swprot", f"{TYPES}vm 0\n", {} if ram is None else {"GMEM_RAM_BYTES": ram})
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "swprot: GMEM_RAM_BYTES is not the size of the RAM (Invalid argument)\n"
