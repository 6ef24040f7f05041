# SPDX-License-Identifier: GPL-2.0-only
"""What is done to a host before each case so that it begins alike: drop_caches, compact_memory.

These are no knobs: nothing can be given back.  What they did is recorded, with /proc/buddyinfo before and after.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from harness.counters.buddyinfo import free_per_order, parse
from harness.errors import UsageError
from harness.host.knobs.setting import KnobError
from harness.host.reach import Reach, check

_VM: Final = "/proc/sys/vm/"
ACTIONS: Final = MappingProxyType({"drop_caches": ("1", "2", "3"), "compact_memory": ("1",), "stat_refresh": ("1",)})
"""Files of /proc/sys/vm and the values that they take (fs/drop_caches.c, mm/compaction.c, mm/vmstat.c)."""
ACTION_SECONDS: Final = 600.0
"""Deadline of one action: compacting a large host takes minutes."""
_SCRIPT: Final = r"""
[ "$2" = drop_caches ] && sync
if said=$(printf '%s\n' "$3" 2>&1 > "$1"); then :; else echo "$2 was refused: $said" >&2; exit 96; fi
cat "$4"
"""


@dataclass(frozen=True)
class Done:
    """One action; ``before`` and ``after`` are /proc/buddyinfo around it."""

    action: str
    value: str
    before: str
    after: str

    @property
    def told(self) -> str:
        """For a record: free pages and free blocks of 2 MiB before and after."""
        (pages, blocks), (pages_before, blocks_before) = _free(self.after), _free(self.before)
        return (
            f"{self.action}={self.value}: free pages {pages_before} to {pages}, "
            f"free blocks of 2 MiB {blocks_before} to {blocks}"
        )


def before_each(reach: Reach, actions: Iterable[tuple[str, str]]) -> list[Done]:
    """Do the actions in order: path and text of each, as :func:`harness.host.config.knobs.before_each` has them.

    Raises ``UsageError`` for one that is not known, ``KnobError`` for one that the kernel refuses.
    """
    todo = [(path.removeprefix(_VM), value) for path, value in actions]
    for action, value in todo:
        if value not in ACTIONS.get(action, ()):
            known = ", ".join(f"{name}: {' or '.join(values)}" for name, values in ACTIONS.items())
            raise UsageError(f"before_each knows no {action}: {value}; it knows {known}")
    done: list[Done] = []
    now = check(reach, ["cat", "/proc/buddyinfo"])
    for action, value in todo:
        words = ["sh", "-c", _SCRIPT, "sh", f"{_VM}{action}", action, value, "/proc/buddyinfo"]
        ended = reach.run(words, timeout=ACTION_SECONDS)
        if ended.code:
            raise KnobError(f"{reach.name}: {ended.complaint}")
        done.append(Done(action, value, now, ended.text))
        now = ended.text
    return done


def _free(text: str) -> tuple[int, int]:
    """Free pages, and free blocks of 2 MiB: those of order 9, and what the larger ones hold."""
    orders = list(enumerate(free_per_order(parse(text))))
    return (sum(count << order for order, count in orders), sum(count << order - 9 for order, count in orders[9:]))
