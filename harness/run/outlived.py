# SPDX-License-Identifier: GPL-2.0-only
"""A VM that is still there after its QEMU has ended: somebody kept a reference on it, and it is never destroyed.

No counter of the host's memory tells: the page tables of such a VM go with the address space of its process all the
same, and what stays (struct kvm, virtual CPUs, the roots of the tables) is in slabs and in pages that no item counts.
But KVM shows the statistics of a VM from its creation to its destruction (kvm_main.c:kvm_create_vm_debugfs,
kvm_destroy_vm).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.errors import InfraError
from harness.host.testbed import Testbed

GONE_SECONDS = 2.0
"""The last reference is dropped by the process that ends or, of a file, right behind it.  The rest is for a machine on
which others take the CPU."""
_POLL_SECONDS = 0.1
_STATISTICS = "/sys/kernel/debug/kvm"
_LIST = f'for vm in {_STATISTICS}/{{pid}}-*; do [ -d "$vm" ] && echo "$vm"; done; true'


def outlived(
    testbed: Testbed,
    guest: str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """The message about the VM of a guest whose QEMU ended; none where it is gone, or where nobody can be asked."""
    if any(spec.launch.bare for spec in testbed.spec.guests):
        return []  # a process of ours without a VM that runs, on a machine with VMs of others
    control = getattr(testbed.channels, "control", None)
    if control is None:
        return []
    pid = testbed.guest(guest).pid
    command = ["sh", "-c", _LIST.format(pid=pid)]
    end = clock() + GONE_SECONDS
    while left := control.run(command).output.split():
        if strange := next((word for word in left if not word.startswith(f"{_STATISTICS}/{pid}-")), None):
            raise InfraError(f"asked for the VMs of process {pid}, the host answered {strange[:80]!r}")
        if clock() > end:
            return [f"the VM of {guest} outlives its QEMU: KVM still shows {left[0]}, so it was not destroyed"]
        sleep(_POLL_SECONDS)
    return []
