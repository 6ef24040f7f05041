# SPDX-License-Identifier: GPL-2.0-only
"""A host that others have, had, or rebooted: torn journals, locks that are taken over, processes and files of ours."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

import pytest

from harness.errors import UsageError
from harness.host.knobs.lending import controller_folder
from harness.host.knobs.lock import look
from harness.host.knobs.place import DEFAULT_PLACE, LockLost, alone
from harness.host.knobs.processes import ours
from tests.fake.knob_host import SELECTION, KnobHost
from tests.fake.knobs_bench import (
    NX,
    POOL,
    RESERVE,
    SWAPPINESS,
    THP,
    Killed,
    abandon,
    clean,
    gone,
    having,
    host,
    restore,
    said,
    wait_for,
)

__all__ = ["host", "said"]


def test_torn_journals(host: KnobHost, said: list[str]) -> None:
    before = host.knobs()
    abandon(host, said)
    local = controller_folder("fake") / "journal"
    for path in (local, host.at(DEFAULT_PLACE.journal)):
        with path.open("ab") as file:
            file.write(b'deadbeef {"kind":"inten')
    told = restore(host, said).told
    assert any("the journal is torn" in sentence for sentence in told)
    assert host.knobs() == before


@pytest.mark.parametrize("which", ["controller", "host"])
def test_either_journal_will_do(host: KnobHost, said: list[str], which: str) -> None:
    before = host.knobs()
    abandon(host, said)
    (controller_folder("fake") / "journal" if which == "host" else host.at(DEFAULT_PLACE.journal)).unlink()
    restore(host, said)
    assert host.knobs() == before


def test_a_reboot_in_between(host: KnobHost, said: list[str]) -> None:
    abandon(host, said)
    host.reboot("boot-2")
    for path, text in ((SWAPPINESS, "60"), (RESERVE, "256\t256\t32"), (POOL, "0"), (NX, "N")):
        host.at(path).write_text(f"{text}\n")
    host.knob(THP, "[always] madvise never", SELECTION)
    told = restore(host, said).told
    assert said[-1].endswith("the host was booted since")
    assert f"{THP} was madvise before the run and is always since the reboot: left alone" in told
    assert host.text(THP) == "[always] madvise never"
    assert len(told) == 2
    assert clean(host)


def test_what_somebody_else_set_is_theirs(host: KnobHost, said: list[str]) -> None:
    abandon(host, said)
    host.at(SWAPPINESS).write_text("33\n")
    told = restore(host, said).told
    assert f"{SWAPPINESS} is 33, which somebody else set: the run had set 10, and it was 60 before; left alone" in told
    assert host.text(SWAPPINESS) == "33"
    assert host.text(THP) == "always [madvise] never"


def test_the_next_run_gives_back_first(host: KnobHost, said: list[str]) -> None:
    before = host.knobs()
    abandon(host, said)
    with having(host, said, {SWAPPINESS: "20"}) as mine:
        assert mine.first[SWAPPINESS] == "60"
        assert host.text(THP) == "always [madvise] never"
    assert host.knobs() == before
    assert "on this machine is gone" in said[0]
    assert "giving back what 1 earlier run(s) did not" in said[1]


def test_a_script_of_a_killed_run_does_nothing_after_the_lock_is_taken_over(host: KnobHost, said: list[str]) -> None:
    with having(host, said, {SWAPPINESS: "10"}) as mine:
        token = mine.lock.token
        alive = mine
    with pytest.raises(LockLost):
        alone(host, DEFAULT_PLACE, "true", token=token)
    with pytest.raises(LockLost):
        alive._set(SWAPPINESS, "20")
    assert host.text(SWAPPINESS) == "60"
    assert host.run(alive.recorded("qemu", ["true"])).code == 97


def test_a_holder_on_another_machine(host: KnobHost, said: list[str]) -> None:
    before = host.knobs()
    abandon(host, said)
    gone(host, r'"controller":"[^"]*"', '"controller":"other x"')
    gone(host, r'"machine":"[^"]*"', '"machine":"other"')
    with pytest.raises(UsageError, match=r"@other .*; if it is gone, gmem host restore --host fake --force"):
        restore(host, said)
    restore(host, said, force=True)
    assert host.knobs() == before


def test_one_run_per_host(host: KnobHost, said: list[str]) -> None:
    with having(host, said, {SWAPPINESS: "10"}):
        with pytest.raises(UsageError, match="is in use by"), having(host, said, {}):
            pass
        assert host.text(SWAPPINESS) == "10"
        assert look(host, DEFAULT_PLACE).holder is not None


@pytest.fixture
def sleeper() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes to end after the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_processes_of_ours_are_ended(host: KnobHost, said: list[str], sleeper: list[subprocess.Popen[bytes]]) -> None:
    with contextlib.suppress(Killed), having(host, said, {SWAPPINESS: "10"}) as mine:
        for name in ("qemu g0", "qemu g1"):
            sleeper.append(host.start(mine.recorded(name, ["sleep", "1000"])))
        wait_for(lambda: len(ours(host, DEFAULT_PLACE)) == 2)
        other = host.at(f"{DEFAULT_PLACE.processes}/{sleeper[1].pid}")
        other.write_text("boot-1 1 qemu g1\n")  # its id was given to somebody else's process

        def die(words: list[str]) -> None:
            raise Killed

        host.before = die
    host.before = lambda words: None
    gone(host)
    told = restore(host, said).told
    assert f"ended process {sleeper[0].pid} (qemu g0)" in told
    assert sleeper[0].wait(10) == -15
    assert sleeper[1].poll() is None
    assert clean(host)


def test_files_of_ours_are_removed(host: KnobHost, said: list[str]) -> None:
    with pytest.raises(ValueError, match="no place for files of ours"), having(host, said, {}) as mine:
        mine.made("/run/../etc/passwd")
    with having(host, said, {}) as mine:
        mine.made("/run/gmem-x")
        (host.at("/run/gmem-x") / "deep").mkdir(parents=True)
    assert not host.at("/run/gmem-x").exists()


def test_the_mutex_of_a_dead_script_is_set_aside(host: KnobHost, said: list[str]) -> None:
    host.at(DEFAULT_PLACE.mutex).write_text("boot-1 4194304 5\n")
    began = time.monotonic()
    with having(host, said, {SWAPPINESS: "10"}):
        pass
    assert time.monotonic() - began < 10
    assert clean(host)
