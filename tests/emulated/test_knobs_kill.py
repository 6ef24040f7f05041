# SPDX-License-Identifier: GPL-2.0-only
"""A run that borrows a real host is killed at random moments; ``gmem host restore`` gives the host back each time.

The host is an emulated one that was started by ``gmem lab``, reached by OpenSSH as any other.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.host.config.knobs import wanted
from harness.host.config.load import load_host
from harness.host.config.reaching import reach_host
from harness.host.knobs.before import before_each
from harness.host.knobs.kernel_log import Cursor, end_of_log, read_log
from harness.host.knobs.leaks import leaks, snapshot
from harness.host.knobs.setting import read_knobs
from harness.host.knobs.values import followers
from harness.host.reach import Reach, check, write_file
from tests.emulated.borrower import FOLDER

ROUNDS = int(os.environ.get("GMEM_KILLS", "2"))
"""Each takes some ten seconds; ``GMEM_KILLS=20`` is what a change to the journal should be tested with."""
UP_SECONDS = 900.0
SECONDS = 120.0
NAME = f"knobs-{os.getpid()}"
ROOT = Path(__file__).resolve().parents[2]
HOST = f"""schema: 1
name: {NAME}
transport: ssh
ssh: {{host: gmem-lab-{NAME}, config: "cache:lab/{NAME}/ssh_config"}}
thp: {{enabled: madvise, shmem_enabled: advise, khugepaged: {{pages_to_scan: 512}}}}
vm: {{swappiness: 10, min_free_kbytes: 9000}}
hugepages: {{2M: {{nr: 4}}}}
knobs: {{/proc/sys/vm/lowmem_reserve_ratio: 256 128 32 0}}
"""


def gmem(*words: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli.main", *words],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def host() -> Iterator[Path]:
    """The file of a host that is up."""
    with tempfile.TemporaryDirectory(prefix="gk-") as folder:
        file = Path(folder) / "host.yaml"
        try:
            for verb in ("up", "ssh-config"):
                ended = gmem("lab", verb, "--name", NAME, seconds=UP_SECONDS)
                assert ended.returncode == 0, ended.stderr
            reserve = lowmem_reserve()
            file.write_text(HOST.replace("256 128 32 0", reserve))
            yield file
        finally:
            gmem("lab", "down", "--name", NAME)


def lowmem_reserve() -> str:
    """Another ratio for as many zones as the host has."""
    ended = gmem("lab", "shell", "--name", NAME, "--", "cat", "/proc/sys/vm/lowmem_reserve_ratio")
    return " ".join(["128", *ended.stdout.split()[1:]])


class Borrower:
    """A run; its output goes to a file, for the SSH clients that it leaves behind would hold a pipe open."""

    def __init__(self, host: Path, hold: float = 1.0) -> None:
        self._said = host.with_name("said")
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.emulated.borrower", str(host), str(hold)],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._said.read_text()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(SECONDS)


def known(reach: Reach, host: Path) -> dict[str, str]:
    """Each knob that is set, and each that may follow, as it is printed."""
    paths = list(wanted(load_host(host)))
    found = read_knobs(reach, [*paths, *(more for path in paths for more in followers(path))])
    return {path: knob.text or "" for path, knob in found.items()}


def traces(reach: Reach) -> list[str]:
    """Our QEMU and our files on the host, by their names alone."""
    script = (
        'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " < $f 2>/dev/null; echo; done | grep "[-]name borrowed";'
        f"ls -d {FOLDER} /run/gmem-harness* /var/lib/gmem-harness 2>/dev/null; true"
    )
    return check(reach, ["sh", "-c", script]).split("\n")[:-1]


def status(host: Path) -> dict[str, Any]:
    return dict(json.loads(gmem("host", "status", "--host", str(host), "--json").stdout))


@pytest.mark.timeout(3600)
def test_killed_at_random_moments(host: Path) -> None:
    reach = reach_host(load_host(host))
    first, before = known(reach, host), snapshot(reach)
    whole, output = timed(host)
    assert "given back" in output, output
    assert known(reach, host) == first
    assert traces(reach) == []

    dice = random.Random(20)
    good = ended_before = knobs_set = qemus = 0
    while good < ROUNDS:
        moment = dice.uniform(0, whole)
        run = Borrower(host)
        time.sleep(moment)
        run.kill()
        said = run.said.splitlines()
        if "given back" in said:
            ended_before += 1  # a run takes longer once than another time: nothing was killed
            assert ended_before <= ROUNDS
            continue
        changed, left = known(reach, host) != first, traces(reach)
        knobs_set += changed
        qemus += any("-name borrowed" in line for line in left)
        ended = gmem("host", "restore", "--host", str(host))
        now, after = known(reach, host), traces(reach)
        print(
            f"{good + 1}: killed after {moment:.1f} of {whole:.1f} s (last said: {said[-1] if said else 'nothing'}); "
            f"knobs {'changed' if changed else 'untouched'}, left {len(left)}; restore ended with {ended.returncode}"
        )
        assert ended.returncode == 0, ended.stderr
        assert now == first, ended.stdout
        assert after == []
        good += 1
    again = gmem("host", "restore", "--host", str(host))
    assert again.stdout == f"{NAME}: there was nothing to give back\n"
    print(f"{good} of {ROUNDS} given back; {knobs_set} had knobs changed, {qemus} had a QEMU running")
    assert knobs_set >= ROUNDS // 4  # else nothing was shown
    assert qemus >= ROUNDS // 20
    assert status(host)["held"] is None
    assert leaks(before, snapshot(reach)) == []
    reach.close()


def timed(host: Path) -> tuple[float, str]:
    """Seconds of a whole run, and what it said."""
    began = time.monotonic()
    run = Borrower(host)
    assert run.process.wait(SECONDS) == 0, run.said
    return time.monotonic() - began, run.said


def test_one_run_has_the_host(host: Path) -> None:
    run = Borrower(host, SECONDS)
    end = time.monotonic() + SECONDS
    while "started" not in run.said:
        assert time.monotonic() < end, run.said
        time.sleep(0.1)
    held = status(host)
    assert held["held"]["pid"] == run.process.pid
    assert not held["abandoned"]
    assert [process["what"] for process in held["processes"]] == ["qemu borrowed"]
    assert {"path": "/proc/sys/vm/swappiness", "before": "60", "set": "10", "now": "10"} in held["knobs"]
    refused = gmem("host", "restore", "--host", str(host))
    assert refused.returncode == 4
    assert f"(process {run.process.pid}: a run to be killed)" in refused.stderr
    run.kill()
    left = gmem("host", "status", "--host", str(host))
    assert left.returncode == 3
    assert f"process {run.process.pid} on this machine is gone" in left.stdout
    assert f"run gmem host restore --host {host}" in left.stderr
    assert gmem("host", "restore", "--host", str(host)).returncode == 0
    assert gmem("host", "status", "--host", str(host)).stdout == f"{NAME}: nobody has it\n"


def test_what_the_kernel_says_and_what_is_left(host: Path) -> None:
    reach = reach_host(load_host(host))
    before, cursor = snapshot(reach), end_of_log(reach)
    check(reach, ["sh", "-c", "echo '<4>SEV: Leaking PFN range 0x10-0x11' > /dev/kmsg; echo '<4>after' > /dev/kmsg"])
    part = read_log(reach, cursor)
    assert [line.partition("] ")[2] for line in part.lines] == ["SEV: Leaking PFN range 0x10-0x11", "after"]
    assert read_log(reach, part.cursor).lines == ()
    assert read_log(reach, Cursor()).lines[-1:] == part.lines[-1:]
    pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    write_file(reach, pool, b"2")
    try:
        found = leaks(before, snapshot(reach), part)
    finally:
        write_file(reach, pool, b"0")
    assert found == [
        "the pool of huge pages of 2048 kB on node0 grew from 0 to 2",
        "the kernel gave memory or a key up until the next boot: SEV: Leaking PFN range 0x10-0x11",
    ]
    assert leaks(before, snapshot(reach)) == []
    (done,) = before_each(reach, [("/proc/sys/vm/compact_memory", "1")])
    assert done.told.startswith("compact_memory=1: free pages ")
    reach.close()
