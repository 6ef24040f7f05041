# SPDX-License-Identifier: GPL-2.0-only
"""The owner of a real Buildbot master and real workers, with a ``gmem`` of paper: what starts jobs, and how all ends.

A minute or two on an idle machine, so it is run by hand: ``pytest tests/matrix/test_nightly_owner.py``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from harness.nightly.leftovers import marked, wait_for_none
from tests.fake.nightly_bench import MATRIX, Bench, commit, get, make_bench, until

END_SECONDS = 60.0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path, MATRIX)


def test_a_commit_and_the_clock_start_jobs_and_a_killed_master_goes_on(bench: Bench) -> None:
    at = datetime.now() + timedelta(seconds=100)
    bench.matrix.write_text(MATRIX.replace("  b: {host: ./b.yaml}\n", "") + f'nightly: "{at:%H:%M}"\npoll: 0.05\n')
    code, _, stderr = bench.run("up", "--config", str(bench.matrix))
    assert code == 0, stderr
    try:
        commit(bench.folder / "linux")
        until(lambda: bench.heard("run"))
        assert bench.heard("run") == ["next a"], "the commit starts its own kernel's jobs only"
        assert f"{datetime.now():%H:%M}" < f"{at:%H:%M}", "the clock had not come so far"
        until(lambda: sorted(bench.heard("run")) == ["7.3 a", "next a", "next a"])
        bench.order(**{"7.3_a": ["slow", 0]})
        with bench.start("once", "--config", str(bench.matrix), "--json") as once:
            until(lambda: bench.heard("slow"), once)
            os.kill(master(bench), signal.SIGKILL)
            stdout, stderr = once.communicate(timeout=240)
        assert once.returncode == 0, stderr
        told = {cell["kernel"]: cell["told"] for cell in json.loads(stdout)["cells"]}
        assert {kernel: (one["verdict"], one["tries"]) for kernel, one in told.items()} == {
            "7.3": ("pass", 2),
            "next": ("pass", 1),
        }
        assert "the master died (SIGKILL): started again" in (bench.state / "nightly.log").read_text()
    finally:
        down = bench.run("down")
    assert down[:2] == (0, f"down: no process of {bench.state} is left\n")


def master(bench: Bench) -> int:
    found = subprocess.run(
        ["pgrep", "-f", f"rundir={bench.state}/master"], capture_output=True, text=True, check=True, timeout=60
    )
    return int(found.stdout)


def test_nothing_is_left_after_kill_9_and_up_goes_on(bench: Bench) -> None:
    """Here with a login, also on the loopback."""
    (bench.folder / "users").write_text("someone:long enough a word\n")
    (bench.folder / "users").chmod(0o600)
    bench.matrix.write_text(MATRIX + "web: {login: {users: ./users}}\n")
    bench.order(**{"7.3_a": ["slow", 0]})
    with bench.start("once", "--config", str(bench.matrix)) as once:
        until(lambda: bench.heard("slow"), once)
        once.kill()
        once.communicate(timeout=60)
    assert wait_for_none(bench.state, END_SECONDS) == []
    assert bench.heard("ended") == ["7.3 a"]
    bench.order()
    code, stdout, stderr = bench.run("up", "--config", str(bench.matrix))
    assert code == 0, stderr
    assert re.match(r"up: http://127\.0\.0\.1:\d+/ \(4 jobs on 2 hosts\)", stdout)
    try:
        check_login(stdout.split()[1])
        assert bench.run("up", "--config", str(bench.matrix))[2].startswith("gmem: it is up already, since ")
        code, stdout, stderr = bench.run("once", "--config", str(bench.matrix))
        assert code == 0, stderr
        assert stdout.endswith("4 jobs: pass\n")
        code, stdout, _ = bench.run("status")
        assert code == 0
        assert (
            len(re.findall(r"^(?:7\.3|next) +[ab] +snp-stand-in +quick +pass +20\S+Z .*http://127", stdout, re.M)) == 4
        )
    finally:
        down = bench.run("down")
    assert down == (0, f"down: no process of {bench.state} is left\n", "")
    assert marked(bench.state) == []
    assert bench.run("down")[1].startswith("it was not up: no process of ")
    code, stdout, _ = bench.run("status")
    assert (code, stdout.splitlines()[-1]) == (0, f"down ({bench.state})")


def check_login(url: str) -> None:
    """Nothing is shown without; a wrong password is refused; with the right one, what anybody sees elsewhere."""
    workers = f"{url}api/v2/workers"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(workers)
    for password, shown in (("short of it, wrong", False), ("long enough a word", True)):
        word = base64.b64encode(f"someone:{password}".encode()).decode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
        with contextlib.suppress(urllib.error.HTTPError):
            opener.open(
                urllib.request.Request(f"{url}auth/login", headers={"Authorization": f"Basic {word}"}), timeout=60
            )
        if shown:
            assert '"name": "a"' in opener.open(workers, timeout=60).read().decode()
        else:
            with pytest.raises(urllib.error.HTTPError, match="403"):
                opener.open(workers, timeout=60)


@pytest.mark.parametrize("how", ["ctrl-c", "down"])
def test_once_is_ended(bench: Bench, how: str) -> None:
    bench.order(**{"7.3_a": ["slow"]})
    with bench.start("once", "--config", str(bench.matrix)) as once:
        until(lambda: bench.heard("slow"), once)
        if how == "down":
            assert bench.run("up", "--config", str(bench.matrix))[2].startswith(
                f"gmem: {bench.state} belongs to process "
            )
            assert bench.run("down")[1] == f"down: no process of {bench.state} is left\n"
        else:
            once.send_signal(signal.SIGINT)
        stderr = once.communicate(timeout=240)[1]
    assert once.returncode == 2
    assert re.search(r"gmem: interrupted(?: by SIGTERM)?\n$", stderr)
    assert bench.heard("ended") == ["7.3 a"]
    assert marked(bench.state) == []
