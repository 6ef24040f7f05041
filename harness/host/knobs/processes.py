# SPDX-License-Identifier: GPL-2.0-only
"""Processes of ours on the host, each recorded before it becomes what it shall be, and ended by id and start only.

``recorded`` wraps a command: a shell writes its own process id and start into the host's folder and then becomes the
command, so that there is no moment at which a QEMU runs and nobody knows that it is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.host.knobs.place import BOOT_ID, START, Place, alone, alone_words, complain
from harness.host.reach import Reach, check

TERM_SECONDS, KILL_SECONDS = 5, 60
"""How long a process may take to end by itself, and to be gone once killed: a guest's memory has to be given back."""
_RECORD: Final = r"""
folder=$1 what=$2
shift 2
mkdir -p "$folder" || exit 96
printf '%s %s %s\n' "$boot" "$(start $$)" "$what" > "$folder/$$" || exit 96
leave
umask 022
exec "$@"
"""
_LIST: Final = r"""
boot=$(cat "$2")
for file in "$1"/*; do
    [ -f "$file" ] || continue
    IFS= read -r line < "$file"
    set -- "$1" "$2" ${line}
    if [ "$3" = "$boot" ] && [ "$(start "${file##*/}")" = "$4" ]; then state=alive; else state=gone; fi
    printf '%s %s %s\n' "$state" "${file##*/}" "$line"
done
"""
_END: Final = r"""
folder=$1 patience=$2 longest=$3
ours() { [ "$(start "$pid")" = "$since" ]; }
await() { left=$(($1 * 10)); while ours && [ $left -gt 0 ]; do sleep 0.1; left=$((left - 1)); done; }
for file in "$folder"/*; do
    [ -f "$file" ] || continue
    pid=${file##*/}
    read -r then since what < "$file"
    if [ "$then" = "$boot" ] && ours; then
        kill -TERM "$pid" 2>/dev/null; await "$patience"
        if ours; then kill -KILL "$pid" 2>/dev/null; await "$longest"; fi
        if ours; then echo "alive $pid $what"; continue; fi
        echo "ended $pid $what"
    fi
    rm -f "$file"
done
"""


@dataclass(frozen=True)
class Ours:
    """A recorded process; ``what`` is what it was recorded as."""

    pid: int
    what: str
    alive: bool


def recorded(place: Place, token: str, what: str, words: Sequence[str]) -> list[str]:
    """The command that records itself and becomes ``words``; it ends with 97 when the host's lock is not ours."""
    return alone_words(place, _RECORD, [place.processes, " ".join(what.split()), *words], token=token)


def ours(reach: Reach, place: Place) -> list[Ours]:
    """Recorded processes, alive or gone; those of before a reboot are gone."""
    found = []
    for line in check(reach, ["sh", "-c", START + _LIST, "sh", place.processes, BOOT_ID]).splitlines():
        state, pid, _, _, *what = line.split(" ", 4)
        if pid.isdigit():
            found.append(Ours(int(pid), what[0] if what else "", state == "alive"))
    return found


def end_processes(reach: Reach, place: Place, token: str) -> tuple[list[Ours], list[Ours]]:
    """End what is recorded and still that process; returns those ended, and those that do not go away."""
    words = [place.processes, str(TERM_SECONDS), str(KILL_SECONDS)]
    done = alone(reach, place, _END, words, token=token, timeout=10.0 * (TERM_SECONDS + KILL_SECONDS))
    complain(reach, done, "processes of ours cannot be ended")
    ended: list[Ours] = []
    stuck: list[Ours] = []
    for line in done.text.splitlines():
        state, pid, *what = line.split(" ", 2)
        (stuck if state == "alive" else ended).append(Ours(int(pid), " ".join(what), state == "alive"))
    return ended, stuck
