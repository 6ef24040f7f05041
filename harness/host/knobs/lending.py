# SPDX-License-Identifier: GPL-2.0-only
"""A host for the length of a run: locked, set as wanted, and given back."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.cache import cache_root
from harness.errors import GmemError, UsageError
from harness.host.knobs.giving_back import give_back, is_ours, open_stories
from harness.host.knobs.journal import Begin, ControllerJournal, First, Intent, Made, Outcome, Record, line, tell
from harness.host.knobs.lock import HostLock, take
from harness.host.knobs.place import DEFAULT_PLACE, Place, alone, complain
from harness.host.knobs.processes import recorded
from harness.host.knobs.setting import KnobError, plan, read_knobs, unequal, write_knob
from harness.host.knobs.values import same, selected
from harness.host.reach import Reach

_APPEND = 'dd of="$1" oflag=append conv=notrunc,fsync'


def controller_folder(name: str) -> Path:
    """Where the controller keeps what it knows of the host ``name``; raises ``UsageError`` for a strange name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(f"a host's name has letters, digits, dots and dashes only, not {name!r}")
    return cache_root() / "hosts" / name


class Lent:
    """A host that is ours for now; made by :func:`lent`."""

    def __init__(self, lock: HostLock, local: ControllerJournal) -> None:
        self.lock = lock
        self.first: dict[str, str] = {}
        """Knobs as they were before anything was changed: those set, and those that may follow."""
        self.left_out: tuple[str, ...] = ()
        """Optional knobs that the kernel does not have."""
        self._local = local
        self._pending: list[Record] = []

    @property
    def reach(self) -> Reach:
        """The host."""
        return self.lock.reach

    def _append(self, records: Sequence[Record], *, now: bool = True) -> bytes:
        """Records to the controller's copy; to the host's now, or as the lines that go with the next write."""
        self._local.append(records)
        self._pending += records
        lines = b"".join(map(line, self._pending))
        if now:
            place = self.lock.place
            done = alone(self.reach, place, _APPEND, [place.journal], token=self.lock.token, stdin=lines)
            complain(self.reach, done, f"{place.journal} cannot be written; nothing was changed")
            self._pending.clear()
        return lines

    def begin(self, wanted: Mapping[str, str], optional: frozenset[str] = frozenset()) -> None:
        """Set what is wanted, in order; raises ``UsageError`` before, ``KnobError`` at the first that is not taken."""
        wish = plan(self.reach, wanted, optional)
        holder = self.lock.holder
        begin = Begin(
            run=holder.token, boot=holder.boot, user=holder.user, machine=holder.machine, pid=holder.pid,
            at=holder.since, purpose=holder.purpose,
        )  # fmt: skip
        self.first, self.left_out = wish.first, wish.left_out
        self._append([begin, First(values=wish.first)])
        for path, value in wish.wanted.items():
            if not same(value, wish.first[path]):
                self._set(path, value)
        self._settle(wish.wanted)

    def _set(self, path: str, value: str) -> None:
        lines = self._append([Intent(path=path, value=value)], now=False)
        written = write_knob(self.reach, self.lock.place, self.lock.token, path, value, journal=lines)
        self._pending.clear()
        outcome = Outcome(path=path, value=written.printed)
        self._local.append([outcome])
        self._pending.append(outcome)
        sentence = unequal(path, value, written.printed, written.refused)
        if sentence:
            raise KnobError(f"{self.reach.name}: {sentence}")

    def _settle(self, wanted: Mapping[str, str]) -> None:
        """Set again what a later knob changed, once; raises ``KnobError`` when two of them contradict each other."""
        for path, (value, _) in self._differing(wanted).items():
            self._set(path, value)
        wrong = self._differing(wanted)
        if wrong:
            # What they have now is the run's doing: recorded, so that nobody takes it for somebody else's.
            self._append([Outcome(path=path, value=printed) for path, (_, printed) in wrong.items()])
            words = (
                f"{path} was set to {value} and has {selected(printed) or 'nothing'} after the others were set"
                for path, (value, printed) in wrong.items()
            )
            raise KnobError(f"{self.reach.name}: {'; '.join(words)}")

    def _differing(self, wanted: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        """By path what is wanted and what is printed, where that is not the same."""
        now = read_knobs(self.reach, wanted)
        printed = {path: now[path].text or "" if path in now else "" for path in wanted}
        return {path: (value, printed[path]) for path, value in wanted.items() if not same(value, printed[path])}

    def set(self, path: str, value: str) -> None:
        """One more knob, or another value of one, in the middle of a run.

        Raises ``UsageError`` for a knob that cannot be, ``KnobError`` where the value is not taken.
        """
        if path not in self.first:
            wish = plan(self.reach, {path: value})
            new = {known: text for known, text in wish.first.items() if known not in self.first}
            self.first.update(new)
            self._append([First(values=new)])
        self._set(path, value)

    def made(self, path: str) -> None:
        """Write down that a file or folder of ours is about to be made there; it goes when the host is given back."""
        if not is_ours(path):
            raise ValueError(f"{path} is no place for files of ours")
        self._append([Made(path=path)])

    def recorded(self, what: str, words: Sequence[str]) -> list[str]:
        """The command to hand to ``Reach.start`` or ``run``: it is written down as ours, then becomes ``words``."""
        return recorded(self.lock.place, self.lock.token, what, words)

    def beat(self) -> None:
        """Say that the run is alive; between cases."""
        self.lock.beat()


@contextlib.contextmanager
def lent(
    reach: Reach,
    name: str,
    wanted: Mapping[str, str],
    *,
    purpose: str,
    notice: Callable[[str], None],
    optional: frozenset[str] = frozenset(),
    host: str = "",
    place: Place = DEFAULT_PLACE,
) -> Iterator[Lent]:
    """Have the host ``name`` with the knobs ``wanted``; give it back at the end, whatever happens.

    What an earlier run did not give back is given back first, with a notice.  Raises ``UsageError`` (in use; a knob
    that cannot be), ``KnobError`` (not taken, or not given back),
    ``ReachError`` (lost; ``gmem host restore`` gives back).
    ``host`` is what ``--host`` gets, for sentences.
    """
    lock = take(reach, place, purpose, notice=notice, host=host or name)
    local = ControllerJournal(controller_folder(name))
    with _freed(lock, notice):
        earlier = open_stories(lock, local)
        if earlier:
            notice(f"{reach.name}: giving back what {len(earlier)} earlier run(s) did not")
        for sentence in give_back(lock, local, earlier).told:
            notice(f"{reach.name}: {sentence}")
        host_lent = Lent(lock, local)
        try:
            host_lent.begin(wanted, optional)
            yield host_lent
        except BaseException:
            try:
                _end(lock, local, notice)
            except GmemError as second:
                notice(str(second))
            raise
        _end(lock, local, notice)


def _end(lock: HostLock, local: ControllerJournal, notice: Callable[[str], None]) -> None:
    story = tell(local.read())
    told = give_back(lock, local, [story] if story else []).told
    for sentence in told:
        if not sentence.startswith("/") or "left alone" in sentence:  # that a knob is as it was again is no news
            notice(f"{lock.reach.name}: {sentence}")


@contextlib.contextmanager
def _freed(lock: HostLock, notice: Callable[[str], None]) -> Iterator[None]:
    """The lock goes in any case: the journal that is left says what there is to give back."""
    try:
        yield
    except BaseException:
        try:
            lock.free()
        except GmemError as second:
            notice(str(second))
        raise
    lock.free()
