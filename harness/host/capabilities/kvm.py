# SPDX-License-Identifier: GPL-2.0-only
"""What ``gmem-kvmcaps`` (``harness/native/kvmcaps``) printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

VM_TYPES: Final = {"default": 0, "sw-protected": 1, "sev": 2, "sev-es": 3, "snp": 4, "tdx": 5}
"""KVM_X86_*_VM, arch/x86/include/uapi/asm/kvm.h."""
PRIVATE: Final = 1 << 3
"""KVM_MEMORY_ATTRIBUTE_PRIVATE."""
MAP_GPA_RANGE: Final = 1 << 12
"""KVM_HC_MAP_GPA_RANGE in the mask of KVM_CAP_EXIT_HYPERCALL."""
MMAP, INIT_SHARED = 1 << 0, 1 << 1
"""GUEST_MEMFD_FLAG_*."""


@dataclass(frozen=True)
class KvmAnswers:
    """The lines as a mapping; a line that is none, or that is missing, is unknown and never 0."""

    lines: Mapping[str, str]

    @classmethod
    def parse(cls, text: str | None) -> KvmAnswers | None:
        """None for what is not the program's whole output."""
        lines = dict(re.findall(r"^([a-z0-9_.-]+)=(\S*)$", text or "", re.M))
        return cls(lines) if lines.get("kvmcaps") == "1" and lines.get("end") == "1" else None

    def number(self, key: str) -> int | None:
        """A result of zero or more; None for an error or nothing."""
        value = self.lines.get(key, "")
        return int(value, 16) if re.fullmatch(r"0x[0-9a-f]{1,16}", value) else None

    def error(self, key: str) -> str:
        """Name of the errno, e.g. ``EINVAL``; "" for a result or nothing."""
        return self.lines.get(key, "").partition("error:")[2]

    @property
    def opened(self) -> bool:
        """Whether /dev/kvm could be opened."""
        return self.number("kvm.open") == 0

    @property
    def registers(self) -> tuple[int, int, int, int] | None:
        """EAX, EBX, ECX, EDX of CPUID 8000001F; None where the CPU does not have it."""
        parts = self.lines.get("cpuid.8000001f", "").split(",")
        if len(parts) != 4 or not all(re.fullmatch(r"0x[0-9a-f]{1,8}", part) for part in parts):
            return None
        a, b, c, d = (int(part, 16) for part in parts)
        return a, b, c, d

    def named(self, kind: str) -> bool | None:
        """Whether KVM_CAP_VM_TYPES names a type; None when it did not answer."""
        types = self.number("sys.vm_types")
        return None if types is None else bool(types >> VM_TYPES[kind] & 1)

    def created(self, kind: str) -> bool | None:
        """Whether a VM of that type could be made; None when it was not tried."""
        key = f"vm.{kind}.create"
        return True if self.number(key) == 0 else False if self.error(key) else None

    def types(self) -> tuple[str, ...]:
        """Types of which a VM could be made."""
        return tuple(kind for kind in VM_TYPES if self.created(kind))
