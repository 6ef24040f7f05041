# SPDX-License-Identifier: GPL-2.0-only
"""A guest planned on a made-up host: firmware, cbitpos and the check of the line, before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from harness.errors import InfraError, NothingRanError
from harness.guest.tee.kinds import SNP, TDX
from harness.guest.tee.line import TeeSpec
from harness.guest.tee.plan import host_cbitpos, plan
from harness.guest.tee.refusal import Whose
from harness.host.reach import Done
from tests.fake.firmware_images import WHOLE
from tests.fake.qemu_answers import MadeUp

WANTED = TeeSpec("g0", SNP, "/run/g0", "qemu", "", "/g/kernel", "/g/image")
GENERIC = "/usr/share/ovmf/OVMF.fd"


def leaf(*registers: int) -> bytes:
    return b"".join(register.to_bytes(4, "little") for register in registers)


@dataclass
class Lab(MadeUp):
    """That QEMU, a firmware and a CPU."""

    firmware: str = GENERIC
    highest: bytes = leaf(0x80000021, 0, 0, 0)
    encryption: bytes = leaf(0x1F, 0x4000 | 51, 509, 1)

    def run(self, arguments: Sequence[str], *, stdin: bytes = b"", timeout: float = 0) -> Done:
        if arguments[0] == "head":
            return Done(0, WHOLE, b"") if arguments[-1] == self.firmware else Done(1, b"", b"")
        if arguments[0] == "dd":
            assert arguments[1] == "if=/dev/cpu/0/cpuid"
            return Done(0, {"skip=2147483648": self.highest, "skip=2147483679": self.encryption}[arguments[-1]], b"")
        return super().run(arguments, stdin=stdin, timeout=timeout)


def test_what_the_host_answers_goes_into_the_line() -> None:
    planned = plan(Lab(), WANTED)  # type: ignore[arg-type]
    assert planned.spec.cbitpos == 51
    assert planned.spec.firmware == planned.firmware.path == GENERIC
    assert planned.spec.survives_reset
    assert "-no-reboot" not in planned.command
    assert any("cbitpos=51" in word for word in planned.command)
    assert planned.qemu == "QEMU 12.0.1"
    # the made-up QEMU knows few objects and options: everything it lacks is named
    assert any("memory-backend-ram" in refusal.sentence for refusal in planned.refusals)


def test_a_qemu_without_the_object_is_a_skip() -> None:
    refusals = plan(Lab(), TeeSpec("g0", TDX, "/run/g0", "qemu", "", "/k", "/i")).refusals  # type: ignore[arg-type]
    assert any("no object 'tdx-guest'" in item.sentence for item in refusals if item.whose is Whose.SKIP)


def test_a_firmware_that_is_named_is_taken_or_refused() -> None:
    named = TeeSpec("g0", SNP, "/run/g0", "qemu", "/own.fd", "/k", "/i")
    assert plan(Lab(firmware="/own.fd"), named).firmware.path == "/own.fd"  # type: ignore[arg-type]
    with pytest.raises(NothingRanError, match=r"no firmware for a SEV-SNP guest: /own.fd is not there \(named for"):
        plan(Lab(), named)  # type: ignore[arg-type]


def test_a_cpu_without_encryption_has_no_snp() -> None:
    for lab in (Lab(highest=leaf(0x80000008, 0, 0, 0)), Lab(encryption=leaf(0, 0, 0, 0))):
        with pytest.raises(NothingRanError, match="host has no SNP: its CPU has no memory encryption"):
            host_cbitpos(lab)  # type: ignore[arg-type]


def test_a_cpuid_that_cannot_be_read() -> None:
    with pytest.raises(InfraError, match="lab: /dev/cpu/0/cpuid cannot be read, so cbitpos is not known"):
        host_cbitpos(Lab(encryption=b""))  # type: ignore[arg-type]
