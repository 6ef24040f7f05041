# SPDX-License-Identifier: GPL-2.0-only
"""``gmem nightly`` with a real master and real workers: whatever dies, every result is whole and nothing is left."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from nightly_bench import BAD, GOOD, Bench, make_bench, until

from harness.nightly.leftovers import marked, wait_for_none

MATRIX = """\
schema: 1
kernels:
  "7.3":
  next: {git: ./linux, branch: topic}
hosts:
  a: {host: ./a.yaml}
  b: {host: ./b.yaml}
suites:
  quick: {run: [smoke], cases: one_page}
"""
END_SECONDS = 60.0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    git = ["git", "-C", str(tmp_path / "linux"), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "linux").mkdir()
    subprocess.run([*git, "init", "-q", "-b", "topic"], check=True, timeout=60)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True, timeout=60)
    return make_bench(tmp_path, MATRIX)


def get(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=60) as answer:
        return answer.read().decode()


def test_every_cell_once_whatever_dies(bench: Bench) -> None:
    bench.order(**{"7.3_a": ["slow", 0], "7.3_b": [3, 3, 0], "next_a": [1], "next_b": [1]})
    with bench.start("once", "--config", str(bench.matrix), "--json") as once:
        slow = until(lambda: next((one for one in bench.said() if "slow" in one), None), once)
        settings = json.loads((bench.state / "settings.json").read_text())
        url = f"http://127.0.0.1:{settings['web_port']}/"
        assert "grid_view" in get(url), "the page names the plugin"
        assert "/grid" in get(f"{url}plugins/grid_view/scripts.js")
        os.kill(slow["worker"], signal.SIGKILL)
        stdout, stderr = once.communicate(timeout=240)
    assert once.returncode == 1, stderr
    assert "the worker of a died (SIGKILL): started again" in stderr
    cells = {(cell["kernel"], cell["host"]): cell for cell in json.loads(stdout)["cells"]}
    assert {key: (cell["told"]["verdict"], cell["told"]["tries"]) for key, cell in cells.items()} == {
        ("7.3", "a"): ("pass", 2),
        ("7.3", "b"): ("pass", 3),
        ("next", "a"): ("deviates", 1),
        ("next", "b"): ("deviates", 1),
    }
    assert bench.heard("ended") == ["7.3 a"], "the run ended with its worker"
    folder = Path(cells["7.3", "a"]["told"]["folder"])
    assert re.fullmatch(r"\d{8}-2", folder.name)
    assert (folder / "run.json").is_file(), "the result is that of the second attempt, and whole"
    check_words(bench)
    assert all(cells["next", host]["bisection"]["found"] == BAD for host in ("a", "b"))
    for host in ("a", "b"):
        runs = [one for one in bench.said() if "run" in one and one["run"].endswith(host)]
        assert all(one["to"] <= other["from"] for one, other in itertools.pairwise(runs)), "one at a time"
    assert marked(bench.state) == []


def check_words(bench: Bench) -> None:
    """What the commands of the jobs were."""
    assert len(bench.heard("bisect")) == 1, "the same commits on two hosts are bisected once"
    words = bench.heard("bisect")[0]
    assert words[1:4] == ["smoke", "--tree", str(bench.folder / "linux")]
    assert words[words.index("--good") + 1 : words.index("--good") + 4] == [GOOD, "--bad", BAD]
    assert words[words.index("-k") + 1] == "one_page"
    run = next(one["words"] for one in bench.said() if one.get("run") == "7.3 b")
    assert run[: run.index("--out")] == [
        *("run", "smoke", "--kernel", "7.3", "--host", str(bench.folder / "b.yaml"), "--guest", "snp-stand-in"),
        *("--design", "auto", "-k", "one_page"),
    ]
    added = [words for words in bench.heard("other") if words[:2] == ["history", "add"]]
    assert len(added) == 4, "attempts that are run again are not added"
    assert sum(words[-4:] == ["--branch", "topic", "--commit", BAD] for words in added) == 2


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


def test_ctrl_c_ends_everything(bench: Bench) -> None:
    bench.order(**{"7.3_a": ["slow"]})
    with bench.start("once", "--config", str(bench.matrix)) as once:
        until(lambda: bench.heard("slow"), once)
        once.send_signal(signal.SIGINT)
        stderr = once.communicate(timeout=240)[1]
    assert once.returncode == 2
    assert stderr.endswith("gmem: interrupted\n")
    assert bench.heard("ended") == ["7.3 a"]
    assert marked(bench.state) == []
