# SPDX-License-Identifier: GPL-2.0-only
"""The real gmem-control on this machine, over pipes: commands, processes, files, and requests that make no sense."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.guest.agent import GuestAgent, words_blob
from harness.host.emulated.control import Control
from harness.host.frames import ChannelClosed, FrameChannel, RemoteError
from harness.native.build import build_program

CHILDREN = 64
RUN_OUTPUT = 256 << 10


class Bench:
    """A running gmem-control and the way to reach it."""

    def __init__(self, binary: Path) -> None:
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.channel = FrameChannel(
            os.dup(self.process.stdout.fileno()), os.dup(self.process.stdin.fileno()), peer="control"
        )
        self.control = Control("this machine", self.channel)
        self.spawned: list[int] = []

    def spawn(self, *words: str, log: Path, **environment: str) -> int:
        pid = self.control.spawn(words, environment, str(log))
        self.spawned.append(pid)
        return pid

    def wait(self, pid: int) -> str:
        """The state in which a spawned process ends."""
        end = time.monotonic() + 10
        while (state := self.control.status(pid)) == "running":
            assert time.monotonic() < end, f"process {pid} does not end"
            time.sleep(0.005)
        return state

    def refused(self, line: str, blob: bytes = b"") -> str:
        with pytest.raises(RemoteError) as caught:
            self.channel.request(line, blob, timeout=5)
        return caught.value.code

    def close(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        for pid in self.spawned:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program("control", tmp_path_factory.mktemp("native"))


@pytest.fixture
def bench(binary: Path) -> Iterator[Bench]:
    bench = Bench(binary)
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def shared(binary: Path) -> Iterator[Bench]:
    """One program for all bad requests: none may hurt the next."""
    bench = Bench(binary)
    yield bench
    bench.close()


LATE = """
#include <unistd.h>
int __real_prctl(int option, long signal);
int __wrap_prctl(int option, long signal)
{
	usleep(300000);
	return __real_prctl(option, signal);
}
"""
"""A prctl() that comes late, as on a machine with much else to do."""


def gone(pid: int, seconds: float = 5) -> bool:
    """Whether a process is gone, or dead and only not collected by whoever inherited it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.005)
    return False


class TestRun:
    def test_output_of_both_streams_and_status(self, bench: Bench) -> None:
        done = bench.control.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
        assert (done.code, done.output) == (7, "out\nerr\n")

    def test_standard_input_is_empty(self, bench: Bench) -> None:
        assert bench.control.run(["cat"], timeout=5).code == 0

    def test_a_signal_counts_as_in_a_shell(self, bench: Bench) -> None:
        assert bench.control.run(["sh", "-c", "kill -TERM $$"]).code == 128 + signal.SIGTERM

    def test_a_command_that_does_not_exist(self, bench: Bench) -> None:
        done = bench.control.run(["gmem-no-such-command"])
        assert done.code == 127
        assert done.output == "gmem-no-such-command: No such file or directory\n"

    @pytest.mark.parametrize(
        "words", [["", "a"], ["a", "", "b"], ["a", ""], ["a=b"], ["x" * 9000], ["line\nbreak", "ü"]]
    )
    def test_arguments_arrive_as_they_are(self, bench: Bench, words: list[str]) -> None:
        done = bench.control.run(["printf", "<%s>", *words])
        assert done.output == "".join(f"<{word}>" for word in words)

    def test_no_descriptor_is_left_to_the_command(self, bench: Bench) -> None:
        done = bench.control.run(["sh", "-c", "ls /proc/$$/fd"])
        assert done.output.split() == ["0", "1", "2"]

    def test_output_is_bounded_and_still_read(self, bench: Bench) -> None:
        done = bench.control.run(["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x; exit 3"])
        assert done.code == 3
        assert done.output == "x" * RUN_OUTPUT

    def test_no_output_is_lost_at_the_end(self, bench: Bench) -> None:
        for size in (1, 4096, 65536, 65537, RUN_OUTPUT):
            assert len(bench.control.run(["head", "-c", str(size), "/dev/zero"]).output) == size

    @pytest.mark.parametrize("output", ["", ">&- 2>&-"])
    def test_the_deadline_kills_the_whole_group(self, bench: Bench, tmp_path: Path, output: str) -> None:
        pids = tmp_path / "pids"
        script = f"exec {output}; sleep 60 & echo $! > {pids}; sleep 60 & echo $! $$ >> {pids}; wait"
        began = time.monotonic()
        with pytest.raises(RemoteError, match=r"sh did not end within 300 ms \(timeout\)"):
            bench.control.run(["sh", "-c", script], timeout=0.3)
        assert time.monotonic() - began < 5
        assert len(pids.read_text().split()) == 3
        assert all(gone(int(pid)) for pid in pids.read_text().split())
        assert bench.control.run(["true"]).code == 0

    def test_a_deadline_of_nothing(self, bench: Bench) -> None:
        """The command may be killed before it has a session of its own."""
        for _ in range(20):
            began = time.monotonic()
            assert bench.refused("run ms=0", words_blob(["sleep", "20"])) == "timeout"
            assert time.monotonic() - began < 5

    def test_a_process_in_the_background_is_not_waited_for(self, bench: Bench) -> None:
        began = time.monotonic()
        done = bench.control.run(["sh", "-c", "sleep 5 & echo started"], timeout=8)
        assert (done.code, done.output) == (0, "started\n")
        assert time.monotonic() - began < 3

    def test_a_background_flood_does_not_hold_the_command(self, bench: Bench) -> None:
        began = time.monotonic()
        script = "yes & pid=$!; sleep 0.2; (sleep 1; kill $pid) >&- 2>&- & exit 4"
        done = bench.control.run(["sh", "-c", script], timeout=8)
        assert done.code == 4
        assert time.monotonic() - began < 3

    def test_check_gives_the_output_or_the_last_line(self, bench: Bench) -> None:
        assert bench.control.check(["echo", "fine"]) == "fine\n"
        with pytest.raises(Exception, match=r"^this machine: sh -c .* ended with status 2: second$"):
            bench.control.check(["sh", "-c", "echo first; echo second >&2; exit 2"])


class TestProcesses:
    def test_life_of_a_process(self, bench: Bench, tmp_path: Path) -> None:
        pid = bench.spawn("sh", "-c", "echo $GMEM_WORD; exec sleep 60", log=tmp_path / "log", GMEM_WORD="a b=c")
        assert bench.control.status(pid) == "running"
        end = time.monotonic() + 5
        while not (tmp_path / "log").read_text() and time.monotonic() < end:
            time.sleep(0.005)
        assert (tmp_path / "log").read_text() == "a b=c\n"
        bench.control.signal(pid, signal.SIGKILL)
        assert bench.wait(pid) == "killed by signal 9"

    def test_exit_status(self, bench: Bench, tmp_path: Path) -> None:
        assert bench.wait(bench.spawn("sh", "-c", "exit 42", log=tmp_path / "log")) == "exited with status 42"

    def test_a_program_that_does_not_exist_says_so_in_its_log(self, bench: Bench, tmp_path: Path) -> None:
        pid = bench.spawn("/nowhere/qemu", log=tmp_path / "log")
        assert bench.wait(pid) == "exited with status 127"
        assert (tmp_path / "log").read_text() == "/nowhere/qemu: No such file or directory\n"

    def test_the_log_is_appended_to(self, bench: Bench, tmp_path: Path) -> None:
        for word in ("one", "two"):
            bench.wait(bench.spawn("echo", word, log=tmp_path / "log"))
        assert (tmp_path / "log").read_text() == "one\ntwo\n"

    def test_a_log_that_cannot_be_opened(self, bench: Bench) -> None:
        with pytest.raises(RemoteError, match=r"No such file or directory \(spawn\)"):
            bench.spawn("true", log=Path("/nowhere/log"))

    def test_a_full_table_is_an_error_and_ended_children_make_room(self, bench: Bench, tmp_path: Path) -> None:
        pids = [bench.spawn("sleep", "60", log=tmp_path / "log") for _ in range(CHILDREN)]
        with pytest.raises(RemoteError, match=r"too many children \(spawn\)"):
            bench.spawn("sleep", "60", log=tmp_path / "log")
        bench.control.signal(pids[7], signal.SIGTERM)
        assert bench.wait(pids[7]) == "killed by signal 15"
        new = bench.spawn("sleep", "60", log=tmp_path / "log")
        assert bench.control.status(new) == "running"
        assert all(bench.control.status(pid) == "running" for pid in pids if pid != pids[7])
        assert bench.refused(f"status pid={pids[7]}") == "pid"

    def test_many_short_lives(self, bench: Bench, tmp_path: Path) -> None:
        for _ in range(2 * CHILDREN):
            pid = bench.spawn("true", log=tmp_path / "log")
            assert bench.wait(pid) == "exited with status 0"

    def test_a_run_between_does_not_lose_a_status(self, bench: Bench, tmp_path: Path) -> None:
        pid = bench.spawn("sh", "-c", "exit 5", log=tmp_path / "log")
        assert bench.control.run(["sleep", "0.2"]).code == 0
        assert bench.control.status(pid) == "exited with status 5"


class TestFiles:
    @pytest.mark.parametrize("size", [0, 1, 4096, 300_000])
    def test_there_and_back(self, bench: Bench, tmp_path: Path, size: int) -> None:
        data = os.urandom(size)
        bench.control.put(str(tmp_path / "file"), data, 0o640)
        assert (tmp_path / "file").read_bytes() == data
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
        assert bench.control.get(str(tmp_path / "file"), limit=1 << 20) == data
        assert bench.control.get(str(tmp_path / "file"), limit=1000) == data[:1000]

    def test_a_file_is_replaced_as_a_whole(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("old")
        with (tmp_path / "file").open() as reader:
            bench.control.put(str(tmp_path / "file"), b"new")
            assert reader.read() == "old"
        assert (tmp_path / "file").read_text() == "new"

    def test_nothing_is_left_of_a_file_that_cannot_be_put(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(RemoteError, match=r"folder: .*\(put\)"):
            bench.control.put(str(tmp_path / "folder"), b"data")
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    def test_files_that_cannot_be_read(self, bench: Bench, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        for path, why in (("absent", "No such file"), ("", "Is a directory"), ("fifo", "Illegal seek")):
            with pytest.raises(RemoteError, match=rf"{why}.*\(get\)"):
                bench.control.get(str(tmp_path / path))

    def test_a_file_of_proc_comes_whole(self, bench: Bench) -> None:
        """The kernel gives such a file in pieces of a page."""
        got = bench.control.get("/proc/kallsyms", limit=100_000)
        assert len(got) == 100_000

    def test_an_offset(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"0123456789")
        reply = bench.channel.request(f"get path={tmp_path}/file off=7 max=100", timeout=5)
        assert (reply.blob, reply.fields["bytes"]) == (b"789", "3")
        assert bench.channel.request(f"get path={tmp_path}/file off=11 max=100", timeout=5).blob == b""


class TestBadRequests:
    @pytest.mark.parametrize(
        ("line", "blob", "code"),
        [
            ("", b"", "verb"),
            ("dance", b"", "verb"),
            ("runs ms=1", b"true\0", "verb"),
            ("run", b"true\0", "usage"),
            ("run ms=-1", b"true\0", "usage"),
            ("run ms=99999999999999999999", b"true\0", "usage"),
            ("run ms=9223372036854775807", b"true\0", "usage"),
            ("run ms=100", b"", "usage"),
            ("run ms=100", b"true", "usage"),
            ("run ms=100", b"\0", "usage"),
            ("run ms=100", b"A=1\0\0", "usage"),
            ("run ms=100", b"no-assignment\0\0true\0", "usage"),
            ("run ms=100", b"true\0" * 300, "usage"),
            ("run ms=100", b"A=1\0" * 300 + b"\0true\0", "usage"),
            ("spawn", b"true\0", "usage"),
            ("spawn log=/" + "x" * 300, b"true\0", "usage"),
            ("spawn log=/dev/null", b"", "usage"),
            ("status", b"", "pid"),
            ("status pid=1", b"", "pid"),
            ("status pid=0", b"", "pid"),
            ("status pid=x", b"", "pid"),
            ("signal pid=1 sig=0", b"", "usage"),
            ("signal pid=0 sig=0", b"", "usage"),
            ("signal pid=4294967295 sig=0", b"", "usage"),
            ("signal pid=4294967297 sig=0", b"", "usage"),
            ("signal pid=4194303", b"", "usage"),
            ("signal pid=4194303 sig=4294967296", b"", "usage"),
            ("put path=/nowhere/file mode=644", b"x", "put"),
            ("put mode=644", b"x", "usage"),
            ("put path=TMP/new mode=rw", b"x", "usage"),
            ("put path=TMP/new mode=648", b"x", "usage"),
            ("put path=TMP/new mode=77777", b"x", "usage"),
            ("get path=/etc/passwd", b"", "usage"),
            ("get path=/etc/passwd off=18446744073709551615 max=1", b"", "get"),
            ("cpuid", b"", "usage"),
            ("gmem", b"", "usage"),
            ("gmem info", b"", "module"),
        ],
    )
    def test_refused_with_a_word(self, shared: Bench, tmp_path: Path, line: str, blob: bytes, code: str) -> None:
        assert shared.refused(line.replace("TMP", str(tmp_path)), blob) == code
        assert list(tmp_path.iterdir()) == []
        shared.control.hello(4)

    def test_a_nul_in_a_word_is_refused_before_it_is_sent(self) -> None:
        with pytest.raises(ValueError, match="NUL"):
            words_blob(["echo", "a\0b"])


class TestEnd:
    def test_hello_and_cpuid(self, bench: Bench) -> None:
        bench.control.hello(77)
        assert set(bench.control.cpuid(0)) == {"eax", "ebx", "ecx", "edx"}
        vendor = bench.control.cpuid(0)
        name = b"".join(vendor[part].to_bytes(4, "little") for part in ("ebx", "edx", "ecx"))
        assert name.isascii()
        assert name.decode() in Path("/proc/cpuinfo").read_text()

    def test_without_the_module_the_agent_says_so(self, bench: Bench) -> None:
        with pytest.raises(RemoteError, match=r"/dev/gmem: No such file or directory \(module\); request: gmem info"):
            GuestAgent("g0", bench.channel).info()

    def test_killed_in_the_middle_of_a_command(self, bench: Bench) -> None:
        waiting = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {bench.process.pid}"])
        began = time.monotonic()
        with pytest.raises(ChannelClosed, match=r"^control is gone"):
            bench.control.run(["sleep", "3"], timeout=20)
        assert time.monotonic() - began < 5
        waiting.wait()

    def test_it_ends_with_its_channel_and_its_children(self, bench: Bench, tmp_path: Path) -> None:
        pid = bench.spawn("sleep", "60", log=tmp_path / "log")
        bench.channel.close()
        assert bench.process.stdin is not None
        bench.process.stdin.close()
        assert bench.process.wait(5) == 0
        assert gone(pid)

    def test_a_child_that_it_did_not_outlive_is_not_started(self, tmp_path: Path) -> None:
        """Killed between the fork and the child's wish to die with its parent, which nobody hears then."""
        (tmp_path / "late.c").write_text(LATE)
        compiler = tmp_path / "cc"
        compiler.write_text(f'#!/bin/sh\nexec gcc -Wl,--wrap=prctl "$@" {tmp_path}/late.c\n')
        compiler.chmod(0o755)
        bench = Bench(build_program("control", tmp_path, str(compiler)))
        pid = bench.spawn("sleep", "60", log=tmp_path / "log")
        try:
            bench.process.kill()
            bench.process.wait(5)
            assert gone(pid)
        finally:
            bench.close()

    @pytest.mark.parametrize("arguments", [["--device"], ["--help"], ["--device", "/nowhere", "more"]])
    def test_a_wrong_command_line(self, binary: Path, arguments: list[str]) -> None:
        done = subprocess.run([binary, *arguments], capture_output=True, timeout=20, check=False)
        assert (done.returncode, done.stderr) == (2, b"usage: gmem-control [--device PATH]\n")
