# SPDX-License-Identifier: GPL-2.0-only
"""The real probe on this machine: it reads without moving anything, survives bad peers, and its loss is noticed."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probe_bench import ROOT, Bench, running

from harness.host.frames import HEADER, MAGIC, ChannelClosed, ChannelTimeout, FrameChannel, encode_frame, scan_frames
from harness.host.probe import SLOTS, ProbeClient, ProbeError
from harness.native.build import build_program


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program("probe", tmp_path_factory.mktemp("native"))


@pytest.fixture
def bench(binary: Path) -> Iterator[Bench]:
    with running(binary) as bench:
        yield bench


@pytest.fixture(scope="module")
def shared(binary: Path) -> Iterator[Bench]:
    """One probe for many examples: what an example leaves behind must not hurt the next."""
    with running(binary) as bench:
        yield bench


def raw_reply(bench: Bench, data: bytes, wanted: int, seconds: float = 10) -> bytes:
    """Write ``data`` to the probe and return the whole bytes up to the reply with id ``wanted``, its payload last."""
    assert bench.process.stdin is not None
    assert bench.process.stdout is not None
    bench.process.stdin.write(data)
    bench.process.stdin.flush()
    got, end = b"", time.monotonic() + seconds
    while (payload := scan_frames(got, wanted).payload) is None:
        assert time.monotonic() < end, f"no reply, but {got!r}"
        try:
            got += os.read(bench.process.stdout.fileno(), 1 << 16)
        except BlockingIOError:
            time.sleep(0.005)
    return payload


class TestSamples:
    def test_a_sample_holds_the_machines_counters(self, bench: Bench) -> None:
        bench.probe.sample(0)
        sample = bench.probe.fetch(0)
        required = {"nr_file_pages", "nr_unevictable", "pgfree", "pgalloc", "F", "pcp", "free_order/0"}
        assert required <= sample.values.keys()
        total_pages = sample.values["meminfo/MemTotal"] // 4
        assert 0 < sample.values["pcp"] <= sample.values["F"] < total_pages
        assert ("pagetypeinfo" in sample.raw) == ROOT
        assert ("thp/enabled" in sample.raw) == Path("/sys/kernel/mm/transparent_hugepage/enabled").exists()
        sizes = {path.name for path in Path("/sys/kernel/mm/hugepages").glob("hugepages-*")}
        assert {f"hugepages-{name.split('/')[1]}" for name in sample.values if name.startswith("hugetlb/")} == sizes

    def test_the_parts_of_a_steady_sample_agree(self, bench: Bench) -> None:
        """vmstat and zoneinfo print the free pages, buddyinfo the blocks they are in: one instant, one number.

        Without stat_refresh, that is without root, each CPU's share of a zone's counter may lag by 125 pages; with it
        they agree as soon as nothing ran between the refresh and the sample, which a busy machine grants now and then.
        """
        allowed = 0 if ROOT else 125 * (os.cpu_count() or 1) * 8
        drifts: list[int] = []
        for _ in range(300):
            if ROOT:
                bench.probe.settle(rounds=1)
            if not bench.probe.sample(0).steady:
                continue
            values = bench.probe.fetch(0).values
            blocks = sum(count << int(name.split("/")[1]) for name, count in values.items() if "free_order/" in name)
            drifts.append(max(abs(blocks - values["nr_free_pages"]), abs(blocks + values["pcp"] - values["F"])))
            if drifts[-1] <= allowed:
                break
        assert drifts, "this machine did not rest for a fraction of a millisecond in 300 tries"
        assert min(drifts) <= allowed

    def test_times_are_of_the_monotonic_clock_and_ordered(self, bench: Bench) -> None:
        before = time.monotonic_ns()
        first, second = bench.probe.sample(0), bench.probe.sample(1)
        assert before <= first.start_ns < first.end_ns <= second.start_ns < second.end_ns <= time.monotonic_ns()
        assert bench.probe.fetch(1).time_ns == second.start_ns

    def test_a_hundred_samples_fault_nothing_in(self, bench: Bench) -> None:
        """The point of the probe. A first touch of a page anywhere in it would show as a fault and as memory."""
        locked = bench.probe.hello().locked
        assert locked or not ROOT
        assert not locked or bench.status_kb("VmLck") > 8 << 10, "16 slots of 512 KiB at least"
        faults, resident = bench.minor_faults(), bench.status_kb("VmRSS")
        for number in range(100):
            if ROOT:
                bench.probe.settle(rounds=1)
            bench.probe.sample(number % SLOTS)
        for slot in range(SLOTS):
            bench.probe.fetch(slot)
        if ROOT:
            bench.probe.census()
            bench.probe.frames()
        bench.probe.maps(bench.process.pid)
        assert (bench.minor_faults(), bench.status_kb("VmRSS")) == (faults, resident)

    def test_slots_are_independent(self, bench: Bench) -> None:
        taken = [bench.probe.sample(slot) for slot in range(SLOTS)]
        assert [bench.probe.fetch(slot).time_ns for slot in range(SLOTS)] == [each.start_ns for each in taken]

    def test_an_unused_slot_is_refused(self, bench: Bench) -> None:
        with pytest.raises(ProbeError, match="no complete sample") as caught:
            bench.probe.fetch(3)
        assert caught.value.code == "empty"

    @pytest.mark.parametrize(
        ("line", "code"),
        [
            (f"sample slot={SLOTS}", "usage"),
            ("sample", "usage"),
            ("sample slot=-1", "usage"),
            ("sample slot=0x", "usage"),
            ("sample slot=99999999999999999999999", "usage"),
            ("samples slot=1", "unknown"),
            ("", "unknown"),
            ("cachestat pid=1 off=0 len=0", "unwatched"),
            ("read path=/etc/passwd max=10", "usage"),
            ("read path=/proc/../etc/passwd max=10", "usage"),
            ("read path=/proc/vmstat max=10", "truncated"),
            ("read path=/proc/nowhere max=10", "ENOENT"),
            ("write path=/etc/x value=1", "usage"),
            ("write path=/proc/version", "usage"),
            ("anon pid=1 addr=1 len=4096", "usage"),
            ("maps pid=0", "usage"),
            ("unwatch", "usage"),
        ],
    )
    def test_a_wrong_request_is_refused_with_its_reason(self, shared: Bench, line: str, code: str) -> None:
        with pytest.raises(ProbeError) as caught:
            shared.probe._ask(line, 10)
        assert caught.value.code == code
        assert shared.probe.hello().version == 1

    @pytest.mark.parametrize("line", ["hello nonce=1", "sample slot=1", "settle max=5"])
    def test_replies_around_a_step_leave_in_one_write(self, shared: Bench, line: str) -> None:
        assert HEADER.size + len(raw_reply(shared, encode_frame(1, line.encode()), 1)) < 2048


def writes(bench: Bench) -> tuple[int, int]:
    """Calls of write() that the probe has made, and what they wrote, in bytes."""
    lines = dict(line.split(": ") for line in Path(f"/proc/{bench.process.pid}/io").read_text().splitlines())
    return int(lines["syscw"]), int(lines["wchar"])


class TestOtherWitnesses:
    @pytest.mark.parametrize(("size", "count"), [(17, 2), (32, 24), (96, 64), (2048, 24)])
    def test_an_answer_leaves_in_writes_of_its_size(self, bench: Bench, size: int, count: int) -> None:
        calls, written = writes(bench)
        assert bench.probe.answer(size, count) == size * count - HEADER.size - len("ok\n")
        assert writes(bench) == (calls + count, written + size * count)
        with pytest.raises(ProbeError, match="size= is 17 to 2048 bytes"):
            bench.probe.answer(2049, 24)

    def test_a_stock_is_held_and_given_back(self, bench: Bench) -> None:
        bench.probe.hello()
        opened = Path(f"/proc/{bench.process.pid}/fd")
        before = sorted(opened.iterdir())
        for _ in range(2):
            assert bench.probe.stock(128) == 128
        assert sorted(opened.iterdir()) == before
        with pytest.raises(ProbeError, match="count= is 1 to 256"):
            bench.probe.stock(257)

    def test_settle_brings_the_lists_to_rest_or_says_why_not(self, bench: Bench) -> None:
        if not ROOT:
            with pytest.raises(ProbeError, match="needs root"):
                bench.probe.settle()
            return
        settled = bench.probe.settle(rounds=200)
        assert 1 <= settled.rounds <= 200
        assert bench.probe.settle(rounds=1).rounds == 1

    def test_a_refused_pcp_cap_changes_nothing(self, bench: Bench) -> None:
        path = "/proc/sys/vm/percpu_pagelist_high_fraction"
        before = bench.probe.read(path)
        with pytest.raises(ProbeError) as caught:
            bench.probe.pcpcap(3)  # the kernel takes 0 and 8 or more
        assert caught.value.code == ("EINVAL" if ROOT else "EBADF")
        assert bench.probe.read(path) == before
        if ROOT:
            assert bench.probe.pcpcap(int(before)) == int(before)

    def test_census_counts_the_machine(self, bench: Bench) -> None:
        if not ROOT:
            with pytest.raises(ProbeError):
                bench.probe.census()
            return
        census = bench.probe.census()
        assert census.gmem == sum(folios << order for order, folios in census.folios.items())
        bench.probe.sample(0)
        assert census.scanned >= bench.probe.fetch(0).values["meminfo/MemTotal"] // 4

    def test_frames_are_those_of_the_census(self, bench: Bench) -> None:
        if not ROOT:
            with pytest.raises(ProbeError):
                bench.probe.frames()
            return
        for _ in range(20):  # other tests make guest_memfds at the same time; then the machine is not at rest
            census, runs, again = bench.probe.census(), bench.probe.frames(), bench.probe.census()
            if (census.gmem, census.folios) == (again.gmem, again.folios):
                break
        folios = {order: sum(run.pages >> order for run in runs if run.order == order) for order in census.folios}
        assert (sum(run.pages for run in runs), folios) == (census.gmem, dict(census.folios))

    def test_anon_counts_present_pages(self, bench: Bench) -> None:
        start, end = bench.probe.maps(bench.process.pid).split(" ", 1)[0].split("-")
        address, length = int(start, 16), int(end, 16) - int(start, 16)
        present = bench.probe.anon_present(bench.process.pid, address, length).present
        assert present == length // 4096, "the probe's memory is locked, so all of it is present"
        assert bench.probe.anon_present(bench.process.pid, 0, 4096).present == 0

    def test_write_reads_back_what_the_kernel_made_of_it(self, bench: Bench) -> None:
        written = bench.probe.write(f"/proc/{bench.process.pid}/oom_score_adj", "7")
        assert (written.was, written.now) == (Path("/proc/self/oom_score_adj").read_text().strip(), "7")

    def test_values_with_spaces_come_back_whole(self, binary: Path, tmp_path: Path) -> None:
        odd = tmp_path / "a b% c"  # becomes the process's name
        shutil.copy(binary, odd)
        with running(odd) as bench:
            written = bench.probe.write("/proc/self/comm", "probe")
        assert (written.was, written.now) == ("a b% c", "probe")

    def test_a_value_of_two_words_is_the_callers_mistake(self, bench: Bench) -> None:
        with pytest.raises(ValueError, match="one word"):
            bench.probe.write("/proc/self/comm", "a b")


class TestBadPeers:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(junk=st.binary(max_size=200).filter(lambda data: MAGIC not in data), nonce=st.integers(0, (1 << 64) - 1))
    def test_garbage_before_a_request_is_skipped(self, shared: Bench, junk: bytes, nonce: int) -> None:
        reply = raw_reply(shared, junk + encode_frame(1000, f"hello nonce={nonce}".encode()), 1000)
        assert reply.startswith(f"ok nonce={nonce} ".encode())

    def test_a_changed_byte_is_answered_with_badframe(self, shared: Bench) -> None:
        frame = bytearray(encode_frame(5, b"hello nonce=1"))
        frame[-1] ^= 1
        assert raw_reply(shared, bytes(frame), 5).startswith(b"err code=badframe text=wrong checksum")
        assert shared.probe.hello().version == 1

    def test_a_frame_too_large_is_answered_with_badframe(self, shared: Bench) -> None:
        frame = HEADER.pack(MAGIC, 6, 0xFFFFFFFF, 0)
        assert raw_reply(shared, frame, 6).startswith(b"err code=badframe text=too large")
        assert shared.probe.hello().version == 1

    def test_a_line_too_long_is_answered_with_badframe(self, shared: Bench) -> None:
        frame = encode_frame(8, b"hello nonce=" + b"1" * 5000)
        assert raw_reply(shared, frame, 8).startswith(b"err code=badframe text=line too long")
        assert shared.probe.hello().version == 1

    def test_a_frame_torn_by_a_peer_that_went_away_does_not_swallow_the_next(self, shared: Bench) -> None:
        torn = encode_frame(9, b"hello nonce=1" + b"\n" + bytes(30000))[:1000]
        reply = raw_reply(shared, torn + encode_frame(10, b"hello nonce=77"), 10)
        assert reply.startswith(b"ok nonce=77 ")


class TestLoss:
    def test_a_killed_probe_is_noticed_at_once(self, bench: Bench) -> None:
        bench.probe.hello()
        bench.process.kill()
        begin = time.monotonic()
        with pytest.raises(ProbeError, match="is gone") as caught:
            bench.probe.sample(0, timeout=60)
        assert isinstance(caught.value.__cause__, ChannelClosed)
        assert time.monotonic() - begin < 10

    def test_a_probe_that_hangs_ends_at_the_deadline_and_may_come_back(self, bench: Bench) -> None:
        bench.process.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(ProbeError, match="did not answer") as caught:
            bench.probe.hello(timeout=0.3)
        assert isinstance(caught.value.__cause__, ChannelTimeout)
        assert 0.3 <= time.monotonic() - begin < 5
        bench.process.send_signal(signal.SIGCONT)
        assert bench.probe.hello().pid == bench.process.pid, "the late reply must not be taken for this one"

    def test_the_probe_ends_with_its_input(self, bench: Bench) -> None:
        bench.probe.hello()
        bench.channel.close()
        assert bench.process.stdin is not None
        bench.process.stdin.close()
        assert bench.process.wait(10) == 0


class TestDevice:
    def test_serves_on_a_device(self, binary: Path) -> None:
        """A pseudo-terminal in raw mode, as the nearest thing to a virtio-serial port."""
        master, slave = pty.openpty()
        tty.setraw(slave)
        process = subprocess.Popen([binary, "--device", os.ttyname(slave)])
        try:
            with FrameChannel(master, master) as channel:
                assert ProbeClient(channel).hello().pid == process.pid
        finally:
            process.kill()
            process.wait(10)
            os.close(slave)

    def test_a_device_without_a_peer_is_waited_for(self, binary: Path, tmp_path: Path) -> None:
        """A virtio-serial port without a peer is always readable and reads 0 bytes; so does a file at its end."""
        device = tmp_path / "port"
        device.touch()
        process = subprocess.Popen([binary, "--device", device])
        try:
            time.sleep(0.5)
            assert process.poll() is None, "0 bytes are not the end of a device"
            ticks = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
            assert ticks / os.sysconf("SC_CLK_TCK") < 0.3, "it must sleep, not spin"
            request = encode_frame(1, b"hello nonce=5")
            device.write_bytes(request)
            end = time.monotonic() + 10
            while scan_frames(device.read_bytes()[len(request) :], 1).payload is None:
                assert time.monotonic() < end
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait(10)

    def test_a_device_that_cannot_be_opened_is_named(self, binary: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        done = subprocess.run(
            [binary, "--device", tmp_path / "file" / "port"], capture_output=True, timeout=30, text=True
        )
        assert done.returncode == 1
        assert "file/port: Not a directory" in done.stderr

    def test_a_wrong_command_line_is_explained(self, binary: Path) -> None:
        done = subprocess.run([binary, "--help"], capture_output=True, timeout=30, text=True)
        assert (done.returncode, done.stderr) == (2, "usage: gmem-probe [--device PATH]\n")
