# SPDX-License-Identifier: GPL-2.0-only
"""The real program that takes memory, on this machine: it says what it holds, keeps it, and ends with its starter."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.native.build import build_program

SECONDS = 20.0


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program("pressure", tmp_path_factory.mktemp("native"))


def anonymous_pages(pid: int) -> int:
    """Anonymous pages of a process, from /proc."""
    found = re.search(r"^RssAnon:\s+([0-9]+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) // 4


def test_anonymous_memory_is_taken_and_kept(binary: Path) -> None:
    with subprocess.Popen([binary, "anon", "3000"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds=3000 gave=0\n"
        assert 3000 <= anonymous_pages(process.pid) < 3100
        time.sleep(0.1)
        assert process.poll() is None
        process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="frames are shown to root only: run the tests as root")
def test_every_second_frame_is_given_back(binary: Path) -> None:
    with subprocess.Popen([binary, "fragment", "3000"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = re.fullmatch(r"holds=([0-9]+) gave=([0-9]+)\n", process.stdout.readline())
        assert said is not None
        holds, gave = map(int, said.groups())
        assert holds + gave == 3000
        assert 1000 < gave < 2000  # it goes by the numbers of the frames, and those are chance here
        assert holds <= anonymous_pages(process.pid) < holds + 100
        process.kill()


def test_every_second_page_of_pipes_is_given_back(binary: Path) -> None:
    with subprocess.Popen([binary, "pinned", "2001"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds=1001 gave=1000\n"
        names = [str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert len({name for name in names if name.startswith("pipe:")}) == 4 + 1  # 4 of 256 pages, and its output
        process.kill()


def test_it_ends_with_its_starter(binary: Path) -> None:
    starter = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.argv[1], 'anon', '10'], stdout=subprocess.PIPE);"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", starter, binary], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + SECONDS
    while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}/exe").exists()


@pytest.mark.parametrize("words", [[], ["anon"], ["anon", "x"], ["anon", "-1"], ["anon", "0"], ["water", "1"]])
def test_what_it_does_not_understand(binary: Path, words: list[str]) -> None:
    done = subprocess.run([binary, *words], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: gmem-pressure anon|cache|fragment|pinned|blocks AMOUNT\n"


@pytest.mark.parametrize(("words", "said"), [(["anon", "99999999999"], "mmap of anonymous memory")])
def test_what_cannot_be_had_is_said(binary: Path, words: list[str], said: str) -> None:
    done = subprocess.run([binary, *words], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
