# SPDX-License-Identifier: GPL-2.0-only
"""What describes a testbed: its shape, what is known of it once it is up, and the channels into it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import msgspec

from harness.errors import InfraError
from harness.guest.agent import GuestAgent
from harness.guest.backing import ANON_4K, BackingRecord
from harness.guest.launch import SNP_STAND_IN, GuestSpec, LaunchRecord
from harness.guest.qmp import QmpSession
from harness.guest.ssh import KeyPair, Keys
from harness.host.emulated.control import Control
from harness.host.emulated.machine import MachineSpec, StateFormat
from harness.host.probe import ProbeClient


@dataclass(frozen=True)
class TestbedSpec:
    """Shape of a testbed; two testbeds of the same shape, kernel and images have the same saved state."""

    __test__: ClassVar[bool] = False  # pytest: the name begins with Test, but there is nothing to collect

    machine: MachineSpec
    guests: tuple[GuestSpec, ...]
    chunks: int = 8
    """Order-9 chunks (512 pages) of region r0 of each guest."""

    @classmethod
    def of(
        cls,
        *,
        guests: int = 1,
        chunks: int = 8,
        launch: LaunchRecord = SNP_STAND_IN,
        command_line: str = "",
        backing: BackingRecord = ANON_4K,
        nodes: int = 1,
    ) -> TestbedSpec:
        """A testbed with ``guests`` guests of the same launch and backing, on a host of one or two NUMA nodes."""
        return cls(
            machine=MachineSpec(guests=guests, command_line=command_line, nodes=nodes),
            guests=tuple(
                GuestSpec(number=number, launch=launch, backing=backing, memory_mib=launch.memory_mib)
                for number in range(guests)
            ),
            chunks=chunks,
        )

    @property
    def backing(self) -> BackingRecord:
        """What the shared side of its guests is made of; the usual one for a host without guests."""
        return self.guests[0].backing if self.guests else ANON_4K

    def text(self) -> str:
        """Everything of the shape, for keys."""
        return json.dumps(msgspec.to_builtins(self), sort_keys=True)


class GuestState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a running guest."""

    name: str
    pid: int
    """Process id of its QEMU in the emulated host."""
    chunks: tuple[int, ...]
    """Guest physical address of each chunk of region r0."""
    ram: int = 0
    """Where its QEMU maps its RAM: virtual address of guest physical address 0."""
    leftover: int = 0
    """Private pages that the region kept although all of it was converted to shared; 0 on a healthy kernel."""


class TestbedState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a testbed that is ready; kept beside its saved state."""

    __test__: ClassVar[bool] = False

    release: str
    version: str
    guests: tuple[GuestState, ...]
    user_key: str
    user_public: str
    host_keys: dict[str, str]
    host_public: dict[str, str]
    kernel_facts: dict[str, str]
    """What was read of the kernel under test: ncpu, config.NAME, slab.NAME, kvm.NAME (module parameters)."""
    form: StateFormat = StateFormat.STREAM
    """How the saved state is written."""
    noise: dict[str, int] | None = None
    """Counters that moved while the restored testbed did nothing, by how much at most in a window
    (``harness.host.calibrate``); None where that was not measured."""

    def keys(self) -> Keys:
        """The SSH keys."""
        machines = {name: KeyPair(private, self.host_public[name]) for name, private in self.host_keys.items()}
        return Keys(KeyPair(self.user_key, self.user_public), machines)

    def save(self, path: Path) -> None:
        """Write as JSON, readable by the owner only: it holds private keys."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1))
        path.chmod(0o600)

    @classmethod
    def load(cls, path: Path) -> TestbedState:
        """Read back; raises ``InfraError`` when the file is not what :meth:`save` wrote."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError) as error:
            raise InfraError(f"{path}: not the description of a saved testbed ({error}); remove its folder") from error


class MachineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a saved testbed was made of; kept beside it, so that it can be restored by whoever has the folder."""

    kernel: str
    """Path of the kernel under test: QEMU's command line must name the same files as when it was saved."""
    initrd: str
    spec: TestbedSpec

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1))

    @classmethod
    def load(cls, path: Path) -> MachineRecord:
        """Read back; raises ``InfraError`` when the file is not what :meth:`save` wrote, or what it names is gone."""
        try:
            record = msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError) as error:
            raise InfraError(f"{path}: does not say what the saved testbed was made of ({error})") from error
        for file in (record.kernel, record.initrd):
            if not Path(file).is_file():
                raise InfraError(
                    f"the saved testbed in {path.parent} cannot be restored: it was made of {file}, which is gone"
                )
        return record


@dataclass
class Channels:
    """The ways into a running testbed."""

    control: Control
    probe: ProbeClient
    agents: dict[str, GuestAgent]
    bridge: Callable[[str], tuple[socket.socket, Callable[[], None]]]
    """Opens the monitor port of a guest as a socket; returns it with the function that closes it."""
    evidence: Path
    machine_runs: Callable[[], bool]
    greeted: set[str] = field(default_factory=set)
    """Guests whose monitor has greeted somebody before."""

    @contextmanager
    def monitor(self, guest: str) -> Iterator[QmpSession]:
        """A QMP session with the QEMU of ``guest``."""
        sock, close = self.bridge(guest)
        try:
            session = QmpSession(
                f"QEMU of {guest}", sock, self.evidence / f"{guest}-qmp.txt", fresh=guest not in self.greeted
            )
            self.greeted.add(guest)
            try:
                yield session
            finally:
                session.close()
        finally:
            close()
