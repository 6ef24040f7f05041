# SPDX-License-Identifier: GPL-2.0-only
"""Reading knobs, many at a time, and writing one: journalled, fenced and read back in one script on the host."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from harness.errors import InfraError, UsageError
from harness.host.knobs.place import Place, alone
from harness.host.knobs.values import check_path, followers, is_count, same, selected
from harness.host.reach import Reach, ReachError, check

WRITE_SECONDS: Final = 600.0
"""Deadline for one knob: a pool of huge pages may have to be compacted together."""
_READ: Final = r"""
mark=$1
shift
for pattern; do
    for path in $pattern; do
        if [ ! -e "$path" ]; then state=absent; text=
        elif text=$(head -c 65536 "$path" 2>/dev/null); then state=$(stat -c %a "$path")
        else state=unreadable; text=
        fi
        printf '%s %s\n%s\n%s\n' "$state" "$path" "$text" "$mark"
    done
done
"""
# GNU's dd says how much it copied even where it failed, and says it last.
_WRITE: Final = r"""
if [ "$1" ]; then
    dd of="$1" oflag=append conv=notrunc,fsync 2>/dev/null || { echo "$1 cannot be written" >&2; exit 96; }
fi
said=$(printf '%s\n' "$3" | LC_ALL=C dd of="$2" bs=65536 conv=notrunc 2>&1 >/dev/null)
code=$?
printf '%s %s\n' "$code" "$(echo "$said" | grep -v -e 'records in' -e 'records out' -e copied | head -n 1)"
head -c 65536 "$2"
"""


class KnobError(InfraError):
    """Knobs of the host are not as they have to be."""


@dataclass(frozen=True)
class Printed:
    """A knob as it is: ``text`` is None where it cannot be read, ``mode`` its permissions."""

    text: str | None
    mode: int

    @property
    def writable(self) -> bool:
        """Whether the kernel lets anybody write it: root may open files that have no write bit, in vain."""
        return bool(self.mode & 0o222)


def read_knobs(reach: Reach, patterns: Iterable[str]) -> dict[str, Printed]:
    """Knobs that exist, by path, in the order asked for; patterns of the shell are expanded."""
    asked = list(dict.fromkeys(patterns))
    if not asked:
        return {}
    mark = f"--{secrets.token_hex(8)}"
    found: dict[str, Printed] = {}
    parts = check(reach, ["sh", "-c", _READ, "sh", mark, *asked]).split(f"\n{mark}\n")
    for part in parts[:-1]:
        head, _, text = part.partition("\n")
        state, _, path = head.partition(" ")
        if state == "unreadable":
            found[path] = Printed(None, 0o200)
        elif state != "absent":
            found[path] = Printed(text, int(state, 8))
    return found


@dataclass(frozen=True)
class Written:
    """What came of writing: ``refused`` is what the kernel said, '' when it took the value."""

    refused: str
    printed: str


def write_knob(reach: Reach, place: Place, token: str, path: str, value: str, *, journal: bytes = b"") -> Written:
    """Append ``journal`` to the host's copy, write ``value``, read back; only while the host's lock is ours."""
    copy = place.journal if journal else ""
    done = alone(reach, place, _WRITE, [copy, path, value], token=token, stdin=journal or b"\n", timeout=WRITE_SECONDS)
    head, _, text = done.text.partition("\n")
    code, _, said = head.partition(" ")
    if done.code == 96 or not code.isdigit():
        raise ReachError(f"{reach.name}: {path} was not set: {done.complaint}")
    return Written("" if code == "0" else said.rpartition(": ")[2] or f"dd ended with {code}", text.rstrip("\n"))


@dataclass(frozen=True)
class Wish:
    """What shall be set, in order, on a host that has ``first`` now (wanted knobs and their followers)."""

    wanted: dict[str, str]
    first: dict[str, str]
    left_out: tuple[str, ...]
    """Optional knobs that the kernel does not have."""


def plan(reach: Reach, wanted: Mapping[str, str], optional: frozenset[str] = frozenset()) -> Wish:
    """Read everything and refuse what cannot be, before anything is changed.

    Raises ``UsageError`` with all that is wrong: knobs that do not exist (unless ``optional``), or that are read-only
    and have another value.
    """
    for path in wanted:
        check_path(path)
    more = [follower for path in wanted for follower in followers(path)]
    found = read_knobs(reach, [*wanted, *more])
    wrong, left_out = [], []
    for path, value in wanted.items():
        knob = found.get(path)
        if knob is None:
            if path in optional:
                left_out.append(path)
            else:
                wrong.append(f"{path} does not exist on this kernel")
        elif knob.text is None:
            wrong.append(f"{path} cannot be read, so that it could not be given back")
        elif not same(value, knob.text) and not knob.writable:
            wrong.append(f"{path} is read-only and has {selected(knob.text)}, not {value}")
    if wrong:
        raise UsageError(f"{reach.name}: {'; '.join(wrong)}")
    first = {path: knob.text for path, knob in found.items() if knob.text is not None}
    return Wish({path: value for path, value in wanted.items() if path in found}, first, tuple(left_out))


def unequal(path: str, value: str, printed: str, refused: str = "") -> str:
    """The sentence about a knob that does not have what was written; '' when it has."""
    if same(value, printed):
        return ""
    has = selected(printed) or "nothing"
    if refused:
        return f"{path} was not set to {value}: {refused}; it has {has}"
    if is_count(path) and has.isdigit() and value.isdigit() and int(has) < int(value):
        return (
            f"{path} got only {has} of {value} huge pages: memory is short or in pieces; free some, ask for fewer, or "
            f"have them reserved at boot"
        )
    return f"{path} was set to {value} and reads back {has}"
