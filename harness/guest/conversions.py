# SPDX-License-Identifier: GPL-2.0-only
"""The list of conversions as QEMU itself traced them.

QEMU's trace event ``kvm_convert_memory`` prints one line per conversion it carries out:
``kvm_convert_memory start 0x2c00000 size 0x200000 shared_to_private`` (accel/kvm/trace-events).  It is switched on by
QMP and read from the trace log.  The log is a character device of the emulated host, so it takes none of its memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import InfraError

EVENT = "kvm_convert_memory"
_LINE = re.compile(
    r"^(?:\d+@[\d.]+:)?kvm_convert_memory start (0x[0-9a-f]+) size (0x[0-9a-f]+) (shared_to_private|private_to_shared)$"
)


@dataclass(frozen=True)
class Conversion:
    """One conversion of a range of guest physical memory."""

    gpa: int
    pages: int
    """4 KiB pages."""
    to_private: bool

    def __str__(self) -> str:
        return f"{self.gpa:#x}+{self.pages} pages to {'private' if self.to_private else 'shared'}"


def parse_trace(text: str) -> list[Conversion]:
    """The conversions in a trace log, in order.

    Lines of other events are ignored; a ``kvm_convert_memory`` line of another form raises ``InfraError``: then this
    QEMU traces differently, and silence would look like agreement.
    """
    found = []
    for line in text.splitlines():
        if EVENT not in line:
            continue
        match = _LINE.match(line.strip())
        if not match:
            raise InfraError(f"QEMU's trace log has a {EVENT} line that the harness cannot read: {line.strip()[:200]}")
        start, size = int(match[1], 16), int(match[2], 16)
        if start % 4096 or size % 4096 or not size:
            raise InfraError(f"QEMU traced a conversion that is not whole pages: {line.strip()[:200]}")
        found.append(Conversion(start, size // 4096, match[3] == "shared_to_private"))
    return found
