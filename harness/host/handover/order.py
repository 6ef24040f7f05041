# SPDX-License-Identifier: GPL-2.0-only
"""What is handed over, and the parts that all ways of doing it share."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import InfraError, UsageError
from harness.host.config.host import HostConfig
from harness.host.reach import IN_CACHE, Reach, ReachError, check, in_cache
from harness.kernel.record import Kernel

COPY_SECONDS: Final = 600.0
"""For an initrd of some hundred MiB over a slow link."""
RESTART_LOG: Final = "/tmp/gmem-handover.log"
"""What the restart printed, if it did not happen."""
_OF_THE_LOADER: Final = ("BOOT_IMAGE=", "initrd=")
_LATER: Final = 'setsid sh -c \'sleep 1; exec "$@"\' sh "$@" > "$0" 2>&1 < /dev/null &'
"""The connection shall end before the host does."""


@dataclass(frozen=True)
class Way:
    """How a host gets a kernel."""

    how: str
    """``kexec``, ``grub`` or ``hooks``."""
    initrd: Path | None
    """On this machine; None for a kernel that finds its root without one."""
    append: str
    """Words behind the command line that the host has now."""
    seconds: float
    """Until the host has to answer again; also for the fall-back."""


@dataclass(frozen=True)
class Order:
    """A kernel for a host."""

    kernel: Kernel
    way: Way

    def command_line(self, now: str) -> str:
        """The command line for the kernel: that of the running one without what its boot loader put there."""
        kept = [word for word in now.split() if not word.startswith(_OF_THE_LOADER)]
        added = [word for word in self.way.append.split() if word not in kept]
        return " ".join([*kept, *added])

    def image(self) -> bytes:
        """The bzImage; raises ``InfraError``."""
        return _bytes(self.kernel.image)

    def initrd_bytes(self) -> bytes | None:
        """The initrd; raises ``InfraError``."""
        return None if self.way.initrd is None else _bytes(self.way.initrd)


def way_of(
    config: HostConfig,
    *,
    how: str | None = None,
    initrd: str | None = None,
    append: str = "",
    seconds: float | None = None,
) -> Way:
    """What the host's file says of a hand-over, with what the command line says instead; raises ``UsageError``."""
    if config.transport != "ssh":
        what = "the machine that this runs on" if config.transport == "local" else "emulated: give --kernel to gmem run"
        raise UsageError(f"the host {config.name} is {what}; a kernel is handed over to a host that is reached by SSH")
    chosen = how or config.handover.how
    if not chosen:
        raise UsageError(
            f"how does the host {config.name} get a kernel? give --how, or handover: {{how: kexec}} in its file"
        )
    place = config.handover.initrd if initrd is None else initrd
    path = Path(in_cache(place)) if place else None
    if path is not None and not path.is_file():
        hint = "; gmem lab ssh-config --initrd writes it" if place.startswith(IN_CACHE) else ""
        raise UsageError(f"the initrd {path} is no file{hint}")
    words = f"{config.handover.append} {append}".strip()
    return Way(chosen, path, words, config.handover.seconds if seconds is None else seconds)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InfraError(f"{path} cannot be read: {error.strerror}") from error


def has(reach: Reach, program: str) -> bool:
    """Whether the host has a program of that name."""
    return reach.run(["sh", "-c", 'command -v "$1"', "sh", program]).code == 0


def has_systemd(reach: Reach) -> bool:
    """Whether systemd is the first process there: it ends services and file systems before a restart."""
    return reach.run(["test", "-d", "/run/systemd/system"]).code == 0


def restart(reach: Reach, command: Sequence[str]) -> None:
    """Run a command that ends the host, a second from now; what it prints is in ``RESTART_LOG``."""
    check(reach, ["sh", "-c", _LATER, RESTART_LOG, *command])


def reboot(reach: Reach) -> None:
    """An orderly restart."""
    restart(reach, ["systemctl", "reboot"] if has_systemd(reach) else ["reboot"])


def complaint(reach: Reach) -> str:
    """Why a restart did not happen, as part of a sentence."""
    try:
        said = check(reach, ["tail", "-n", "1", RESTART_LOG]).strip()
    except ReachError:
        said = ""
    return f"the restart printed: {said}" if said else "the restart printed nothing"


def shown(command: Sequence[str]) -> str:
    """A command for a sentence."""
    return shlex.join(command)[:200]
