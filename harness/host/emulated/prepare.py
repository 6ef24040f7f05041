# SPDX-License-Identifier: GPL-2.0-only
"""Boots an emulated host with its guests and brings it into the state that is saved.

The end state is the same for every testbed: the regions of every guest are allocated in the guest, all their pages are
shared and absent on both sides, and every page table that their use needs exists already, because each page has been
touched on both sides once.  So a step of a scenario moves data pages and nothing else.  On a kernel that converts in
place there is one side, the guest_memfd, which the rest of the RAM fills; the regions are taken out of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import InfraError, NoBootError, NothingRanError
from harness.guest.agent import CALLS_AT_ONCE, CHUNK_PAGES, PAGE_SIZE, ConversionRefused, GuestAgent
from harness.guest.backing import ANON_4K, BackingRecord
from harness.guest.conversions import EVENT, check_traced
from harness.guest.launch import GuestSpec, launch_on
from harness.guest.ssh import Keys
from harness.host.emulated.asking import PREFAULTS, answer, prefaults
from harness.host.emulated.control import Control
from harness.host.emulated.launching import STAND_INS, Starter, start_guests, wait_guest
from harness.host.emulated.memory import check_memory, ram_address, set_up_memory
from harness.host.emulated.state import Channels, GuestState, TestbedSpec, TestbedState
from harness.host.probe import ProbeClient

BOOT_SECONDS = 120.0
"""Deadline for the kernel under test to reach user space; it takes 2 to 4 s on an idle machine."""
_CYCLE_SECONDS = 30.0
"""Deadline for one pass over a region; 4096 pages take 0.3 s."""
_ANSWERS = (1, 2, 4, 8, CALLS_AT_ONCE) * 4
"""Conversions asked for at once: each nearly doubles the size of the answer, so that no cache in between is left; and
several times, so that the slabs which the most buffers at once need are there."""
_BUFFERS = (32, 64, 96, 128, 192, 256, 512, 1024, 2048)
"""Sizes of kmalloc() that a write of the probe can take, in bytes."""
_AT_ONCE = 24
"""Writes right behind each other, of each size: twice as many as the largest answer of a run has, a sample's.  They are
taken from the port more slowly than they are made, so that a dozen buffers are out at once (traced: kmem:kmalloc)."""
_STOCK = 128
"""Objects of that cache which each CPU gets besides.  How many buffers are out at once is a matter of how busy this
machine is: two for each of the 16 conversions that a guest is asked for at once, two for each write of an answer."""
_WARM_REGION = 1
"""Region of one chunk for the requests that warm the caches: single pages that are converted leave a page table behind
on some kernels, and where there is one no huge folio comes any more."""
_PROBE_CPU = 0
"""Where the probe stays; guest n begins on the n-th CPU after it and stays there until a scenario places it elsewhere.
A buffer goes back to the cache of the CPU where it is freed: who wanders empties one CPU's cache into the other's, and
every few dozen answers a slab is taken or given back for it."""
PCP_FRACTION = 1000000
"""percpu_pagelist_high_fraction that caps the per-CPU page lists at their minimum (KERNEL_FACTS: 4 batches)."""

# What the kernel under test must offer, each with what its absence means.
_NEEDED = (
    ("/dev/kvm", "it has no KVM: CONFIG_KVM and CONFIG_KVM_AMD are needed, and the nested SVM that they found"),
    ("/proc/pagetypeinfo", "it shows no /proc/pagetypeinfo: CONFIG_PROC_FS with pageblock information is needed"),
    ("/sys/kernel/debug/kvm", "it has no debugfs for KVM: CONFIG_DEBUG_FS is needed"),
    (
        "/proc/sys/vm/stat_refresh",
        "it has no vm.stat_refresh: CONFIG_VM_EVENT_COUNTERS and CONFIG_PROC_SYSCTL are needed",
    ),
)


@dataclass(frozen=True)
class Phase:
    """One phase of bringing a testbed up, with its wall time in seconds."""

    name: str
    seconds: float


class Clock:
    """Collects the phases; ``progress`` is called with the name of each as it begins."""

    def __init__(self, progress: Callable[[str], None] | None = None) -> None:
        self.phases: list[Phase] = []
        self._progress = progress
        self._name = ""
        self._began = 0.0

    def begin(self, name: str) -> None:
        """End the running phase and begin the next; '' only ends."""
        now = time.monotonic()
        if self._name:
            self.phases.append(Phase(self._name, now - self._began))
        self._name, self._began = name, now
        if name and self._progress:
            self._progress(name)


def prepare(
    spec: TestbedSpec,
    channels: Channels,
    evidence: Path,
    clock: Clock,
    *,
    own_host: bool = True,
    starter: Starter = STAND_INS,
) -> TestbedState:
    """Bring a machine that has just reached user space into the state to be saved.

    One that is not ours (``own_host``) has its own SSH server.  ``starter`` says how its guests are started.
    """
    control, probe = channels.control, channels.probe
    control.hello(1, timeout=10.0)
    _check_kernel(control)
    probe.hello()
    keys = Keys.generate(["host", *(guest.name for guest in spec.guests)])
    if own_host:
        _start_ssh(control, keys, "host")
    facts = _kernel_facts(control)
    set_up_memory(spec.backing, sum(guest.memory_mib for guest in spec.guests), probe)
    clock.begin("guests")
    # How a guest is started depends on the kernel; what it is called does not.
    started = [replace(guest, launch=launch_on(guest.launch, facts)) for guest in spec.guests]
    pids = start_guests(starter, started, control, evidence)
    guests = []
    for guest in started:
        wait_guest(starter, guest, pids[guest.name], channels, evidence)
    for guest in started:
        starter.came_up(guest, pids[guest.name], channels)
    clock.begin("regions")
    for guest in started:
        try:
            guests.append(_prepare_guest(spec, guest, pids[guest.name], channels, keys, facts))
        except ConversionRefused as error:  # nobody holds a page here: no design has a reason to refuse one
            why = f"the kernel under test came up, but no testbed can be prepared on it: {error}"
            raise NoBootError(why) from error
    probe.pcpcap(PCP_FRACTION)
    probe.settle()
    release = control.check(["uname", "-r"]).strip()
    version = control.check(["uname", "-v"]).strip()
    return TestbedState(
        release=release,
        version=version,
        guests=tuple(guests),
        kernel_facts=facts,
        user_key=keys.user.private,
        user_public=keys.user.public,
        host_keys={name: pair.private for name, pair in keys.machines.items()},
        host_public={name: pair.public for name, pair in keys.machines.items()},
    )


def _check_kernel(control: Control) -> None:
    """Raises ``NoBootError`` with one sentence when the kernel lacks what every case needs."""
    for path, why in _NEEDED:
        if control.run(["test", "-e", path]).code:
            raise NoBootError(f"the kernel under test came up, but {why}")


_FACTS = r"""
echo "ncpu=$(nproc)"
awk '$1 == "radix_tree_node" { print "slab.radix_tree_node=" $5 "," $6 }' /proc/slabinfo
zcat /proc/config.gz 2>/dev/null | sed -n 's/^CONFIG_\([A-Z0-9_]*\)=\(.*\)/config.\1=\2/p'
for file in /sys/module/kvm/parameters/* /sys/module/kvm_amd/parameters/*; do
    echo "kvm.${file##*/}=$(cat "$file" 2>/dev/null)"
done
[ -c /dev/gmem-hold ] && echo "device.gmem-hold=y"
# Holes have been cut with this function since splits need not be uniform; -F: a quarter of the time, 0.5 s on 6.12.
if [ -r /proc/kallsyms ]; then
    grep -qwF folio_split /proc/kallsyms && echo "symbol.folio_split=y" || echo "symbol.folio_split=n"
fi
"""


def _kernel_facts(control: Control) -> dict[str, str]:
    """Facts about the kernel that do not change while it runs, as printed."""
    lines = control.check(["sh", "-c", _FACTS], timeout=60.0).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _start_ssh(control: Control, keys: Keys, name: str) -> None:
    control.check(["mkdir", "-p", "/root/.ssh", "/etc/dropbear"])
    control.put("/etc/dropbear/host_key", keys.machines[name].dropbear(), 0o600)
    control.put("/root/.ssh/authorized_keys", (keys.user.public + "\n").encode(), 0o600)
    control.check(["chmod", "0700", "/root", "/root/.ssh"])
    command = ["/usr/sbin/dropbear", "-F", "-s", "-r", "/etc/dropbear/host_key", "-p", "22", "-P", "/run/dropbear.pid"]
    control.spawn(command, {}, "/run/dropbear.log")


def _prepare_guest(
    spec: TestbedSpec, guest: GuestSpec, pid: int, channels: Channels, keys: Keys, facts: dict[str, str]
) -> GuestState:
    """Its region, in the state that is saved; what is tried on the way goes to ``facts``."""
    agent = channels.agents[guest.name]
    agent.hello(guest.number + 1, timeout=10.0)
    info = agent.info()
    if info.get("tag") != str(guest.number):
        raise InfraError(f"the guest on the channel of {guest.name} says that it is number {info.get('tag')}")
    _start_ssh(Control(guest.name, agent.channel), keys, guest.name)
    if guest.launch.tee and not guest.launch.confidential:
        return _without_private_memory(spec, guest, pid, agent)
    channels.probe.watch(pid, guest.memory_bytes)
    with channels.monitor(guest.name) as monitor:
        if guest.launch.traces_conversions:
            monitor.execute("trace-event-set-state", {"name": EVENT, "enable": True})
            check_traced(guest.name, monitor)
        ram = ram_address(guest.name, str(monitor.execute("human-monitor-command", {"command-line": "info ramblock"})))
    check_memory(guest, pid, ram, channels.control)
    agent.alloc(0, spec.chunks)
    agent.alloc(_WARM_REGION, 1)
    if guest.launch.starts_private:
        for region, chunks_of in ((0, spec.chunks), (_WARM_REGION, 1)):
            agent.convert(region, 0, chunks_of * CHUNK_PAGES, private=False, timeout=_CYCLE_SECONDS)
    if guest.launch.traces_conversions:
        with channels.monitor(guest.name) as monitor:
            facts.update(prefaults(agent, _WARM_REGION, monitor, channels.evidence / f"{guest.name}-qemu.log"))
        _check_backing(guest.backing, facts)
    facts.update(answer(guest.backing.question, agent, _WARM_REGION, channels.probe))
    _warm_cpus(spec, guest.number, pid, agent, channels.probe)
    chunks = agent.where(0, chunks=spec.chunks, memory_bytes=guest.memory_bytes)
    agent.warm(_CYCLE_SECONDS)
    for write in guest.backing.cycles:
        _cycle(agent, spec.chunks * CHUNK_PAGES, write=write)
    if guest.launch.in_place:
        _empty(channels.probe, pid, chunks)
        _room_for_complaints(guest, channels.control)
    left = _leftover(channels.probe, pid, chunks)
    return GuestState(name=guest.name, pid=pid, chunks=chunks, ram=ram, leftover=left)


def _check_backing(backing: BackingRecord, facts: dict[str, str]) -> None:
    """What a backing's question and preparation say holds for a QEMU that leaves memory to the guest."""
    if facts[PREFAULTS] == "y" and backing is not ANON_4K:
        raise NothingRanError(
            f"backing {backing.name}: this QEMU has KVM populate what it converts, and what becomes of the backing then"
            " is not modelled"
        )


def _without_private_memory(spec: TestbedSpec, guest: GuestSpec, pid: int, agent: GuestAgent) -> GuestState:
    """An ordinary guest has its region, and nothing that could be converted: no scenario does anything to it."""
    agent.alloc(0, spec.chunks)
    chunks = agent.where(0, chunks=spec.chunks, memory_bytes=guest.memory_bytes)
    agent.warm(_CYCLE_SECONDS)
    return GuestState(name=guest.name, pid=pid, chunks=chunks)


def _warm_cpus(spec: TestbedSpec, number: int, pid: int, agent: GuestAgent, probe: ProbeClient) -> None:
    """Make the requests of a run on each CPU once, with answers of every size, so that its caches have what they take.

    Each write to a port of the host takes a buffer of the cache of its size (virtio_console.c:alloc_buf) and gives it
    back; where a CPU has none of that size yet, it takes a slab for it, in the middle of what is being observed.  QEMU
    writes a line for each conversion that it traces, the guest's agent and the probe write their answers.

    Traced (kmem:mm_page_alloc): two pages for the first buffers of 256 bytes on CPU 0, where the probe answered what
    the host sees of some pages of a range, in a third of the restores of one saved testbed.  And one page for QEMU's
    lines about 16 conversions, five of which were out at once: each takes two objects of 96 bytes, the line and the
    port's own (struct port_buffer).  How many are out is chance, so that no rehearsal is enough: that cache gets its
    objects all at once.
    """
    own = probe.hello().pid
    for cpu in range(spec.machine.cpus):
        probe.place(own, cpu)
        probe.place(pid, cpu)
        for size in _BUFFERS:
            probe.answer(size, _AT_ONCE)
        for calls in _ANSWERS:
            for private in (True, False):
                agent.convert(_WARM_REGION, 0, calls, private=private, by=1, timeout=_CYCLE_SECONDS)
            probe.settle()
            probe.sample(0)
        probe.stock(_STOCK)
    probe.place(pid, (number + 1) % spec.machine.cpus)
    probe.place(own, _PROBE_CPU)


def _cycle(agent: GuestAgent, pages: int, *, write: bool) -> None:
    """Touch every page shared, convert, touch every page private, convert back: only page tables stay."""
    for private in (True, False):
        agent.touch(0, 0, pages, stride=1, write=write or not private, gen=0, timeout=_CYCLE_SECONDS)
        agent.convert(0, 0, pages, private=private, timeout=_CYCLE_SECONDS)


def _empty(probe: ProbeClient, pid: int, chunks: tuple[int, ...]) -> None:
    """Take the region's pages away: a conversion in place leaves them in the guest_memfd.  Its attributes stay."""
    for gpa in chunks:
        probe.fallocate(pid, "punch", gpa, CHUNK_PAGES * PAGE_SIZE, timeout=_CYCLE_SECONDS)


def _room_for_complaints(guest: GuestSpec, control: Control) -> None:
    """Fill up the file with what QEMU prints to a page that is nearly empty.

    The interposer writes a line for a conversion that is refused; a page that the file takes for it would be one more
    of the page cache, in the middle of what is being observed.
    """
    missing = -len(control.get(guest.error_log)) % PAGE_SIZE
    control.check(["sh", "-c", f"printf '%{missing + 1}s\\n' '' >> {guest.error_log}"])


def _leftover(probe: ProbeClient, pid: int, chunks: tuple[int, ...]) -> int:
    """Pages that the region still has on the private side although all of it was converted to shared.

    Not an error here: it is the kernel's doing, and for the run to judge.
    """
    return sum(probe.cachestat(pid, gpa, CHUNK_PAGES * PAGE_SIZE) for gpa in chunks)
