# SPDX-License-Identifier: GPL-2.0-only
"""Knobs set and given back on a host that is a directory: the scripts are the real ones, the kernel is a fake."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.host.knobs.before import before_each
from harness.host.knobs.giving_back import GivenBack, give_back, open_stories
from harness.host.knobs.journal import ControllerJournal
from harness.host.knobs.leaks import snapshot
from harness.host.knobs.lending import Lent, controller_folder, lent
from harness.host.knobs.lock import look, take
from harness.host.knobs.place import DEFAULT_PLACE, LockLost, alone
from harness.host.knobs.processes import ours
from harness.host.knobs.setting import KnobError
from harness.host.reach import ReachError
from tests.fake.knob_host import REFUSED, SELECTION, KnobHost

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


class Killed(BaseException):
    """Stands for kill -9: nothing is cleaned up."""


def killed_at(host: KnobHost, said: list[str], command: int, wanted: dict[str, str] = WANTED) -> bool:
    """A run that dies before its ``command``-th command; whether it got that far."""
    count = 0

    def die(words: list[str]) -> None:
        nonlocal count
        count += 1
        if count >= command:
            raise Killed

    host.before = die
    try:
        with having(host, said, wanted):
            pass
    except Killed:
        host.before = lambda words: None
        gone(host)
        return True
    host.before = lambda words: None
    return False


def test_set_and_given_back(host: KnobHost, said: list[str]) -> None:
    before = host.knobs()
    with having(host, said, WANTED) as mine:
        assert host.text(SWAPPINESS) == "10"
        assert host.text(THP) == "always madvise [never]"
        assert host.text(NX) == "Y"
        assert host.text(RESERVE) == "256 256 64"
        assert host.text(POOL) == "4"
        assert mine.first[THP] == "always [madvise] never"
        assert host.at(DEFAULT_PLACE.journal).exists()
        mine.beat()
    assert host.knobs() == {**before, str(host.at(RESERVE)): "256\t256\t32\n"}
    assert clean(host)
    assert not said
    assert (controller_folder("fake") / "journal.last").exists()


def test_the_journal_is_written_before_the_knob(host: KnobHost, said: list[str]) -> None:
    host.knob(SWAPPINESS, "60", f'grep -q "{SWAPPINESS}.*10" "{host.at(DEFAULT_PLACE.journal)}" && cp "$1" "$1.seen"')
    with having(host, said, {SWAPPINESS: "10"}):
        assert "10" in host.at(f"{SWAPPINESS}.seen").read_text()


def test_killed_at_every_command(host: KnobHost, said: list[str]) -> None:
    before = host.knobs()
    command = 0
    while True:
        command += 1
        if not killed_at(host, said, command):
            break
        restore(host, said)
        assert host.knobs() == before, f"killed before command {command}"
        assert clean(host)
        assert not restore(host, said).told
    assert command > 10


def test_killed_while_it_gives_back(host: KnobHost, said: list[str]) -> None:
    before = host.knobs()
    assert killed_at(host, said, 8)
    count = 0

    def die(words: list[str]) -> None:
        nonlocal count
        count += 1
        if count == 7:
            raise Killed

    host.before = die
    with pytest.raises(Killed):
        restore(host, said)
    host.before = lambda words: None
    restore(host, said)
    assert host.knobs() == before


def test_read_back_unequal(host: KnobHost, said: list[str]) -> None:
    host.knob(SWAPPINESS, "60", 'echo 7 > "$1"')
    with pytest.raises(KnobError, match=r"swappiness was set to 10 and reads back 7"), having(host, said, WANTED):
        pass
    assert "swappiness is 7 and was 60 before the run" in said[0]  # and the kernel does not take it back


def test_refused_by_the_kernel(host: KnobHost, said: list[str]) -> None:
    before = host.knobs()
    host.knob(SWAPPINESS, "60", REFUSED)
    with (
        pytest.raises(KnobError, match="swappiness was not set to 10: Invalid argument; it has 60"),
        having(host, said, {THP: "never", SWAPPINESS: "10"}),
    ):
        pass
    assert host.knobs() == before
    assert clean(host)


def test_huge_pages_granted_in_part(host: KnobHost, said: list[str]) -> None:
    before = host.knobs()
    host.knob(POOL, "0", '[ "$(cat "$1")" -gt 3 ] && echo 3 > "$1"; true')
    with pytest.raises(KnobError, match="got only 3 of 4 huge pages"), having(host, said, {POOL: "4"}):
        pass
    assert host.knobs() == before
    assert killed_at(host, said, 9, {POOL: "4"})
    assert host.text(POOL) == "3"
    restore(host, said)
    assert host.knobs() == before


def test_refusals_before_anything_is_changed(host: KnobHost, said: list[str]) -> None:
    before = host.knobs()
    host.knob("/sys/module/kvm/parameters/tdp_mmu", "Y", mode=0o444)
    wanted = {SWAPPINESS: "10", "/proc/sys/vm/none": "1", "/sys/module/kvm/parameters/tdp_mmu": "N"}
    expected = "vm/none does not exist on this kernel; .*tdp_mmu is read-only and has Y, not N"
    with pytest.raises(UsageError, match=expected), having(host, said, wanted):
        pass
    for path in ("/etc/passwd", "/sys/../etc/passwd"):
        with pytest.raises(UsageError, match="is no knob"), having(host, said, {path: "1"}):
            pass
    assert host.knobs() == {**before, str(host.at("/sys/module/kvm/parameters/tdp_mmu")): "Y\n"}
    assert clean(host)


def test_an_optional_knob_may_be_absent(host: KnobHost, said: list[str]) -> None:
    none = "/proc/sys/vm/defrag_mode"
    wanted = {SWAPPINESS: "10", none: "1"}
    with lent(host, "fake", wanted, purpose="a test", notice=said.append, optional=frozenset({none})) as mine:
        assert mine.left_out == (none,)
        assert host.text(SWAPPINESS) == "10"


def test_a_later_knob_changes_an_earlier_one(host: KnobHost, said: list[str]) -> None:
    before = host.knobs()
    change = f'{SELECTION}\necho 5 > "{host.at(SWAPPINESS)}"'
    host.knob(THP, "always [madvise] never", change)
    with having(host, said, {SWAPPINESS: "10", THP: "never"}):
        assert host.text(SWAPPINESS) == "10"  # set again
    assert host.knobs() == before
    host.knob(SWAPPINESS, "60", f'[ "$(cat "$1")" = 10 ] && echo "[always] madvise never" > "{host.at(THP)}"; true')
    with (
        pytest.raises(KnobError, match="enabled was set to never and has always after the others"),
        having(host, said, {SWAPPINESS: "10", THP: "never"}),
    ):
        pass
    assert host.knobs() == before


def test_a_follower_is_given_back(host: KnobHost, said: list[str]) -> None:
    host.knob(MIN_FREE, "5632")
    before = host.knobs()
    host.knob(THP, "always [madvise] never", f'{SELECTION}\necho 67584 > "{host.at(MIN_FREE)}"')
    with having(host, said, {THP: "never"}):
        assert host.text(MIN_FREE) == "67584"
    assert host.knobs() == before


def test_the_connection_is_lost(host: KnobHost, said: list[str]) -> None:
    before = host.knobs()
    with contextlib.suppress(ReachError), having(host, said, WANTED) as mine:
        host.lost = True
        mine.beat()
    assert "broke" in said[0]
    host.lost = False
    assert host.text(SWAPPINESS) == "10"
    # It is the same process that comes back here: by its lock it would be alive.
    with pytest.raises(UsageError, match=r"fake is in use by .*: a test\) for .*: wait for it, or end it with kill "):
        restore(host, said)
    gone(host)
    restore(host, said)
    assert host.knobs() == before
    assert clean(host)


def gone(host: KnobHost, pattern: str = r'"start":\d+', text: str = '"start":1') -> None:
    """Let the lock's holder be another process."""
    lock = host.at(DEFAULT_PLACE.lock)
    if lock.exists():
        lock.write_text(re.sub(pattern, text, lock.read_text()))


def abandon(host: KnobHost, said: list[str], wanted: dict[str, str] = WANTED) -> None:
    """A run that set everything and was killed."""

    def die(words: list[str]) -> None:
        raise Killed

    with contextlib.suppress(Killed), having(host, said, wanted):
        host.before = die
    host.before = lambda words: None
    gone(host)


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


def test_goes_on_after_a_knob_that_fails(host: KnobHost, said: list[str]) -> None:
    abandon(host, said)
    for path, now in ((SWAPPINESS, "10"), (POOL, "4")):
        host.knob(path, now, REFUSED)
    with pytest.raises(KnobError) as caught:
        restore(host, said)
    for word in ("swappiness is 10 and was 60", "nr_hugepages is 4 and was 0", "(Invalid argument)"):
        assert word in str(caught.value)
    assert host.text(THP) == "always [madvise] never"
    assert host.at(DEFAULT_PLACE.journal).exists()  # it is tried again
    for path, now in ((SWAPPINESS, "10"), (POOL, "4")):
        host.knob(path, now, "true")
    restore(host, said)
    assert (host.text(SWAPPINESS), host.text(POOL)) == ("60", "0")


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


def wait_for(condition: object) -> None:
    end = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


BUDDY = "Node 0, zone   Normal      {}      0      0      0      0      0      0      0      0      {}      1\n"


def test_before_each(host: KnobHost) -> None:
    host.at("/proc/buddyinfo").write_text(BUDDY.format(4, 2))
    host.knob("/proc/sys/vm/drop_caches", "0")
    host.knob("/proc/sys/vm/compact_memory", "0", mode=0o200)
    done = before_each(host, [("/proc/sys/vm/drop_caches", "3"), ("/proc/sys/vm/compact_memory", "1")])
    assert host.text("/proc/sys/vm/drop_caches") == "3"
    assert done[0].told == "drop_caches=3: free pages 2052 to 2052, free blocks of 2 MiB 4 to 4"
    assert done[1].before == BUDDY.format(4, 2)
    with pytest.raises(UsageError, match="before_each knows no swappiness: 1"):
        before_each(host, [(SWAPPINESS, "1")])
    host.at("/proc/sys/vm/drop_caches").unlink()
    host.at("/proc/sys/vm/drop_caches").mkdir()
    with pytest.raises(KnobError, match=r"drop_caches was refused: .*directory"):
        before_each(host, [("/proc/sys/vm/drop_caches", "3")])


def test_snapshot(host: KnobHost) -> None:
    host.at("/proc/meminfo").write_text("Unevictable:      40 kB\nMlocked:           8 kB\n")
    with pytest.raises(KnobError, match="tainted cannot be read"):
        snapshot(host)
    host.knob("/proc/sys/kernel/tainted", "512")
    node = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages"
    host.knob(node, "3")
    seen = snapshot(host)
    assert (seen.unevictable, seen.tainted, seen.processes) == (8, 512, ())
    assert seen.pools == {("", 2048, "nr"): 0, ("node0", 2048, "free"): 3}
