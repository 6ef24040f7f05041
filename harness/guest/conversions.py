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
from harness.guest.console import clean
from harness.guest.qmp import QmpSession

EVENT = "kvm_convert_memory"
_LINE = re.compile(
    # What QEMU may put in front, depending on -msg and its version: [guest], a time, program and thread, pid and time.
    r"(?:\[[^\]]{0,100}\] )?(?:\d{4}-\d\d-\d\dT\S{1,40} )?(?:\S{1,100}\(\d+(?::[^)]{1,40})?\): )?(?:\d+@[\d.]+:)?"
    r"kvm_convert_memory start (0x[0-9a-f]{1,16}) size (0x[0-9a-f]{1,16}) (shared_to_private|private_to_shared)"
)
_WORD = re.compile(rf"\b{EVENT}\b")


@dataclass(frozen=True)
class Conversion:
    """One conversion of a range of guest physical memory."""

    gpa: int
    pages: int
    """4 KiB pages."""
    to_private: bool

    def __str__(self) -> str:
        return f"{self.gpa:#x}+{self.pages} pages to {'private' if self.to_private else 'shared'}"


class NotTraced(InfraError):
    """A QEMU does not trace its conversions."""


def check_traced(guest: str, monitor: QmpSession) -> None:
    """Raises ``NotTraced`` unless the guest's QEMU traces its conversions: silence would look like agreement."""
    answer = monitor.execute("trace-event-get-state", {"name": EVENT})
    if [event.get("state") for event in answer] != ["enabled"]:
        raise NotTraced(f"QEMU of {guest} does not trace {EVENT}: {answer}; remove the saved testbed")


def parse_trace(text: str) -> list[Conversion]:
    """The conversions in a trace log, in order.

    Lines of other events are ignored, and so is what follows the last newline: it is still on its way.  A
    ``kvm_convert_memory`` line of another form raises ``InfraError``: then this QEMU traces differently, and silence
    would look like agreement.
    """
    found = []
    for raw in text[: text.rfind("\n") + 1].split("\n"):
        line = clean(raw).strip() if EVENT in raw else ""
        if not _WORD.search(line):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise InfraError(f"QEMU's trace log has a {EVENT} line that the harness cannot read: {line[:200]}")
        start, size = int(match[1], 16), int(match[2], 16)
        if start % 4096 or size % 4096 or not size:
            raise InfraError(f"QEMU traced a conversion that is not whole pages: {line[:200]}")
        found.append(Conversion(start, size // 4096, match[3] == "shared_to_private"))
    return found
