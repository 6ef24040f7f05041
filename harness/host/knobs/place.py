# SPDX-License-Identifier: GPL-2.0-only
"""Where our files lie on a host under test, and scripts that run there one at a time.

A script of a run that was killed goes on over there.  So every script that changes something holds a mutex, and looks
first whether the host's lock is still that of its run: once the lock is taken over, nothing of the old run happens.

The mutex is a hard link: busybox has no ``flock`` in Debian.  It names the shell that holds it by boot id, process id
and start, and one whose holder is gone is removed under a directory that is named after that holder, so that two who
see it cannot both.  Scripts are for busybox and dash alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.errors import InfraError
from harness.host.reach import COMMAND_SECONDS, Done, Reach

BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_LOST, _BUSY = 97, 98

START: Final = r"""
start() { # time a process began, in ticks since boot; nothing for one that is gone or a zombie
    IFS= read -r status 2>/dev/null < "/proc/$1/stat" || return 1
    set -- ${status##*") "}
    [ "$1" != Z ] && [ "$1" != X ] && echo "${20}"
}
"""
_PROLOGUE: Final = (
    START
    + r"""
mutex=$1 lock=$2 token=$3 boot=$(cat "$4")
shift 4
gone() {
    [ "$1" = "$boot" ] && [ "$(start "$2")" = "$3" ] && return 1
    return 0
}
leave() { rm -f "$mutex" "$mutex.$$"; trap - EXIT; }
umask 077
echo "$boot $$ $(start $$)" > "$mutex.$$" || exit 96
tries=0
until ln "$mutex.$$" "$mutex" 2>/dev/null; do
    owner=$(cat "$mutex" 2>/dev/null)
    if [ -n "$owner" ] && gone $owner; then
        set_aside="$mutex.of-$(echo "$owner" | tr ' ' -)"
        if mkdir "$set_aside" 2>/dev/null; then
            [ "$(cat "$mutex" 2>/dev/null)" = "$owner" ] && rm -f "$mutex"
            rmdir "$set_aside"
        fi
    fi
    tries=$((tries + 1))
    [ $tries -gt 400 ] && { rm -f "$mutex.$$"; echo "$owner" >&2; exit 98; }
    sleep 0.05
done
trap leave EXIT
if [ -n "$token" ]; then grep -q -F "$token" "$lock" 2>/dev/null || exit 97; fi
"""
)


class LockLost(InfraError):
    """The host's lock is not ours any more."""


@dataclass(frozen=True)
class Place:
    """Our files on the host; ``folder`` survives a reboot, and the mutex need not."""

    folder: str = "/var/lib/gmem-harness"
    mutex: str = "/run/gmem-harness.mutex"

    @property
    def journal(self) -> str:
        """The host's copy of the journal."""
        return f"{self.folder}/journal"

    @property
    def lock(self) -> str:
        """The host's lock: a file with the holder's record."""
        return f"{self.folder}/lock"

    @property
    def beat(self) -> str:
        """When the holder was last heard of, in seconds since 1970 on the host's clock."""
        return f"{self.folder}/beat"

    @property
    def processes(self) -> str:
        """A file for each process of ours, named after its id."""
        return f"{self.folder}/processes"


DEFAULT_PLACE: Final = Place()


def alone(
    reach: Reach,
    place: Place,
    body: str,
    arguments: Sequence[str] = (),
    *,
    token: str = "",
    stdin: bytes = b"",
    timeout: float = COMMAND_SECONDS,
) -> Done:
    """Run ``body`` as a shell script on the host while nobody else's runs.

    With a ``token`` it runs only while the host's lock holds it, else :class:`LockLost`.  What the script itself ends
    with is the caller's to judge.  Raises ``InfraError`` when the mutex is not free within 20 s.
    """
    done = reach.run(alone_words(place, body, arguments, token=token), stdin=stdin, timeout=timeout)
    if done.code == _LOST:
        raise LockLost(f"{reach.name}: the lock of this run was taken over by somebody else; nothing was changed there")
    if done.code == _BUSY:
        raise InfraError(
            f"{reach.name}: {place.mutex} is held by a script there ({done.complaint}); end that process, or remove "
            f"the file and {place.mutex}.of-* if there is none"
        )
    return done


def alone_words(place: Place, body: str, arguments: Sequence[str], *, token: str) -> list[str]:
    """The command that :func:`alone` runs."""
    return ["sh", "-c", _PROLOGUE + body, "sh", place.mutex, place.lock, token, BOOT_ID, *arguments]


def complain(reach: Reach, done: Done, what: str) -> None:
    """Raises ``InfraError`` for a script that failed: ``what`` could not be done, and what it said."""
    if done.code:
        raise InfraError(f"{reach.name}: {what}: {done.complaint}")
