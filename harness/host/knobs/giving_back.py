# SPDX-License-Identifier: GPL-2.0-only
"""Giving a host back from the journal of a run, however that run ended; done twice, the second finds nothing to do.

What somebody else set since is theirs: a knob that is neither as it was nor as the run left it stays, and is told.
After a reboot nothing that was set is there any more: the knobs are compared with what was there first, and differences
told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from harness.errors import InfraError
from harness.host.knobs.journal import Change, ControllerJournal, Story, union
from harness.host.knobs.lock import HostLock
from harness.host.knobs.place import LockLost, alone
from harness.host.knobs.processes import end_processes
from harness.host.knobs.setting import KnobError, read_knobs, write_knob
from harness.host.knobs.values import followers, is_count, same, selected
from harness.host.reach import ReachError, read_file

_ROUNDS = 3
"""Times that everything is compared: writing one knob may change another."""
_OURS = re.compile(r"/(run|tmp|var/tmp|var/lib|dev/shm|dev/hugepages)/gmem[-.\w]*(/[-.\w]+)*\Z")


@dataclass
class GivenBack:
    """What was done, as sentences; ``failures`` are what is not as it was and should be."""

    told: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def is_ours(path: str) -> bool:
    """Whether a path may be recorded as made by us, and so be removed: a name with ``gmem`` in a folder for such."""
    return bool(_OURS.match(path)) and "/../" not in f"{path}/" and "/./" not in f"{path}/"


def open_stories(lock: HostLock, local: ControllerJournal) -> list[Story]:
    """What the host's journal and the controller's tell of runs that did not give back."""
    there = read_file(lock.reach, lock.place.journal) or b""
    return union([there, local.read()])


def give_back(lock: HostLock, local: ControllerJournal, stories: list[Story]) -> GivenBack:
    """Give everything back; the lock is held by the caller, and stays.

    Goes on after what fails, and closes the journals when nothing did.  Raises ``KnobError`` with all failures at the
    end, ``ReachError`` when the host is lost (the journals stay, and it can be done again).
    """
    done = GivenBack()
    _end_processes(lock, done)
    for story in reversed(stories):  # the last run first
        if story.damaged:
            lines = ", ".join(map(str, story.damaged))
            done.told.append(f"the journal is torn (line {lines}): the rest of it was used")
        if story.begin.boot != lock.holder.boot:
            _compare(lock, story, done)
        else:
            _give_back_knobs(lock, story, done)
        _remove(lock, story, done)
    if done.failures:
        raise KnobError(f"{lock.reach.name} is not as it was: {'; '.join(done.failures)}")
    removed = alone(lock.reach, lock.place, 'rm -f "$1"', [lock.place.journal], token=lock.token)
    if removed.code:
        raise KnobError(f"{lock.reach.name}: {lock.place.journal} cannot be removed: {removed.complaint}")
    local.close()
    return done


def _end_processes(lock: HostLock, done: GivenBack) -> None:
    try:
        ended, stuck = end_processes(lock.reach, lock.place, lock.token)
    except (LockLost, ReachError):
        raise
    except InfraError as error:
        done.failures.append(str(error))
        return
    done.told += [f"ended process {process.pid} ({process.what})" for process in ended]
    done.failures += [f"process {process.pid} ({process.what}) does not go away" for process in stuck]


def _compare(lock: HostLock, story: Story, done: GivenBack) -> None:
    done.told.append("the host was booted since: nothing that was set is there any more")
    now = read_knobs(lock.reach, story.changes)
    for path in story.changes:
        was, knob = story.first.get(path), now.get(path)
        if was is not None and (knob is None or knob.text is None or not same(selected(was), knob.text)):
            has = "gone" if knob is None or knob.text is None else selected(knob.text)
            done.told.append(f"{path} was {selected(was)} before the run and is {has} since the reboot: left alone")


def _give_back_knobs(lock: HostLock, story: Story, done: GivenBack) -> None:
    """In reverse, then again whatever another write changed, until all is as it was."""
    left: dict[str, str] = {}  # knobs that are not written any more, and why
    failures: dict[str, str] = {}
    more = [path for changed in story.changes for path in followers(changed)]
    followed = [path for path in read_knobs(lock.reach, more) if path in story.first]
    follow = [path for path in followed if path not in story.changes]
    for turn in range(_ROUNDS):
        # A follower keeps its value after the first round, when what it follows has been given back.
        paths = [path for path in (*reversed(story.changes), *(follow if turn else [])) if path in story.first]
        now = read_knobs(lock.reach, paths)
        failures.clear()
        for path in paths:
            was, knob = selected(story.first[path]), now.get(path)
            printed = None if knob is None else knob.text
            if path in left or (printed is not None and same(was, printed)):
                continue
            change = story.changes.get(path)
            if printed is None:
                failures[path] = f"{path} is gone; it was {was}"
            elif turn == 0 and path not in followed and change and not is_ours_now(path, was, change, printed):
                left[path] = (
                    f"{path} is {selected(printed)}, which somebody else set: the run had set {change.value}, and it "
                    f"was {was} before; left alone"
                )
            else:
                failures[path] = _write_back(lock, path, was, printed, done)
        if turn and not failures:
            break
    done.told += left.values()
    # What was written in the last round was perhaps taken, but then something changes it again and again.
    done.failures += [text or f"{path} does not stay as it was" for path, text in failures.items()]


def is_ours_now(path: str, was: str, change: Change, printed: str) -> bool:
    """Whether ``printed`` can be what the run left: its value, what it read back, or what it did not live to read.

    A change of which the outcome is not recorded was perhaps made, and the kernel may have made something else of it.
    """
    if change.printed is None:
        return True
    if same(change.value, printed) or same(selected(change.printed), printed):
        return True
    counts = (was.strip(), change.value.strip(), printed.strip())
    if is_count(path) and all(count.isdigit() for count in counts):
        low, high = sorted((int(counts[0]), int(counts[1])))
        return low < int(counts[2]) < high  # giving back was cut short: a pool shrinks page by page
    return False


def _write_back(lock: HostLock, path: str, was: str, printed: str, done: GivenBack) -> str:
    value = selected(was)
    try:
        written = write_knob(lock.reach, lock.place, lock.token, path, value)
    except LockLost:
        raise
    except ReachError as error:
        raise ReachError(f"{error}; run gmem host restore when the host is reached again") from error
    if not same(value, written.printed):
        why = f" ({written.refused})" if written.refused else ""
        return f"{path} is {selected(written.printed)} and was {value} before the run{why}"
    done.told.append(f"{path}: {value} again, was {selected(printed)}")
    return ""


def _remove(lock: HostLock, story: Story, done: GivenBack) -> None:
    for path in story.made:
        if not is_ours(path):
            done.failures.append(f"{path} is in the journal as a file of ours, which it cannot be: left alone")
            continue
        script = '[ -e "$1" ] || [ -L "$1" ] || exit 0; rm -rf "$1" && echo removed'
        removed = alone(lock.reach, lock.place, script, [path], token=lock.token)
        if removed.code:
            done.failures.append(f"{path} cannot be removed: {removed.complaint}")
        elif removed.text.strip():
            done.told.append(f"removed {path}")
