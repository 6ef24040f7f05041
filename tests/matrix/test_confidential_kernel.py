# SPDX-License-Identifier: GPL-2.0-only
"""The kernel of SEV-SNP and TDX guests, built and booted as a plain guest on TCG: by SeaBIOS, and by OVMF's EFI.

No machine with either was at hand: what its code for memory encryption does is not shown, only that it is there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cache import ContentCache
from harness.guest.tee.debian import unpacked_qemu
from harness.run.lab import CONFIDENTIAL_GUEST
from tests.emulated.conftest import RUN_SECONDS
from tests.emulated.plain_guest import host_files, plain_guest

pytestmark = pytest.mark.timeout(RUN_SECONDS)

WANTED = (
    *("AMD_MEM_ENCRYPT", "SEV_GUEST", "INTEL_TDX_GUEST", "TDX_GUEST_DRIVER", "TSM_REPORTS"),  # either platform
    *("EFI", "EFI_STUB", "RELOCATABLE", "UNACCEPTED_MEMORY"),  # OVMF starts it, and leaves memory to be accepted
    *("X86_MEM_ENCRYPT", "ARCH_HAS_CC_PLATFORM", "SWIOTLB"),  # set_memory_*(), and devices beside private memory
    *("VIRTIO_PCI", "VIRTIO_CONSOLE", "SERIAL_8250_CONSOLE", "PCI_MSI"),  # what the line of a launch has
    *("MODULES", "KVM_GUEST", "X86_X2APIC", "ACPI_MADT_WAKEUP"),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return host_files(tmp_path_factory.mktemp("host"), CONFIDENTIAL_GUEST)


@pytest.mark.parametrize("efi", [False, True], ids=["SeaBIOS", "OVMF"])
def test_it_boots(files: Path, tmp_path: Path, efi: bool) -> None:
    firmware = {"plain": str(unpacked_qemu(ContentCache()).firmware)} if efi else {}
    with plain_guest(files, tmp_path, firmware) as up:
        assert up.told.startswith("proven: "), up.told
        # without memory encryption the module is to ask KVM itself
        assert "guest: its module converts by hypercall" in up.told
        agent = up.channels.agents["g0"]
        agent.alloc(0, 2)
        assert len(agent.where(0, chunks=2, memory_bytes=up.guest.memory_bytes)) == 2
        assert ("efi: EFI v" in up.inside("dmesg")) == efi
        held = up.inside("sh", "-c", "zcat /proc/config.gz").splitlines()
        assert [name for name in WANTED if f"CONFIG_{name}=y" not in held] == []
        # the kernel's own functions for conversion are there for modules
        exported = up.inside("grep", "-wE", "set_memory_(de|en)crypted", "/proc/kallsyms")
        assert "set_memory_decrypted" in exported
        assert "set_memory_encrypted" in exported
