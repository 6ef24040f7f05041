# SPDX-License-Identifier: GPL-2.0-only
"""A testbed to play in: up, into it, saved, restored, ended in every way; nothing is ever left behind."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cache import cache_root
from harness.host.lab.place import Place

UP_SECONDS = 900.0
"""The first test may have to build a kernel and to boot."""
SECONDS = 60.0
ANSWER_SECONDS = 5.0
"""A restore takes 0.3 s to the first answer on an idle machine (0.5 s is the most the design allows).  The machine that
runs tests is not idle: ten times that still tells a restore from a boot, which takes 7 s at the least."""


class LabCli:
    """``gmem lab`` with a testbed of its own name and a directory for temporary files of its own."""

    def __init__(self) -> None:
        self.name = f"test-{os.getpid()}"
        self.place = Place(cache_root(), self.name)
        self.scratch = Path(tempfile.mkdtemp(prefix="gl-"))  # short: Unix sockets live below it
        self.env = {**os.environ, "TMPDIR": str(self.scratch)}

    def words(self, verb: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "harness.cli.main", "lab", verb, "--name", self.name, *words]

    def __call__(
        self, verb: str, *words: str, seconds: float = SECONDS, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.words(verb, *words), env=self.env, input=stdin, capture_output=True, timeout=seconds, check=False
        )

    def good(self, verb: str, *words: str, seconds: float = SECONDS, stdin: bytes = b"") -> str:
        """Standard output of a command that must end with 0."""
        ended = self(verb, *words, seconds=seconds, stdin=stdin)
        assert ended.returncode == 0, ended.stderr.decode()
        return ended.stdout.decode()

    def bad(self, code: int, verb: str, *words: str) -> str:
        """The sentence of a command that must end with ``code``."""
        ended = self(verb, *words)
        text = ended.stderr.decode()
        assert ended.returncode == code, (ended.returncode, text)
        assert text.startswith("gmem: ")
        assert text.count("\n") == 1
        return text

    def status(self) -> dict[str, Any]:
        found = json.loads(self.good("status", "--json"))["testbeds"]
        assert len(found) == 1
        return dict(found[0])

    def left(self) -> list[str]:
        """What its testbeds left: files, and processes that name its temporary directory."""
        found = [str(path) for path in self.scratch.iterdir()]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.scratch).encode() in command:
                    found.append(f"{entry.name} {command!r}")
        return found

    def nothing_left(self) -> None:
        wait_for(lambda: not self.left(), "the end of everything")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {SECONDS:g} s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def lab() -> Iterator[LabCli]:
    """The command; a testbed is up when a test ends as when it begins, unless the test says otherwise."""
    lab = LabCli()
    try:
        yield lab
    finally:
        lab("down")
        shutil.rmtree(lab.scratch, ignore_errors=True)


@pytest.fixture
def up(lab: LabCli) -> LabCli:
    """A testbed is up."""
    if lab("status").returncode:
        lab.good("up", seconds=UP_SECONDS)
    return lab


def test_up(lab: LabCli) -> None:
    lab.good("up", seconds=UP_SECONDS)  # the saved testbed exists after this
    assert "is up already, for " in lab.bad(4, "up")
    lab.good("down")
    assert not lab.left()
    assert not lab.place.folder.exists()

    out = lab.good("up", "--timings")
    for phase in ("kernel", "images", "saved testbed", "start QEMU", "load", "first answers", "total"):
        assert re.search(rf"^ *{phase} +\d+\.\d+ s$", out, re.MULTILINE), out
    answered = re.search(r"^restore to first answered command +(\d+\.\d+) s$", out, re.MULTILINE)
    assert answered, out
    assert float(answered[1]) < ANSWER_SECONDS
    told = lab.status()
    assert told["health"] == {"g0": "running", "host": "running"}
    assert told["guest_kind"] == "sw-protected (SNP stand-in)"
    evidence = Path(told["evidence"])
    assert '"query-status"' in (evidence / "g0-qmp.txt").read_text()
    assert '"migrate-incoming"' in (evidence / "outer-qmp.txt").read_text()
    assert "-incoming" in (evidence / "outer-qemu.sh").read_text()
    assert (evidence / "host-console.txt").exists()


def test_commands(up: LabCli) -> None:
    release = up.status()["release"]
    assert up.good("guest", "--", "uname", "-a").startswith(f"Linux g0 {release} ")
    assert up.good("shell", "--", "uname", "-n") == "emulated-host\n"
    ended = up("guest", "g0", "--", "cat; echo wrong >&2; exit 3", stdin=b"x\0y" * 30_000)
    assert (ended.returncode, ended.stderr, ended.stdout) == (3, b"wrong\n", b"x\0y" * 30_000)
    assert up.good("guest", "--", "echo", "a  b", "$HOME", "*") == "a  b $HOME *\n"
    assert up("shell", "--", "kill -9 $$").returncode == 255
    assert up("guest", stdin=b"uname -n; exit 4\n").stdout == b"g0\n"
    assert "has no guest g1: it has g0;" in up.bad(4, "guest", "g1", "--", "uname")


def test_a_shell_with_a_terminal(up: LabCli) -> None:
    ours, theirs = pty.openpty()
    try:
        termios.tcsetwinsize(theirs, (31, 97))
        before = termios.tcgetattr(theirs)
        shell = subprocess.Popen(up.words("guest"), env=up.env, stdin=theirs, stdout=theirs, stderr=theirs)
        seen = read_until(ours, "# ")
        os.write(ours, b"tty; stty size\r")
        seen = read_until(ours, "31 97")
        assert "/dev/pts/" in seen
        os.write(ours, b"sleep 100\r")
        time.sleep(0.5)
        os.write(ours, b"\x03")  # goes to the program there, not to gmem
        read_until(ours, "# ")
        os.write(ours, b"exit 6\r")
        assert shell.wait(SECONDS) == 6
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)


def read_until(fd: int, text: str) -> str:
    seen = ""
    os.set_blocking(fd, False)
    end = time.monotonic() + SECONDS
    while text not in seen:
        assert time.monotonic() < end, f"the shell did not print {text!r} but {seen!r}"
        try:
            seen += os.read(fd, 4096).decode(errors="replace")
        except BlockingIOError:
            time.sleep(0.02)
    return seen


def test_save_and_restore(up: LabCli, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    up.good("guest", "--", "echo kept > /root/mark; sync")
    up.good("save", str(saved))
    assert "is not empty" in up.bad(4, "save", str(saved))
    assert up.good("guest", "--", "cat", "/root/mark") == "kept\n"  # the testbed goes on
    up.good("guest", "--", "rm", "/root/mark")
    up.good("down")
    up.nothing_left()
    up.good("up", "--state", str(saved))
    assert up.good("guest", "--", "cat", "/root/mark") == "kept\n"
    assert up.status()["origin"] == f"restored from {saved}"
    up.good("down")
    with (saved / "state.bin").open("r+b") as state:
        state.truncate(1 << 20)
    assert str(saved) in up.bad(3, "up", "--state", str(saved))
    up.nothing_left()


def test_the_holder_is_killed(up: LabCli) -> None:
    os.kill(up.status()["holder"], signal.SIGKILL)
    up.nothing_left()
    assert "its holder, process " in up.bad(3, "status")
    assert "was killed" in up.bad(3, "guest", "--", "uname")
    up.good("up")
    assert up.good("shell", "--", "uname", "-n") == "emulated-host\n"


def test_the_outer_qemu_is_killed_under_a_command(up: LabCli) -> None:
    running = subprocess.Popen(
        up.words("shell", "--", "echo begun; sleep 100"), env=up.env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "begun\n"
    os.kill(up.status()["qemu"], signal.SIGKILL)
    _, said = running.communicate(timeout=SECONDS)
    assert running.returncode == 3
    assert said == "gmem: host: the SSH session ended before the command did\n"
    up.nothing_left()
    assert "QEMU was killed by SIGKILL" in up.bad(3, "status")
    up.good("up")
    assert up.status()["health"] == {"g0": "running", "host": "running"}


def test_the_outer_qemu_hangs(up: LabCli) -> None:
    qemu = up.status()["qemu"]
    os.kill(qemu, signal.SIGSTOP)
    ended = up("status")
    assert (ended.returncode, ended.stderr.count(b"\n")) == (3, 1)
    assert b"is not well: does not answer (outer QEMU: query-status was not answered within 3 s" in ended.stderr
    os.kill(qemu, signal.SIGCONT)
    assert up.status()["health"] == {"g0": "running", "host": "running"}


def test_a_guest_is_killed(up: LabCli) -> None:
    up.good("shell", "--", "killall -9 qemu-system-x86_64")
    assert "guest g0 is gone: its QEMU killed by signal 9" in up.bad(3, "guest", "--", "uname")
    assert up.status()["health"] == {"g0": "killed by signal 9", "host": "running"}
    assert up.good("shell", "--", "uname", "-n") == "emulated-host\n"


def test_down(up: LabCli) -> None:
    up.good("down")
    assert not up.left()
    assert not up.place.folder.exists()
    assert "no testbed called" in up.bad(4, "status")
