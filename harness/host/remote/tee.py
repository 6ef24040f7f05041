# SPDX-License-Identifier: GPL-2.0-only
"""Starts SEV-SNP, TDX and plain guests by the stock QEMU of a host, and lets nothing begin before their kind is proven.

Unverified on hardware: no such guest has been started by this harness yet (docs/lab.md, "Launch").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from harness.errors import GmemError, InfraError, NothingRanError
from harness.guest.backing import BackingRecord
from harness.guest.console import read_console
from harness.guest.launch import IN_PLACE_PARAMETER, GuestSpec, LaunchRecord
from harness.guest.tee.candidates import PLACES
from harness.guest.tee.facts import host_facts, with_guest
from harness.guest.tee.kinds import TeeKind, tee_kind
from harness.guest.tee.line import TeeSpec, tee_command
from harness.guest.tee.plan import Plan, plan
from harness.guest.tee.proof import SEV_VMPL, Facts, Standing, prove
from harness.guest.tee.refusals import explain
from harness.host.emulated.control import Control
from harness.host.emulated.launching import GUEST_SECONDS
from harness.host.emulated.state import Channels
from harness.host.reach import Reach

APPEND: Final = "console=ttyS0 panic=-1 loglevel=6 accept_memory=eager gmem.tag={}"
"""Eager: the agent reads all of the RAM once, and memory that the guest has not accepted must not be read."""
_LINKS: Final = 'for file in "/proc/$1/fd"/*; do readlink "$file"; done; true'
_IN_PLACE: Final = f"/sys/module/{IN_PLACE_PARAMETER.replace('.', '/parameters/')}"
_ASK_SECONDS: Final = 30.0
_NO_CONSOLE: Final = "nothing"


class TeeGuests:
    """A ``Starter`` for guests of one host."""

    silent_seconds = GUEST_SECONDS
    """No less than the whole: a firmware that accepts a terabyte of memory says nothing for minutes."""

    def __init__(self, reach: Reach, program: str, firmware: Mapping[str, str]) -> None:
        """``program``: QEMU's path on the host; ``firmware``: paths there by kind, where the host's file names one."""
        self._reach = reach
        self._program = program
        self._firmware = firmware
        self._plans: dict[tuple[str, str], Plan] = {}

    def planned(self, launch: LaunchRecord, backing: BackingRecord) -> Plan:
        """The plan of such guests, made once: it starts no guest.  Raises what ``plan`` raises, and its refusals."""
        key = (launch.name, backing.name)
        if key not in self._plans:
            if backing.huge:
                raise NothingRanError(
                    f"backing {backing.name}: whether the pages of a {tee_kind(launch.name).says} are huge is not shown"
                    " by its QEMU's page tables, since private memory is not mapped there"
                )
            wanted = TeeSpec(
                name="g0",
                kind=tee_kind(launch.name),
                folder="/run",
                program=self._program,
                firmware=self._firmware.get(launch.name, ""),
                kernel="guest-kernel",
                initrd="guest-image",
                memory_mib=launch.memory_mib,
                backing=backing,
                # Populated at once, as on the emulated host: the guest's own work then faults no shared page in.
                prealloc=True,
                ports="/run/g0",
            )
            made = plan(self._reach, wanted, PLACES)
            if made.refusals:
                raise made.refusals[0].error
            self._plans[key] = made
        return self._plans[key]

    # -- Starter

    def command(self, guest: GuestSpec, control: Control) -> tuple[list[str], dict[str, str]]:
        """See ``harness.host.emulated.launching.Starter``."""
        self._no_conversion_in_place(control)
        files = guest.places.files
        spec = replace(
            self.planned(guest.launch, guest.backing).spec,
            name=guest.name,
            kernel=f"{files}/guest-kernel",
            initrd=f"{files}/guest-image",
            append=APPEND.format(guest.number),
            memory_mib=guest.memory_mib,
            vcpus=guest.vcpus,
            ports=f"{guest.places.ports}{guest.name}",
        )
        return tee_command(spec), {}

    def failed(self, guest: GuestSpec, what: str, said: str, console: str) -> GmemError:
        """What QEMU's last words mean; what is neither the host's lack nor the request's fault has the console, too."""
        ended = re.search(r"exited with status (\d+)|killed by signal (\d+)", what)
        tail = f"; the console of {guest.name} ends with: {console}"
        if ended is None:
            return InfraError(f"guest {guest.name} did not start: {what}{tail}")
        code = int(ended[1]) if ended[1] else -int(ended[2])
        error = explain(said, code).error
        return (
            InfraError(f"guest {guest.name} did not start: {error}{tail}") if isinstance(error, InfraError) else error
        )

    def came_up(self, guest: GuestSpec, pid: int, channels: Channels) -> None:
        """Raises ``InfraError`` unless host and guest prove the kind that was asked for."""
        kind = tee_kind(guest.launch.name)
        try:
            agent = channels.agents[guest.name]
            agent.hello(guest.number + 1, timeout=_ASK_SECONDS)
            facts = _facts(guest, pid, channels)
            how = agent.info().get("how", "")
        except InfraError as error:
            lines = read_console(channels.evidence / f"{guest.name}-console.txt").splitlines()
            last = next((line for line in reversed(lines) if line.strip()), _NO_CONSOLE)
            raise InfraError(f"{error}; the console of {guest.name} ends with: {last[:200]}") from error
        proof = prove(kind, facts)
        told = [f"{proof.standing.value}: {proof.sentence}", *proof.evidence, f"guest: its module converts by {how}"]
        (channels.evidence / f"{guest.name}-kind.txt").write_text("\n".join(told) + "\n")
        if proof.standing is not Standing.PROVEN:
            raise InfraError(f"guest {guest.name} is {proof.standing.value}: {proof.sentence}")
        _check_module(guest, kind, how)

    def _no_conversion_in_place(self, control: Control) -> None:
        done = control.run(["cat", _IN_PLACE])
        value = done.output.strip()
        if done.code == 0 and value in ("Y", "1"):
            raise NothingRanError(
                f"the host's kernel converts in place ({IN_PLACE_PARAMETER} is {value}), and no release of QEMU starts"
                " guests there: switch it off, or use the emulated host"
            )


def _facts(guest: GuestSpec, pid: int, channels: Channels) -> Facts:
    """Of both sides."""
    links = channels.control.run(["sh", "-c", _LINKS, "sh", str(pid)], _ASK_SECONDS)
    with channels.monitor(guest.name) as monitor:
        facts = host_facts(monitor, links.output.split("\n") if links.code == 0 else None)
    inside = Control(guest.name, channels.agents[guest.name].channel)
    log = inside.run(["dmesg"], _ASK_SECONDS)
    cpuinfo = inside.run(["cat", "/proc/cpuinfo"], _ASK_SECONDS)
    vmpl = inside.run(["test", "-e", SEV_VMPL], _ASK_SECONDS)
    return with_guest(
        facts,
        log=log.output if log.code == 0 and "Linux version" in log.output else None,
        cpuinfo=cpuinfo.output if cpuinfo.code == 0 else None,
        vmpl={0: True, 1: False}.get(vmpl.code),
    )


def _check_module(guest: GuestSpec, kind: TeeKind, how: str) -> None:
    """A confidential guest asks for conversions through its kernel, which accepts or validates the pages."""
    wanted = "set_memory" if kind.confidential else "hypercall"
    if how != wanted:
        raise InfraError(f"the module in {guest.name} converts by {how}, where a {kind.says} does by {wanted}")
