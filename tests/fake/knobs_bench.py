# SPDX-License-Identifier: GPL-2.0-only
"""A host with a few knobs that is a directory, and what is done to it."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

import pytest

from harness.host.knobs.giving_back import GivenBack, give_back, open_stories
from harness.host.knobs.journal import ControllerJournal
from harness.host.knobs.lending import Lent, controller_folder, lent
from harness.host.knobs.lock import take
from harness.host.knobs.place import DEFAULT_PLACE
from tests.fake.knob_host import SELECTION, KnobHost

SWAPPINESS = "/proc/sys/vm/swappiness"
THP = "/sys/kernel/mm/transparent_hugepage/enabled"
MIN_FREE = "/proc/sys/vm/min_free_kbytes"
POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
RESERVE = "/proc/sys/vm/lowmem_reserve_ratio"
NX = "/sys/module/kvm/parameters/nx_huge_pages"
WANTED = {SWAPPINESS: "10", THP: "never", RESERVE: "256 256 64", NX: "1", POOL: "4"}
BOOLEAN = 'case $(cat "$1") in 1|y|Y) echo Y > "$1" ;; *) echo N > "$1" ;; esac'
FOLLOWED = f'{SELECTION}\necho 67584 > "$1.follower"'


@pytest.fixture(params=["sh", "busybox"])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnobHost:
    """A host with a few knobs, whose shell is that of Debian or of busybox."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    host = KnobHost(tmp_path / "host")
    host.shell = ["sh"] if request.param == "sh" else ["busybox", "sh"]
    host.knob(SWAPPINESS, "60")
    host.knob(THP, "always [madvise] never", SELECTION)
    host.knob(RESERVE, "256\t256\t32")
    host.knob(NX, "N", BOOLEAN)
    host.knob(POOL, "0")
    return host


@pytest.fixture
def said() -> list[str]:
    """Notices."""
    return []


def having(host: KnobHost, said: list[str], wanted: dict[str, str]) -> contextlib.AbstractContextManager[Lent]:
    return lent(host, "fake", wanted, purpose="a test", notice=said.append)


def restore(host: KnobHost, said: list[str], force: bool = False) -> GivenBack:
    """What ``gmem host restore`` does."""
    lock = take(host, DEFAULT_PLACE, "restore", notice=said.append, host="fake", force=force)
    try:
        local = ControllerJournal(controller_folder("fake"))
        return give_back(lock, local, open_stories(lock, local))
    finally:
        lock.free()


def clean(host: KnobHost) -> bool:
    """Nothing of ours is on the host."""
    return not [*host.at("/run").iterdir(), *host.at("/var/lib").iterdir()]


def gone(host: KnobHost, pattern: str = r'"start":\d+', text: str = '"start":1') -> None:
    """Let the lock's holder be another process."""
    lock = host.at(DEFAULT_PLACE.lock)
    if lock.exists():
        lock.write_text(re.sub(pattern, text, lock.read_text()))


class Killed(BaseException):
    """Stands for kill -9: nothing is cleaned up."""


def abandon(host: KnobHost, said: list[str], wanted: dict[str, str] = WANTED) -> None:
    """A run that set everything and was killed."""

    def die(words: list[str]) -> None:
        raise Killed

    with contextlib.suppress(Killed), having(host, said, wanted):
        host.before = die
    host.before = lambda words: None
    gone(host)


def wait_for(condition: object) -> None:
    end = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)
