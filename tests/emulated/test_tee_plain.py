# SPDX-License-Identifier: GPL-2.0-only
"""A real guest by the line of kind ``plain``, with TCG in the place of KVM: its ports are FIFOs of the real relay.

What no made-up QEMU shows: that the ports of such a line come up in that way, that a kernel of ours boots on a q35, and
that QEMU and guest say by themselves what their kind is judged by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from harness.cache import ContentCache
from harness.errors import InfraError
from harness.guest.agent import GuestAgent
from harness.guest.launch import GuestSpec, Places, guest_named
from harness.guest.tee.kinds import SNP, TDX
from harness.guest.tee.proof import Standing, prove
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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a host gets: programs, the guest's kernel and image; and its QEMU."""
    folder = tmp_path_factory.mktemp("host")
    cache = ContentCache()
    store = KernelStore(cache)
    kernel = store.resolve(None)
    for name in ("relay", "control"):
        build_program(name, folder)
    (folder / "guest-kernel").symlink_to(kernel.image)
    (folder / "guest-image").symlink_to(guest_image(cache, lab._module(cache, store, kernel)))
    (folder / "qemu").write_text(TCG.format(qemu=find_program("qemu-system-x86_64")))
    (folder / "qemu").chmod(0o755)
    return folder


def test_it_comes_up_and_is_proven(files: Path, tmp_path: Path) -> None:
    launch = guest_named("plain")
    places = Places(files=str(files), ports=f"{tmp_path}/", logs=f"{tmp_path}/", forwards=False)
    guest = GuestSpec(number=0, launch=launch, memory_mib=launch.memory_mib, places=places)
    starter = tee.TeeGuests(LocalReach(), str(files / "qemu"), {})
    port = f"{tmp_path}/g0"
    with RelayLink(LocalReach(), str(files / "gmem-relay")) as link:
        stream = link.program("control", [str(files / "gmem-control")])
        control = Control("this machine", WindowChannel(link, stream, None, peer="control"))
        link.fifos("console", reads=f"{port}.console", sink=Append(tmp_path / "g0-console.txt"))
        link.fifos("log", reads=f"{port}.log", sink=Append(tmp_path / "g0-qemu.log"))
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
            evidence=tmp_path,
            machine_runs=lambda: link.alive,
        )
        pid = start_guests(starter, [guest], control, tmp_path)["g0"]
        wait_guest(starter, guest, pid, channels, tmp_path)
        starter.came_up(guest, pid, channels)
        told = (tmp_path / "g0-kind.txt").read_text()
        assert told.startswith("proven: "), told
        assert "host: QEMU has 0 guest_memfd open" in told
        assert "guest: its module converts by hypercall" in told
        facts = tee._facts(guest, pid, channels)
        assert [prove(kind, facts).standing for kind in (SNP, TDX)] == [Standing.CONTRADICTED] * 2
        assert prove(SNP, facts).sentence.startswith("a plain VM in place of a confidential one")
        with pytest.raises(InfraError, match="converts by hypercall, where a SEV-SNP guest does by set_memory"):
            tee._check_module(guest, SNP, "hypercall")
        control.end(pid)
