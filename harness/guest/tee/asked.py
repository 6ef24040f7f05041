# SPDX-License-Identifier: GPL-2.0-only
"""Whether QEMU converted what the guest asked for: its trace events beside the guest's own list.

The two lists differ without a fault.  KVM joins neighbouring pages of SNP's page state changes into one exit, TDX
splits a request at 2 MiB (arch/x86/kvm/vmx/tdx.c, TDX_MAP_GPA_MAX_LEN): so runs of one direction are joined before they
are compared.  And a guest converts without asking, by touching a page on the other side: KVM then ends with
KVM_EXIT_MEMORY_FAULT, which QEMU traces as ``kvm_memory_fault`` before it converts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from harness.errors import InfraError
from harness.guest.console import clean
from harness.guest.conversions import EVENT, Conversion, parse_trace

FAULT = "kvm_memory_fault"
PRIVATE = 1 << 3
"""KVM_MEMORY_EXIT_FLAG_PRIVATE (include/uapi/linux/kvm.h)."""
_FAULT = re.compile(rf"\b{FAULT} start (0x[0-9a-f]{{1,16}}) size (0x[0-9a-f]{{1,16}}) flags (0x[0-9a-f]{{1,16}})")
_WORD = re.compile(rf"\b(?:{EVENT}|{FAULT})\b")


@dataclass(frozen=True)
class Traced:
    """What a trace log says of conversions."""

    explicit: tuple[Conversion, ...]
    """Asked for by a hypercall."""
    implicit: tuple[Conversion, ...]
    """Made because the guest touched memory on the other side."""
    unanswered: tuple[Conversion, ...]
    """Faults that no conversion followed."""


def read_trace(text: str) -> Traced:
    """The conversions of a trace log, each with what caused it.

    What follows the last newline is left: it is still on its way.  Raises ``InfraError`` for a line of either event in
    a form that is not known.
    """
    explicit: list[Conversion] = []
    implicit: list[Conversion] = []
    pending: list[Conversion] = []
    for raw in text[: text.rfind("\n") + 1].split("\n"):
        event = _WORD.search(raw)
        if event is None:
            continue
        if event[0] == FAULT:
            pending.append(_fault(raw))
            continue
        for conversion in parse_trace(raw + "\n"):
            # QEMU converts before it lets this vCPU go on; lines of other vCPUs may stand between
            if conversion in pending:
                implicit.append(conversion)
                pending.remove(conversion)
            else:
                explicit.append(conversion)
    return Traced(tuple(explicit), tuple(implicit), tuple(pending))


def _fault(raw: str) -> Conversion:
    line = clean(raw).strip()
    match = _FAULT.search(line)
    if match is None or match.end() != len(line):
        raise InfraError(f"QEMU's trace log has a {FAULT} line that the harness cannot read: {line[:200]}")
    start, size, flags = (int(word, 16) for word in match.groups())
    if start % 4096 or size % 4096 or not size:
        raise InfraError(f"QEMU traced a fault that is not on whole pages: {line[:200]}")
    return Conversion(start, size // 4096, bool(flags & PRIVATE))


def joined(conversions: Iterable[Conversion]) -> list[Conversion]:
    """Neighbours of one direction, each beginning where the one before it ends, as one.

    >>> joined([Conversion(0x0, 1, True), Conversion(0x1000, 2, True), Conversion(0x3000, 1, False)])
    [Conversion(gpa=0, pages=3, to_private=True), Conversion(gpa=12288, pages=1, to_private=False)]
    """
    runs: list[Conversion] = []
    for conversion in conversions:
        last = runs[-1] if runs else None
        if last and last.to_private == conversion.to_private and last.gpa + last.pages * 4096 == conversion.gpa:
            runs[-1] = Conversion(last.gpa, last.pages + conversion.pages, last.to_private)
        else:
            runs.append(conversion)
    return runs


def differences(asked: Sequence[Conversion], traced: Traced) -> list[str]:
    """One sentence for each conversion that was asked for and not made, or the other way round, in order."""
    want, got = joined(asked), joined(traced.explicit)
    found = []
    for tag, a, b, c, d in SequenceMatcher(None, want, got, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        found += [f"the guest asked for {item}, and QEMU did not convert it" for item in want[a:b]]
        found += [f"QEMU converted {item}, and the guest did not ask for it" for item in got[c:d]]
    found += [f"the guest touched {item}, and QEMU did not convert it" for item in traced.unanswered]
    return found
