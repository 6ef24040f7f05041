# SPDX-License-Identifier: GPL-2.0-only
"""From what a guest shall be to a line that its host's QEMU takes: all that can be known before QEMU is started.

planned = plan(reach, TeeSpec(name="g0", kind=tee_kind("snp"), program="/usr/bin/qemu-system-x86_64", ...))
if planned.refusals:
    raise planned.refusals[0].error
reach.start(planned.command)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from harness.errors import InfraError, NothingRanError
from harness.guest.tee.arguments import split_line
from harness.guest.tee.candidates import PLACES, Choice, Place, choose_firmware, gather
from harness.guest.tee.line import CPUID_LEAF, TeeSpec, cbitpos_of, tee_command
from harness.guest.tee.linecheck import check_line
from harness.guest.tee.refusal import Refusal
from harness.guest.tee.schema import ask_schema, survives_reset
from harness.host.reach import Reach

_CPUID: Final = "/dev/cpu/0/cpuid"


@dataclass(frozen=True)
class Plan:
    """A guest that can be launched, or the reasons why not."""

    spec: TeeSpec
    """With what the host answered: firmware, cbitpos, reset."""
    command: tuple[str, ...]
    firmware: Choice
    qemu: str
    """Version, for people."""
    refusals: tuple[Refusal, ...]
    """Empty when this QEMU knows everything in the line."""


def plan(reach: Reach, wanted: TeeSpec, places: Iterable[Place] = PLACES) -> Plan:
    """Find the firmware (that of ``wanted``, if it names one), read cbitpos (the same), and check the line.

    Raises ``NothingRanError`` (a skip): no firmware for this kind, no SEV in the host's CPU.  ``UsageError``: a
    description that cannot be.  ``InfraError``: no QEMU, no answer; ``ReachError``: no host.
    """
    if wanted.firmware:
        places = (Place(wanted.firmware, "named for this guest"),)
    firmware = choose_firmware(wanted.kind, gather(reach, places), wanted.kernel_hashes)
    spec = replace(wanted, firmware=firmware.path)
    if spec.kind.wants_cbitpos and spec.cbitpos is None:
        spec = replace(spec, cbitpos=host_cbitpos(reach))
    schema = ask_schema(reach, spec.program, split_line(tee_command(spec)))
    spec = replace(spec, survives_reset=survives_reset(schema, spec.kind))
    command = tee_command(spec)
    return Plan(spec, tuple(command), firmware, schema.version, tuple(check_line(schema, split_line(command))))


def host_cbitpos(reach: Reach) -> int:
    """``cbitpos_of`` the host, read from ``/dev/cpu/0/cpuid``.

    Raises ``InfraError`` where that cannot be read, ``NothingRanError`` where the CPU has no memory encryption.
    """
    # at offset N the driver has CPUID leaf N (arch/x86/kernel/cpuid.c); a leaf that the CPU lacks reads as another one
    words = ["dd", f"if={_CPUID}", "bs=16", "count=1", "iflag=skip_bytes"]
    highest = reach.run([*words, f"skip={0x80000000}"])
    leaf = reach.run([*words, f"skip={CPUID_LEAF}"])
    if highest.code or leaf.code or len(highest.output) != 16 or len(leaf.output) != 16:
        raise InfraError(
            f"{reach.name}: {_CPUID} cannot be read, so cbitpos is not known: modprobe cpuid, or be root there"
        )
    if int.from_bytes(highest.output[:4], "little") < CPUID_LEAF or not cbitpos_of(leaf.output):
        raise NothingRanError(f"{reach.name}: host has no SNP: its CPU has no memory encryption (CPUID 0x8000001f)")
    return cbitpos_of(leaf.output)
