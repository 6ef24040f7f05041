# SPDX-License-Identifier: GPL-2.0-only
"""Watching a guest_memfd in another process: KVM's own where this machine can make one, and a memfd named like it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from probe_bench import ROOT, Bench, Holder, holding, running

from harness.counters.sample import difference
from harness.host.probe import PAGE, WATCHES, ProbeError
from harness.native.build import build_program

SIZE = 4 << 20
PAGES = SIZE // PAGE


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program("probe", tmp_path_factory.mktemp("native"))


@pytest.fixture
def bench(binary: Path) -> Iterator[Bench]:
    with running(binary) as bench:
        yield bench


def watchable(bench: Bench, holder: Holder) -> bool:
    """Watch the holder's file; where that cannot work, check that the probe says why, and return False."""
    if ROOT and holder.made != "nothing":
        watched = bench.probe.watch(holder.pid, SIZE)
        assert "kvm-gmem" in str(Path(f"/proc/{holder.pid}/fd/{watched.fd}").readlink())
        assert (watched.size, watched.cachestat) == (SIZE, True)
        return True
    with pytest.raises(ProbeError, match=f"process {holder.pid}") as caught:
        bench.probe.watch(holder.pid, SIZE)
    assert caught.value.code == ("nogmem" if holder.made == "nothing" else caught.value.code)
    assert bench.probe.unwatch() == 0
    return False


@pytest.mark.parametrize("kind", ["kvm", "memfd"])
class TestContents:
    def test_allocation_and_punch_show_in_every_witness(self, bench: Bench, kind: str) -> None:
        with holding(kind, 2 * SIZE, SIZE) as holder:
            if not watchable(bench, holder):
                return
            probe, pid = bench.probe, holder.pid
            probe.sample(0)
            probe.fallocate(pid, "alloc", 0, SIZE)
            probe.sample(1)
            probe.fallocate(pid, "punch", 512 * PAGE, 100 * PAGE)
            probe.sample(2)
            empty, full, holed = (probe.fetch(slot, {pid: "g0"}) for slot in range(3))
            assert difference(empty, full)["gmem/g0"] == PAGES
            assert difference(full, holed)["gmem/g0"] == -100
            assert full.raw[f"gmem/{pid}"] == f"resident={PAGES} size={SIZE}\n"
            # Events of the whole machine only grow, so others at work here cannot hide ours, as they could in F.
            assert difference(empty, full)["pgalloc"] >= PAGES
            assert difference(full, holed)["pgfree"] >= 100
            assert probe.cachestat(pid, 512 * PAGE, 100 * PAGE) == 0
            assert probe.cachestat(pid, 511 * PAGE, 2 * PAGE) == 1
            assert probe.cachestat(pid, 0, 0) == 0, "an empty range, though the kernel takes 0 for everything"

    def test_the_census_sees_what_cachestat_sees(self, bench: Bench, kind: str) -> None:
        """Page flags tell a guest_memfd from a memfd: shmem is swap-backed and evictable."""
        with holding(kind, SIZE) as holder:
            if not watchable(bench, holder):
                return
            expected = PAGES if holder.made == "kvm" else 0
            seen: list[int] = []
            for _ in range(5):  # others on this machine may make and drop guest_memfds of their own meanwhile
                bench.probe.fallocate(holder.pid, "punch", 0, SIZE)
                bench.probe.settle(rounds=1)
                before = bench.probe.census().gmem
                bench.probe.fallocate(holder.pid, "alloc", 0, SIZE)
                bench.probe.settle(rounds=1)
                seen.append(bench.probe.census().gmem - before)
                if seen[-1] == expected:
                    break
            assert expected in seen

    def test_a_refused_fallocate_names_the_errno(self, bench: Bench, kind: str) -> None:
        with holding(kind, SIZE) as holder:
            if not watchable(bench, holder):
                return
            with pytest.raises(ProbeError, match="fallocate punch of 0 bytes") as caught:
                bench.probe.fallocate(holder.pid, "punch", 0, 0)
            assert caught.value.code == "EINVAL"
            with pytest.raises(ProbeError, match="mode= must be"):
                bench.probe.fallocate(holder.pid, "grow", 0, PAGE)

    def test_unwatch_lets_the_memory_go(self, bench: Bench, kind: str) -> None:
        """The probe's descriptor keeps the file: its pages come back at unwatch, not when the process ends."""
        with holding(kind, SIZE) as holder:
            if not watchable(bench, holder):
                return
            bench.probe.fallocate(holder.pid, "alloc", 0, SIZE)
        holder.process.wait(10)
        assert bench.probe.cachestat(holder.pid, 0, SIZE) == PAGES
        assert bench.probe.unwatch(holder.pid) == 1
        with pytest.raises(ProbeError) as caught:
            bench.probe.cachestat(holder.pid, 0, SIZE)
        assert caught.value.code == "unwatched"
        bench.probe.sample(0)
        assert f"gmem/{holder.pid}" not in bench.probe.fetch(0).raw
        links = [str(link.readlink()) for link in Path(f"/proc/{bench.process.pid}/fd").iterdir()]
        assert not [link for link in links if "gmem" in link]

    def test_watching_again_replaces(self, bench: Bench, kind: str) -> None:
        with holding(kind, SIZE) as holder:
            if watchable(bench, holder):
                bench.probe.watch(holder.pid, SIZE)
                assert bench.probe.unwatch() == 1


def affinity(pid: int) -> set[str]:
    """The CPUs that each thread of a process may use, as the kernel lists them; one text if all threads agree."""
    status = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return {text.partition("Cpus_allowed_list:")[2].split()[0] for text in status}


class TestPlacement:
    def test_every_thread_goes_there(self, bench: Bench) -> None:
        with holding("memfd", SIZE, threads=3) as holder:
            if not watchable(bench, holder):
                return
            here = affinity(bench.process.pid)
            for cpu in sorted(os.sched_getaffinity(0))[:2]:
                assert bench.probe.place(holder.pid, cpu) == 4
                assert affinity(holder.pid) == {str(cpu)}
                bench.probe.fallocate(holder.pid, "alloc", 0, SIZE)
                assert bench.probe.cachestat(holder.pid, 0, SIZE) == PAGES
                bench.probe.fallocate(holder.pid, "punch", 0, SIZE)
            assert affinity(bench.process.pid) == here, "the probe itself runs anywhere again"
            bench.probe.place(holder.pid, None)
            assert affinity(holder.pid) == here

    def test_the_probe_itself(self, bench: Bench) -> None:
        own = bench.probe.hello().pid
        here = affinity(own)
        cpu = max(os.sched_getaffinity(0))
        assert bench.probe.place(own, cpu) == 1
        if ROOT:
            bench.probe.settle(rounds=1)  # which visits every CPU and comes back
        assert affinity(own) == {str(cpu)}
        assert bench.probe.place(own, None) == 1
        assert affinity(own) == here

    def test_a_cpu_that_is_not_there(self, bench: Bench) -> None:
        with holding("memfd", SIZE) as holder:
            if not watchable(bench, holder):
                return
            before = affinity(holder.pid)
            for cpu in (1023, 1024, 1 << 40):
                with pytest.raises(ProbeError, match="CPU") as caught:
                    bench.probe.place(holder.pid, cpu)
                assert caught.value.code == "EINVAL"
            assert affinity(holder.pid) == before

    def test_a_process_that_ended(self, bench: Bench) -> None:
        with holding("memfd", SIZE) as holder:
            if not watchable(bench, holder):
                return
        holder.process.wait(10)
        with pytest.raises(ProbeError) as caught:
            bench.probe.place(holder.pid, 0)
        assert caught.value.code == "ESRCH"

    def test_a_process_that_nobody_watches(self, bench: Bench) -> None:
        with holding("none") as holder, pytest.raises(ProbeError) as caught:
            bench.probe.place(holder.pid, 0)
        assert caught.value.code == "unwatched"


class TestRefer:
    def test_a_kernel_without_the_hook_says_so(self, bench: Bench) -> None:
        """The machine that runs the tests has none, whatever it is."""
        assert not Path("/dev/gmem-hold").exists()
        with holding("memfd", SIZE) as holder:
            if not watchable(bench, holder):
                return
            assert bench.probe.watch(holder.pid, SIZE).hook is False
            for mode in ("take", "drop"):
                with pytest.raises(ProbeError, match="the kernel has no /dev/gmem-hold") as caught:
                    bench.probe.refer(holder.pid, mode, 0, PAGE)
                assert caught.value.code == "nohook"

    @pytest.mark.parametrize("mode", ["", "grab"])
    def test_a_mode_that_is_none(self, bench: Bench, mode: str) -> None:
        with holding("memfd", SIZE) as holder:
            if not watchable(bench, holder):
                return
            with pytest.raises(ProbeError, match="mode= must be take or drop") as caught:
                bench.probe.refer(holder.pid, mode, 0, PAGE)
            assert caught.value.code == "usage"

    def test_a_process_that_nobody_watches(self, bench: Bench) -> None:
        with holding("none") as holder, pytest.raises(ProbeError) as caught:
            bench.probe.refer(holder.pid, "take", 0, PAGE)
        assert caught.value.code == "unwatched"


class TestRefusals:
    def test_a_process_without_guest_memfd(self, bench: Bench) -> None:
        with holding("none") as holder, pytest.raises(ProbeError, match="has 0 guest_memfds") as caught:
            bench.probe.watch(holder.pid, SIZE)
        assert caught.value.code == "nogmem"

    def test_a_guest_memfd_of_another_size(self, bench: Bench) -> None:
        with (
            holding("memfd", SIZE) as holder,
            pytest.raises(ProbeError, match=f"none of {SIZE - PAGE} bytes") as caught,
        ):
            bench.probe.watch(holder.pid, SIZE - PAGE)
        assert caught.value.code == "nogmem"

    def test_two_of_the_wanted_size_are_not_guessed_at(self, bench: Bench) -> None:
        with holding("memfd", SIZE, SIZE) as holder, pytest.raises(ProbeError) as caught:
            bench.probe.watch(holder.pid, SIZE)
        assert caught.value.code == ("ambiguous" if ROOT else "nogmem")

    def test_a_process_that_is_gone(self, bench: Bench) -> None:
        with holding("none") as holder:
            pass
        holder.process.wait(10)
        with pytest.raises(ProbeError) as caught:
            bench.probe.watch(holder.pid, SIZE)
        assert caught.value.code == "ESRCH"

    def test_too_many(self, bench: Bench) -> None:
        if not ROOT:  # descriptors of other processes are then out of reach, see TestContents
            assert bench.probe.unwatch() == 0
            return
        holders = [holding("memfd", SIZE) for _ in range(WATCHES + 1)]
        pids = [holder.__enter__().pid for holder in holders]
        try:
            for pid in pids[:-1]:
                bench.probe.watch(pid, SIZE)
            with pytest.raises(ProbeError, match="16 processes are watched already") as caught:
                bench.probe.watch(pids[-1], SIZE)
            assert caught.value.code == "full"
            assert bench.probe.unwatch() == WATCHES
        finally:
            for holder in holders:
                holder.__exit__(None, None, None)
