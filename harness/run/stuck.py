# SPDX-License-Identifier: GPL-2.0-only
"""A guest that is silent because its host's kernel faults for ever: told by the kernel's own counters.

A guest that does not answer says nothing about the kernel under test: it may have hung for reasons of its own.  But
where the host still answers, KVM's counters tell one case apart in which the kernel is at fault: a page fault that KVM
takes again and again and never ends, neither by a mapping nor otherwise.  That is what an invalidation that was begun
and not ended looks like (kvm_main.c:mmu_invalidate_retry_gfn), and what any fault path that only ever retries does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from harness.errors import GmemError, StuckError
from harness.host.testbed import Testbed

TAKEN = "pf_taken"
ENDED = ("pf_fixed", "pf_emulate", "pf_spurious", "pf_fast")
"""How a fault that was taken may end; a retry is in none of them (mmu/mmu.c:kvm_mmu_page_fault)."""
WATCHED_SECONDS = 1.0
ENDLESS = 200
"""Faults taken within that second of which none ended.  A retry costs an exit and an entry, well below a millisecond
also under nested emulation, so that a vCPU that does nothing else takes thousands; one that runs ends its faults."""

_READ = r"""
for vm in /sys/kernel/debug/kvm/[0-9]*-*; do
    [ -r "$vm/pf_taken" ] || continue
    line=${vm##*/}
    for name in pf_taken pf_fixed pf_emulate pf_spurious pf_fast; do line="$line $(cat "$vm/$name" 2>/dev/null)"; done
    echo "$line"
done
"""
_WORDS = 2 + len(ENDED)


def fault_counts(text: str) -> dict[int, dict[str, int]]:
    """Counters of each VM by the process id of its QEMU, from what the host printed; a line with a gap is left out.

    >>> fault_counts("4711-12 10 3 0 1 0")
    {4711: {'pf_taken': 10, 'pf_fixed': 3, 'pf_emulate': 0, 'pf_spurious': 1, 'pf_fast': 0}}
    """
    found = {}
    for line in text.splitlines():
        words = line.split()
        pid = words[0].partition("-")[0] if words else ""
        if len(words) == _WORDS and all(word.isdecimal() for word in (pid, *words[1:])):
            found[int(pid)] = dict(zip((TAKEN, *ENDED), map(int, words[1:]), strict=True))
    return found


def endless(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Faults taken between the two readings if none of them ended and they are many, else 0."""
    taken = after[TAKEN] - before[TAKEN]
    ended = sum(after[name] - before[name] for name in ENDED)
    return taken if taken >= ENDLESS and ended == 0 else 0


def check_stuck(testbed: Testbed, sleep: Callable[[float], None] = time.sleep) -> None:
    """Raises ``StuckError`` when a guest's faults never end; nothing where the host cannot be asked."""
    try:
        control = getattr(testbed.channels, "control", None)
        if control is None:
            return
        before = fault_counts(control.run(["sh", "-c", _READ]).output)
        sleep(WATCHED_SECONDS)
        after = fault_counts(control.run(["sh", "-c", _READ]).output)
    except GmemError:
        return  # the host is silent too, or nothing there could be asked
    for guest in testbed.state.guests:
        if guest.pid in before and guest.pid in after and (count := endless(before[guest.pid], after[guest.pid])):
            raise StuckError(
                f"guest {guest.name} is stuck in the kernel under test: within {WATCHED_SECONDS:.0f} s KVM took {count}"
                " page faults of it (pf_taken), and none of them ended (pf_fixed, pf_emulate, pf_spurious, pf_fast +0)"
            )
