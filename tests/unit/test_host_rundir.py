# SPDX-License-Identifier: GPL-2.0-only
"""The janitor: whatever becomes of the harness, its directory and its processes go, and nobody else's."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.errors import InfraError
from harness.host.emulated.rundir import RunDir

PARENT = """
import subprocess, sys, time
from harness.host.emulated.rundir import RunDir
run = RunDir()
waiting = ["tail", "-F", f"{run.path}/nothing"]
children = [subprocess.Popen(waiting, stderr=subprocess.DEVNULL, start_new_session=True) for _ in range(2)]
for number, child in enumerate(children):
    (run.path / f"{number}.pid").write_text(f"{child.pid}\\n")
(run.path / "folder").mkdir()
(run.path / "folder" / "a file").write_text("x")
print(run.path, *(child.pid for child in children), flush=True)
time.sleep(60)
"""


@contextmanager
def waiting(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with ``path`` on its command line that does nothing."""
    command = ["tail", "-F", str(path / "nothing")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def gone(path: Path, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return not path.exists()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def dead(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(pid)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directories are made here, also those of subprocesses."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_private_directory_that_goes(place: Path) -> None:
    with RunDir() as run:
        assert run.path.parent == place
        assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
        os.mkfifo(run.path / "fifo")
        (run.path / "socket").symlink_to("/nowhere")
    assert not run.path.exists()
    run.close()


def test_what_links_point_to_stays(place: Path) -> None:
    (place / "other").mkdir()
    (place / "other" / "file").touch()
    with RunDir() as run:
        (run.path / "link").symlink_to(place / "other")
    assert (place / "other" / "file").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_everything_goes_with_the_harness(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        path, *pids = parent.stdout.readline().split()
        assert Path(path).is_dir()
        assert all(alive(int(pid)) for pid in pids)
        parent.send_signal(number)
    assert gone(Path(path)), "the directory is left"
    assert all(dead(int(pid)) for pid in pids), "a process is left"


def test_a_ctrl_c_of_the_terminal_is_not_for_the_janitor() -> None:
    """It reaches the whole process group; the harness may still need its directory while it ends."""
    with RunDir() as run:
        group = os.getpgid(run._janitor.pid)
        assert group != os.getpgid(0)
        assert os.getsid(run._janitor.pid) != os.getsid(0)


def test_a_pid_that_was_given_to_somebody_else(stranger: subprocess.Popen[bytes]) -> None:
    with RunDir() as run:
        (run.path / "outer.pid").write_text(f"{stranger.pid}\n")
    assert not run.path.exists()
    assert alive(stranger.pid)


def test_a_process_of_another_testbed(place: Path) -> None:
    """The name of its directory begins like ours."""
    with RunDir() as run, waiting(Path(str(run.path)[:-1])) as other:
        (run.path / "outer.pid").write_text(f"{other.pid}\n")
        run.close()
        assert alive(other.pid)
        other.kill()


@pytest.mark.parametrize("text", ["", "\n", "no number\n", "-1\n", "0\n", "999999999\n", "../self\n", "$(touch x)\n"])
def test_pid_files_that_make_no_sense(text: str, place: Path) -> None:
    with RunDir() as run:
        (run.path / "outer.pid").write_text(text)
        (run.path / "unreadable.pid").mkdir()
    assert not run.path.exists()
    assert list(place.iterdir()) == []


def test_a_pid_file_without_an_end_of_line() -> None:
    with RunDir() as run, waiting(run.path) as child:
        (run.path / "outer.pid").write_text(str(child.pid))
        run.close()
        assert child.wait(5) == -signal.SIGKILL


def test_blanks_and_quotes_in_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folder may be too deep for the name of a socket
    odd = place / "a 'b' \"c\" $d * -e"
    odd.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    with RunDir() as run, waiting(run.path) as child:
        (run.path / "outer.pid").write_text(f"{child.pid}\n")
        run.close()
        assert child.wait(5) == -signal.SIGKILL
    assert list(odd.iterdir()) == []
    odd.rmdir()
    place.rmdir()


def test_a_place_whose_sockets_would_have_too_long_names(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = place / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(InfraError, match=r"outer\.qmp is too long for the name of a socket; set TMPDIR to a shorter"):
        RunDir()
    assert list(deep.iterdir()) == []


def test_no_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place / "absent"))
    with pytest.raises(InfraError, match=r"^no directory for the testbed's sockets can be made .*; set TMPDIR$"):
        RunDir()


def test_no_shell(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(InfraError, match=r"^cannot start a shell for cleaning up: No such file"):
        RunDir()
    assert list(place.iterdir()) == []
