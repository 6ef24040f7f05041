# SPDX-License-Identifier: GPL-2.0-only
"""One run per host: a file on the host says who has it.

Taken by comparing and replacing under the mutex of :mod:`harness.host.knobs.place`.  A lock is stale when the host was
booted since, or when its holder was a process of this machine that is gone.  Whether a process of another machine is
alive nobody can tell from here: its last sign of life is told, and a person decides.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.errors import UsageError
from harness.host.knobs.place import BOOT_ID, Place, alone, complain
from harness.host.reach import Reach, check

_TRIES = 5


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a host."""

    token: str
    user: str
    machine: str
    """The controller's host name."""
    controller: str
    """Boot id and process namespace of the controller: where ``pid`` means something."""
    pid: int
    start: int
    """When the process began, in ticks since the controller's boot (/proc/PID/stat)."""
    boot: str
    """The host's boot id."""
    since: int
    """Seconds since 1970, the host's clock."""
    purpose: str

    @property
    def told(self) -> str:
        """For a sentence."""
        return f"{self.user}@{self.machine} (process {self.pid}: {self.purpose})"


@dataclass(frozen=True)
class Seen:
    """A host's lock as it is now; ``now`` is the host's clock, in seconds since 1970."""

    boot: str
    now: int
    text: str
    holder: Holder | None
    beat: int | None

    @property
    def stale(self) -> str:
        """Why the holder cannot be running any more; '' when it may."""
        if self.holder is None:
            return ""
        if self.holder.boot != self.boot:
            return "the host was booted since"
        if _here(self.holder) and start_of(self.holder.pid) != self.holder.start:
            return f"process {self.holder.pid} on this machine is gone"
        return ""

    @property
    def age(self) -> str:
        """How long it is held, and when its holder was last heard of."""
        assert self.holder is not None
        since = lasting(self.now - self.holder.since)
        heard = "" if self.beat is None else f", last heard of {lasting(self.now - self.beat)} ago"
        return f"for {since}{heard}"


def lasting(seconds: float) -> str:
    """A duration in two units at most; a clock that went back is 0 s."""
    seconds = max(0, int(seconds))
    for unit, name, below in ((86400, "d", "h"), (3600, "h", "min"), (60, "min", "s")):
        if seconds >= unit:
            rest = seconds % unit // {"h": 3600, "min": 60, "s": 1}[below]
            return f"{seconds // unit} {name} {rest} {below}"
    return f"{seconds} s"


def start_of(pid: int) -> int | None:
    """When a process of this machine began, in ticks since boot; None for one that is gone or a zombie."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else int(words[19])


def _controller() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _here(holder: Holder) -> bool:
    """Whether ``holder.pid`` is a process that can be looked at from here, or was before this machine was booted."""
    ours = _controller()
    if holder.controller == ours:
        return True
    return holder.machine == socket.gethostname() and holder.controller.split()[0] != ours.split()[0]


def look(reach: Reach, place: Place) -> Seen:
    """The lock as it is; raises ``ReachError``."""
    script = 'cat "$1" && date +%s && { cat "$2" 2>/dev/null || echo; } && { cat "$3" 2>/dev/null || echo; }'
    answer = check(reach, ["sh", "-c", script, "sh", BOOT_ID, place.lock, place.beat])
    boot, now, text, beat, *_ = [*answer.split("\n"), "", "", "", ""]
    try:
        holder = msgspec.json.decode(text, type=Holder) if text else None
    except msgspec.DecodeError as error:
        raise UsageError(
            f"{reach.name}: {place.lock} is not a lock of this harness; look at it, and remove it"
        ) from error
    return Seen(boot, int(now), text, holder, int(beat) if beat.isdigit() else None)


@dataclass
class HostLock:
    """A lock that is held."""

    reach: Reach
    place: Place
    holder: Holder

    @property
    def token(self) -> str:
        """What the lock's file holds while it is ours."""
        return self.holder.token

    def beat(self) -> None:
        """Say that the run is alive: between cases, for on the host it is a few processes."""
        done = alone(self.reach, self.place, 'date +%s > "$1"', [self.place.beat], token=self.token)
        complain(self.reach, done, f"{self.place.beat} cannot be written")

    def free(self) -> None:
        """Give the host to others.  A lock that somebody took over meanwhile stays theirs."""
        script = 'rm -f "$1" "$2"; rmdir "$3" 2>/dev/null; rmdir "$4" 2>/dev/null; true'
        names = [self.place.lock, self.place.beat, self.place.processes, self.place.folder]
        done = alone(self.reach, self.place, script, names, token=self.token)
        complain(self.reach, done, "the host's lock cannot be given back")


def take(
    reach: Reach, place: Place, purpose: str, *, notice: Callable[[str], None], host: str, force: bool = False
) -> HostLock:
    """Take the host; a stale lock is taken over with a notice.

    Raises ``UsageError`` with holder, age and the command that frees it, when somebody has it.  ``force`` takes it from
    a holder on another machine; one that runs here has to be ended first.  ``host`` is what ``--host`` gets.
    """
    swap = (
        'mkdir -p "$1" && [ "$(cat "$2" 2>/dev/null)" = "$3" ] || exit 95\n'
        'cat > "$2.new" && date +%s > "$4" && mv -f "$2.new" "$2"'
    )
    for _ in range(_TRIES):
        seen = look(reach, place)
        if seen.holder is not None:
            _may_take(reach, seen, notice, host, force)
        holder = Holder(
            token=secrets.token_hex(8),
            user=_user(),
            machine=socket.gethostname(),
            controller=_controller(),
            pid=os.getpid(),
            start=start_of(os.getpid()) or 0,
            boot=seen.boot,
            since=seen.now,
            purpose=" ".join(purpose.split()),
        )
        record = msgspec.json.encode(holder) + b"\n"
        done = alone(reach, place, swap, [place.folder, place.lock, seen.text, place.beat], stdin=record)
        if done.code == 95 and not done.errors.strip():
            continue  # somebody was quicker
        complain(reach, done, f"the host's lock {place.lock} cannot be made")
        return HostLock(reach, place, holder)
    raise UsageError(f"{reach.name}: others took the host's lock {_TRIES} times while it was looked at; try again")


def _may_take(reach: Reach, seen: Seen, notice: Callable[[str], None], host: str, force: bool) -> None:
    assert seen.holder is not None
    holder = seen.holder
    if seen.stale:
        notice(f"{reach.name}: taking over from {holder.told}, held {seen.age}: {seen.stale}")
    elif holder.controller == _controller():
        raise UsageError(
            f"{reach.name} is in use by {holder.told} {seen.age}: wait for it, or end it with kill {holder.pid} and "
            f"then run gmem host restore --host {host}"
        )
    elif force:
        notice(f"{reach.name}: taking the host from {holder.told}, held {seen.age}")
    else:
        raise UsageError(
            f"{reach.name} is in use by {holder.told} {seen.age}: wait for it; if it is gone, "
            f"gmem host restore --host {host} --force gives the host back"
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
