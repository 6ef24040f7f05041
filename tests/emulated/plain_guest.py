# SPDX-License-Identifier: GPL-2.0-only
"""A real guest by the line of kind ``plain``, with TCG in the place of KVM, on this machine: its files and its life."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from harness.cache import ContentCache
from harness.guest.agent import GuestAgent
from harness.guest.launch import GuestSpec, Places, guest_named
from harness.host.emulated.control import Control
from harness.host.emulated.launching import start_guests, wait_guest
from harness.host.emulated.state import Channels
from harness.host.reach import LocalReach
from harness.host.remote import tee
from harness.host.remote.klog import Append
from harness.host.remote.link import RelayLink
from harness.host.remote.window import WindowChannel
from harness.images.recipes import find_program, guest_image
from harness.kernel.store import KernelStore
from harness.native.build import build_program
from harness.run import lab

TCG = """#!/bin/sh
# The QEMU of this machine, where KVM is TCG.
for word; do
    shift
    case $word in
    kvm) word=tcg ;;
    host) word=max ;;
    esac
    set -- "$@" "$word"
done
exec {qemu} "$@"
"""


@dataclass(frozen=True)
class Up:
    """A guest that is up and was proven to be a plain one."""

    guest: GuestSpec
    pid: int
    channels: Channels
    told: str
    """What was proven, and by what."""

    def inside(self, *command: str) -> str:
        """What a command in the guest prints."""
        return Control("g0", self.channels.agents["g0"].channel).check(list(command), timeout=60.0)


def host_files(folder: Path, kernel: str | None) -> Path:
    """What a host gets: programs, the guest's kernel of that name and its image; and its QEMU."""
    cache = ContentCache()
    store = KernelStore(cache)
    made = store.resolve(kernel)
    for name in ("relay", "control"):
        build_program(name, folder)
    (folder / "guest-kernel").symlink_to(made.image)
    (folder / "guest-image").symlink_to(guest_image(cache, lab._module(cache, store, made)))
    (folder / "qemu").write_text(TCG.format(qemu=find_program("qemu-system-x86_64")))
    (folder / "qemu").chmod(0o755)
    return folder


@contextmanager
def plain_guest(files: Path, place: Path, firmware: Mapping[str, str]) -> Iterator[Up]:
    """Starts it, and ends it afterwards.

    ``place`` gets ports and evidence; ``firmware``: path by kind, as a host's file has it.
    """
    launch = guest_named("plain")
    places = Places(files=str(files), ports=f"{place}/", logs=f"{place}/", forwards=False)
    guest = GuestSpec(number=0, launch=launch, memory_mib=launch.memory_mib, places=places)
    starter = tee.TeeGuests(LocalReach(), str(files / "qemu"), firmware)
    port = f"{place}/g0"
    with RelayLink(LocalReach(), str(files / "gmem-relay")) as link:
        stream = link.program("control", [str(files / "gmem-control")])
        control = Control("this machine", WindowChannel(link, stream, None, peer="control"))
        link.fifos("console", reads=f"{port}.console", sink=Append(place / "g0-console.txt"))
        link.fifos("log", reads=f"{port}.log", sink=Append(place / "g0-qemu.log"))
        agent = link.fifos("agent", reads=f"{port}.agent.out", writes=f"{port}.agent.in")
        monitor = link.fifos("monitor", reads=f"{port}.qmp.out", writes=f"{port}.qmp.in")

        def bridge(name: str) -> Any:
            sock = link.attach(monitor)
            return sock, sock.close

        channels = Channels(
            control=control,
            probe=cast(Any, None),
            agents={"g0": GuestAgent("g0", WindowChannel(link, agent, None, peer="agent"))},
            bridge=bridge,
            evidence=place,
            machine_runs=lambda: link.alive,
        )
        pid = start_guests(starter, [guest], control, place)["g0"]
        try:
            wait_guest(starter, guest, pid, channels, place)
            starter.came_up(guest, pid, channels)
            yield Up(guest, pid, channels, (place / "g0-kind.txt").read_text())
        finally:
            control.end(pid)
