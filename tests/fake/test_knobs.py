# SPDX-License-Identifier: GPL-2.0-only
"""Knobs set and given back on a host that is a directory: the scripts are the real ones, the kernel is a fake."""

from __future__ import annotations

import contextlib

import pytest

from harness.errors import UsageError
from harness.host.knobs.before import before_each
from harness.host.knobs.leaks import snapshot
from harness.host.knobs.lending import controller_folder, lent
from harness.host.knobs.place import DEFAULT_PLACE
from harness.host.knobs.setting import KnobError
from harness.host.reach import ReachError
from tests.fake.knob_host import REFUSED, SELECTION, KnobHost
from tests.fake.knobs_bench import (
    MIN_FREE,
    NX,
    POOL,
    RESERVE,
    SWAPPINESS,
    THP,
    WANTED,
    Killed,
    abandon,
    clean,
    gone,
    having,
    host,
    restore,
    said,
)

__all__ = ["host", "said"]


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
