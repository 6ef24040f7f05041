# SPDX-License-Identifier: GPL-2.0-only
"""The QMP client against a monitor that behaves, refuses, is silent, lies, and dies."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ConnectError

from harness.guest.qmp import QmpLost, QmpRefused, QmpSession

GREETING = {"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}
Answer = Callable[["Monitor", dict[str, Any]], None]


class Monitor:
    """One connection to the fake: speaks lines of JSON, hears JSON without ends of lines, as QEMU does."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._text = ""

    def say(self, message: object) -> None:
        self.sock.sendall(json.dumps(message).encode() + b"\r\n")

    def hear(self) -> dict[str, Any] | None:
        while True:
            try:
                message, end = json.JSONDecoder().raw_decode(self._text)
            except ValueError:
                data = self.sock.recv(65536)
                if not data:
                    return None
                self._text += data.decode()
                continue
            self._text = self._text[end:].lstrip()
            return message

    def end(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def serve(self, answer: Answer, *, greet: bool = True) -> None:
        with suppress(OSError, ValueError):
            if greet:
                self.say(GREETING)
                negotiation = self.hear()
                assert negotiation is not None
                self.say({"return": {}})
            while (request := self.hear()) is not None:
                answer(self, request)


def returns(value: object) -> Answer:
    return lambda monitor, request: monitor.say({"return": value, "id": request["id"]})


def silent(monitor: Monitor, request: dict[str, Any]) -> None:
    """Never answers."""


@contextmanager
def listening(path: Path, serve: Callable[[Monitor], None]) -> Iterator[str]:
    """A monitor on a Unix socket; every connection gets a thread of its own."""
    taken: list[Monitor] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def accept() -> None:
            with suppress(OSError):
                while True:
                    taken.append(Monitor(listener.accept()[0]))
                    threading.Thread(target=serve, args=(taken[-1],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield str(path)
        listener.shutdown(socket.SHUT_RDWR)
    for monitor in taken:
        monitor.end()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "qmp"


def session(endpoint: str, transcript: Path | None = None, timeout: float = 5.0) -> QmpSession:
    return QmpSession("outer QEMU", endpoint, transcript, timeout=timeout)


class TestTalk:
    def test_commands_arguments_and_transcript(self, place: Path, tmp_path: Path) -> None:
        heard: list[dict[str, Any]] = []

        def answer(monitor: Monitor, request: dict[str, Any]) -> None:
            heard.append(request)
            monitor.say({"return": {"status": "running"}, "id": request["id"]})

        with listening(place, lambda monitor: monitor.serve(answer)) as endpoint:
            qmp = session(endpoint, tmp_path / "transcript")
            assert qmp.execute("query-status") == {"status": "running"}
            qmp.execute("migrate", {"uri": "file:/a,b"})
            qmp.close()
        assert [(one["execute"], one.get("arguments")) for one in heard] == [
            ("query-status", None),
            ("migrate", {"uri": "file:/a,b"}),
        ]
        lines = (tmp_path / "transcript").read_text().splitlines()
        assert [line.split(" ", 1)[0] for line in (line.lstrip().split(" ", 1)[1] for line in lines)] == [
            "<-", "->", "<-", "->", "<-", "->", "<-",
        ]  # fmt: skip
        assert '"QMP"' in lines[0]
        assert '"execute": "query-status"' in lines[3]
        assert '"uri": "file:/a,b"' in lines[5]

    def test_a_transcript_is_bounded(self, place: Path, tmp_path: Path) -> None:
        with listening(place, lambda monitor: monitor.serve(returns("x" * 500_000))) as endpoint:
            qmp = session(endpoint, tmp_path / "transcript")
            assert len(qmp.execute("query-qmp-schema")) == 500_000
            qmp.close()
        assert (tmp_path / "transcript").stat().st_size < 20_000

    def test_events_in_order_and_once(self, place: Path) -> None:
        def answer(monitor: Monitor, request: dict[str, Any]) -> None:
            for name in ("STOP", "RESUME", "SHUTDOWN"):
                monitor.say({"event": name, "timestamp": {"seconds": 1, "microseconds": 0}})
            monitor.say({"return": {}, "id": request["id"]})

        with listening(place, lambda monitor: monitor.serve(answer)) as endpoint:
            qmp = session(endpoint)
            assert qmp.events() == []
            qmp.execute("stop")
            assert [event["event"] for event in qmp.events()] == ["STOP", "RESUME", "SHUTDOWN"]
            assert qmp.events() == []
            qmp.close()

    def test_a_refusal(self, place: Path) -> None:
        def answer(monitor: Monitor, request: dict[str, Any]) -> None:
            error = {"class": "GenericError", "desc": "Migration is disabled when VirtFS is mounted"}
            monitor.say({"error": error, "id": request["id"]})

        with listening(place, lambda monitor: monitor.serve(answer)) as endpoint:
            qmp = session(endpoint)
            sentence = r"^outer QEMU: QEMU refused migrate: .*Migration is disabled when VirtFS is mounted"
            for _ in range(2):
                with pytest.raises(QmpRefused, match=sentence) as caught:
                    qmp.execute("migrate")
                assert "\n" not in str(caught.value)
            qmp.close()


class TestSilence:
    def test_a_command_that_is_not_answered(self, place: Path) -> None:
        with listening(place, lambda monitor: monitor.serve(silent)) as endpoint:
            qmp = session(endpoint)
            began = time.monotonic()
            with pytest.raises(QmpLost, match=r"^outer QEMU: stop was not answered within 0\.2 s"):
                qmp.execute("stop", timeout=0.2)
            assert 0.15 < time.monotonic() - began < 3
            qmp.close()

    def test_a_late_answer_is_not_taken_for_the_next(self, place: Path) -> None:
        late: list[dict[str, Any]] = []

        def answer(monitor: Monitor, request: dict[str, Any]) -> None:
            if not late:
                late.append(request)
                return
            monitor.say({"return": "late", "id": late[0]["id"]})
            monitor.say({"return": "right", "id": request["id"]})

        with listening(place, lambda monitor: monitor.serve(answer)) as endpoint:
            qmp = session(endpoint)
            with pytest.raises(QmpLost):
                qmp.execute("first", timeout=0.1)
            assert qmp.execute("second") == "right"
            qmp.close()

    def test_an_answer_to_an_earlier_session_is_not_taken_for_ours(self) -> None:
        """A command that timed out may be answered into the next session on the same port."""
        ours, theirs = socket.socketpair()
        monitor = Monitor(theirs)

        def answer(monitor: Monitor, request: dict[str, Any]) -> None:
            for number in range(3):  # every session of the package counts from 0
                monitor.say({"return": "stale", "id": f"__qmp#{number:05d}"})
            monitor.say({"return": "ours", "id": request["id"]})

        threading.Thread(target=monitor.serve, args=(answer,), kwargs={"greet": False}, daemon=True).start()
        qmp = QmpSession("QEMU of g0", ours, None, fresh=False)
        assert qmp.execute("query-status") == "ours"
        qmp.close()
        monitor.end()

    def test_a_monitor_that_never_greets(self, place: Path) -> None:
        with listening(place, lambda monitor: monitor.hear()) as endpoint:
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not walked
            began = time.monotonic()
            with pytest.raises(QmpLost, match=r"^outer QEMU: no QMP session within 0\.3 s"):
                session(endpoint, timeout=0.3)
            assert time.monotonic() - began < 3
            end = time.monotonic() + 3
            while len(os.listdir("/proc/self/fd")) > before + 1 and time.monotonic() < end:  # noqa: PTH208
                time.sleep(0.01)
            assert len(os.listdir("/proc/self/fd")) <= before + 1, "a connection is left"  # noqa: PTH208

    def test_no_socket_at_all(self, place: Path) -> None:
        with pytest.raises(QmpLost, match=r"^outer QEMU: no QMP session within 2 s \(.*No such file"):
            session(str(place), timeout=2)

    def test_an_attempt_cut_short_does_not_hide_the_cause(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a busy machine the deadline falls into an attempt; what the attempts before it met is still said."""
        attempts = iter([ConnectError("no such socket", FileNotFoundError()), None])

        async def connect(self: object, *args: object) -> None:
            failure = next(attempts)
            if failure is not None:
                raise failure
            await asyncio.sleep(60)

        monkeypatch.setattr("qemu.qmp.QMPClient.connect", connect)
        with pytest.raises(QmpLost, match=r"within 0\.2 s \(no such socket"):
            session(str(place), timeout=0.2)

    def test_no_socket_and_nobody_who_would_make_one(self, place: Path) -> None:
        began = time.monotonic()
        with pytest.raises(QmpLost):
            QmpSession("outer QEMU", str(place), None, timeout=20, alive=lambda: False)
        assert time.monotonic() - began < 15

    def test_a_socket_that_comes_late(self, place: Path) -> None:
        made = threading.Event()

        def late() -> None:
            time.sleep(0.3)
            with listening(place, lambda monitor: monitor.serve(returns(1))):
                made.wait(5)

        thread = threading.Thread(target=late)
        thread.start()
        qmp = session(str(place))
        assert qmp.execute("query-status") == 1
        qmp.close()
        made.set()
        thread.join()


class TestDeath:
    @pytest.mark.parametrize("last", [b"", b'{"return": {}, "i', b"no json\n", b"\xff\xfe\n", b"[1, 2]\n", b"{}\n"])
    def test_in_the_middle_of_a_command(self, place: Path, last: bytes) -> None:
        def answer(monitor: Monitor, request: dict[str, Any]) -> None:
            monitor.sock.sendall(last)
            monitor.end()

        with listening(place, lambda monitor: monitor.serve(answer)) as endpoint:
            qmp = session(endpoint)
            began = time.monotonic()
            with pytest.raises(QmpLost, match=r"^outer QEMU: stop was not answered") as caught:
                qmp.execute("stop", timeout=20)
            assert time.monotonic() - began < 5
            assert "\n" not in str(caught.value)
            with pytest.raises(QmpLost, match=r"^outer QEMU: cont was not answered"):
                qmp.execute("cont", timeout=20)
            qmp.close()
            qmp.close()

    def test_between_commands(self, place: Path) -> None:
        with listening(place, lambda monitor: monitor.serve(silent)) as endpoint:
            qmp = session(endpoint)
        with pytest.raises(QmpLost):
            qmp.execute("query-status", timeout=5)
        qmp.close()

    @pytest.mark.parametrize("greeting", [b"", b"hello\r\n", b'{"QMP": 1}\r\n', b"{}\r\n", b"\xff\r\n"])
    def test_a_greeting_that_is_none(self, greeting: bytes) -> None:
        ours, theirs = socket.socketpair()
        theirs.sendall(greeting)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(QmpLost, match=r"^QEMU of g0: no QMP session") as caught:
            QmpSession("QEMU of g0", ours, None, timeout=5)
        assert "\n" not in str(caught.value)
        ours.close()
        theirs.close()

    def test_a_refused_negotiation(self, place: Path) -> None:
        def serve(monitor: Monitor) -> None:
            monitor.say(GREETING)
            request = monitor.hear()
            assert request is not None
            monitor.say({"error": {"class": "CommandNotFound", "desc": "in use"}})

        with (
            listening(place, serve) as endpoint,
            pytest.raises(QmpLost, match=r"^outer QEMU: no QMP session within 0\.3 s .*"),
        ):
            session(endpoint, timeout=0.3)


def test_many_sessions_leave_nothing(place: Path) -> None:
    with listening(place, lambda monitor: monitor.serve(returns({}))) as endpoint:
        session(endpoint).close()
        threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(20):
            qmp = session(endpoint)
            qmp.execute("query-status")
            qmp.close()
        end = time.monotonic() + 5  # the server's own threads and sockets end a moment later
        while threading.active_count() > threads + 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert threading.active_count() <= threads + 2
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 25  # noqa: PTH208 - the server keeps its ends
