# SPDX-License-Identifier: GPL-2.0-only
"""The relay as a process on this machine: streams, FIFOs, windows in which the link is silent, and the end."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.errors import InfraError
from harness.guest.agent import words_blob
from harness.host.frames import RemoteError, encode_frame
from harness.host.reach import LocalReach
from harness.host.remote.klog import Append, KernelLog
from harness.host.remote.link import LinkLost, RelayLink
from harness.host.remote.window import NotPlannable, Window, WindowChannel, expected_reply
from harness.native.build import build_program

SECONDS = 20.0


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    for name in ("relay", "control", "probe"):
        build_program(name, folder)
    return folder


@pytest.fixture
def link(programs: Path) -> Iterator[RelayLink]:
    with RelayLink(LocalReach(), str(programs / "gmem-relay")) as running:
        yield running


def wait_for(path: Path, text: bytes) -> None:
    end = time.monotonic() + SECONDS
    while not path.exists() or text not in path.read_bytes():
        assert time.monotonic() < end, path.read_bytes() if path.exists() else f"no {path}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestStreams:
    def test_a_program_is_a_stream(self, link: RelayLink) -> None:
        with link.attach(link.program("cat", ["cat"])) as stream:
            stream.settimeout(SECONDS)
            stream.sendall(b"there and back")
            assert stream.recv(100) == b"there and back"

    def test_much_at_once(self, link: RelayLink) -> None:
        data = os.urandom(1 << 20)
        got = b""
        with link.attach(link.program("cat", ["cat"])) as stream:
            stream.settimeout(SECONDS)
            for start in range(0, len(data), 1 << 16):
                stream.sendall(data[start : start + (1 << 16)])
                while len(got) < start:
                    got += stream.recv(1 << 16)
            while len(got) < len(data):
                got += stream.recv(1 << 16)
        assert got == data

    def test_what_nobody_reads_yet_is_kept_for_who_comes(self, link: RelayLink) -> None:
        number = link.program("echo", ["echo", "hello"])
        time.sleep(0.2)
        with link.attach(number) as stream:
            stream.settimeout(SECONDS)
            assert stream.recv(100) == b"hello\n"

    def test_who_comes_later_takes_over(self, link: RelayLink) -> None:
        number = link.program("cat", ["cat"])
        with link.attach(number) as first, link.attach(number) as second:
            first.settimeout(SECONDS)
            second.settimeout(SECONDS)
            second.sendall(b"mine")
            assert second.recv(10) == b"mine"
            assert first.recv(10) == b""

    def test_fifos(self, link: RelayLink, tmp_path: Path) -> None:
        number = link.fifos("port", reads=str(tmp_path / "out"), writes=str(tmp_path / "in"))
        with link.attach(number) as stream:
            stream.settimeout(SECONDS)
            (tmp_path / "out").write_bytes(b"from there")
            assert stream.recv(100) == b"from there"
            reader = os.open(tmp_path / "in", os.O_RDWR)
            stream.sendall(b"from here")
            assert os.read(reader, 100) == b"from here"
            os.close(reader)

    def test_a_stream_that_ends_in_a_file(self, link: RelayLink, tmp_path: Path) -> None:
        link.fifos("console", reads=str(tmp_path / "console"), sink=Append(tmp_path / "kept"))
        (tmp_path / "console").write_bytes(b"first\n")
        wait_for(tmp_path / "kept", b"first\n")
        (tmp_path / "console").write_bytes(b"second\n")
        wait_for(tmp_path / "kept", b"first\nsecond\n")

    def test_a_fifo_that_cannot_be(self, link: RelayLink) -> None:
        with pytest.raises(RemoteError, match="No such file"):
            link.fifos("port", reads="/nowhere/at/all")


class TestTheEnd:
    def test_what_was_started_ends_with_the_link(self, programs: Path) -> None:
        with RelayLink(LocalReach(), str(programs / "gmem-relay")) as link:
            control = link.program("control", [str(programs / "gmem-control")])
            channel = WindowChannel(link, control, None, peer="control")
            spawned = channel.request("spawn log=/dev/null", words_blob(["sleep", "100"]), timeout=SECONDS)
            pid = int(spawned.fields["pid"])
            assert alive(pid)
            channel.close()
        end = time.monotonic() + SECONDS
        while alive(pid):
            assert time.monotonic() < end, "a process that control spawned outlives the relay"
            time.sleep(0.01)

    def test_a_relay_that_is_killed_is_a_lost_link(self, link: RelayLink) -> None:
        pid = link.program("sleep", ["sleep", "100"])
        subprocess.run(["pkill", "-KILL", "-P", str(os.getpid()), "gmem-relay"], check=True)
        with pytest.raises(LinkLost, match="is gone"):
            link.request("hello nonce=1")
        assert pid >= 0
        assert not link.alive

    def test_no_relay_at_all(self) -> None:
        with pytest.raises(InfraError):
            RelayLink(LocalReach(), "/bin/false")


class TestWindow:
    def test_the_answers_come_to_who_asked(self, link: RelayLink, programs: Path) -> None:
        """Planned as if all went well, and then told as it was."""
        channel = WindowChannel(link, link.program("control", [str(programs / "gmem-control")]), None, peer="control")

        def work() -> object:
            return channel.request("end pid=999999 ms=10", timeout=SECONDS)

        with pytest.raises(RemoteError, match=r"end needs the pid="):
            Window(link, (channel,)).undisturbed(work, work)
        assert channel.window is None
        channel.close()

    def test_nothing_passes_the_link_meanwhile(self, link: RelayLink, tmp_path: Path) -> None:
        """What a stream says during a window arrives after it."""
        kept = tmp_path / "kept"
        link.fifos("console", reads=str(tmp_path / "console"), sink=Append(kept))
        with ThreadPoolExecutor() as pool:
            window = pool.submit(link.request, "window quiet=1500")
            time.sleep(0.3)
            (tmp_path / "console").write_bytes(b"said in the window")
            time.sleep(0.3)
            early = kept.exists(), window.done()
            assert window.result(SECONDS) == {"done": "0"}
        wait_for(kept, b"said in the window")
        assert early == (False, False)

    def test_a_refused_request_is_the_last_save_for_what_is_always_done(self, link: RelayLink, programs: Path) -> None:
        """A plan behind a refusal was made for another outcome; the sample after the step is taken all the same."""
        probe = WindowChannel(link, link.program("probe", [str(programs / "gmem-probe")]), None, peer="probe")
        refused: list[str] = []

        def work() -> int:
            probe.request("sample slot=0", timeout=SECONDS)
            try:
                probe.request("fallocate pid=1 mode=alloc off=0 len=4096", timeout=SECONDS)
                probe.request("fallocate pid=2 mode=alloc off=0 len=4096", timeout=SECONDS)
            except RemoteError as error:
                refused.append(error.code)
            return int(probe.request("sample slot=1", timeout=SECONDS).fields["ns"])

        window = Window(link, (probe,))
        assert window.undisturbed(work, work) > 0
        assert len(refused) == 1
        probe.close()

    def test_work_that_cannot_be_planned_is_done_once_over_the_link(self, link: RelayLink, programs: Path) -> None:
        channel = WindowChannel(link, link.program("control", [str(programs / "gmem-control")]), None, peer="control")
        done: list[str] = []

        def work() -> str:
            done.append(channel.request("hello nonce=7", timeout=SECONDS).fields["nonce"])
            return done[-1]

        assert Window(link, (channel,)).undisturbed(work, work) == "7"
        assert done == ["7"]
        channel.close()

    def test_a_program_that_does_not_answer_ends_the_window(self, link: RelayLink) -> None:
        number = link.program("sleep", ["sleep", "100"])
        entry = encode_frame(5, b"sample slot=0")
        blob = b"".join(value.to_bytes(4, "little") for value in (number, 5, 50, len(entry), 0)) + entry
        with pytest.raises(RemoteError, match="request 0: a request was not answered in time"):
            link.request("window quiet=0", blob, timeout=SECONDS)

    def test_a_window_that_makes_no_sense(self, link: RelayLink) -> None:
        with pytest.raises(RemoteError, match="request 0 of the window makes no sense"):
            link.request("window quiet=0", b"abc")
        with pytest.raises(RemoteError, match="quiet="):
            link.request("window quiet=99999")


@pytest.mark.parametrize(
    ("line", "fields", "blob"),
    [
        ("gmem touch region=0 start=0 count=10 stride=3 write=1 gen=1", {"touched": "4"}, 0),
        ("gmem verify region=0 start=0 count=10 expect=zero", {"pages": "10", "wrong": "0", "bad": "-"}, 0),
        ("release hold=2", {"pages": "9"}, 0),
        ("nodes pid=5 addr=0 pages=7", {}, 7),
        ("peek pid=5 addr=0 pages=7", {}, 63),
    ],
)
def test_what_a_healthy_host_would_answer(line: str, fields: dict[str, str], blob: int) -> None:
    reply = expected_reply(line, {"2": 9})
    assert dict(reply.fields) == fields
    assert len(reply.blob) == blob


@pytest.mark.parametrize("line", ["fetch slot=0", "gmem where region=0", "run ms=5", "cachestat pid=5 off=0 len=4096"])
def test_what_nobody_knows_beforehand(line: str) -> None:
    with pytest.raises(NotPlannable):
        expected_reply(line, {"2": 9})


def test_the_kernel_log_becomes_lines_of_a_console(tmp_path: Path) -> None:
    log = KernelLog(tmp_path / "log")
    log(b"4,1207,83001234,-;WARNING: mm/slub.c:1 at kfree\n SUBSYSTEM=pci\n DEVICE=+p")
    log(b"ci:0000:00\n6,1208,83002000,-,caller=T1;next\nnot a record\n6,12")
    assert (tmp_path / "log").read_text() == "[   83.001234] WARNING: mm/slub.c:1 at kfree\n[   83.002000] next\n"
