# SPDX-License-Identifier: GPL-2.0-only
"""``gmem nightly`` with a real Buildbot master and real workers, and a ``gmem`` of paper that they call.

What the paper one does stands in ``orders.json``: for "KERNEL HOST" the exit codes of ``run``, one after the other (the
last one stays); "slow" sleeps until it is told to end.  It writes down what it was asked, and when.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

SECONDS = 90.0
"""For one start of master and workers with its jobs, on a machine that has other things to do; 10 s on an idle one."""
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
GOOD, BAD = "a" * 40, "b" * 40
_Found = TypeVar("_Found")

PAPER = """\
#!{python} -S
import fcntl, json, os, signal, sys, time
here, words = {folder!r}, sys.argv[1:]
option = lambda name: words[words.index(name) + 1]

def said(what):
    with open(here + "/said", "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(json.dumps(what) + "\\n")

def ended(number, frame):
    said({{"ended": cell}})
    sys.exit(2)

begun = time.time()
if words[0] == "run":
    cell = os.path.basename(option("--kernel")).removeprefix("vmlinuz-") + " " + option("--host").split("/")[-1][:-5]
    with open(here + "/orders.json") as stream:
        codes = json.load(stream).get(cell, [0])
    out = option("--out")
    os.makedirs(out)
    code = codes[min(int(out.rpartition("-")[2]), len(codes)) - 1]
    if code == "slow":
        signal.signal(signal.SIGTERM, ended)
        said({{"slow": cell, "pid": os.getpid(), "worker": os.getppid()}})
        time.sleep(300)
    time.sleep(0.2)
    open(out + "/run.json", "w").write("{{}}")
    said({{"run": cell, "words": words, "from": begun, "to": time.time(), "code": code}})
    sys.exit(code)
if words[0] == "bisect":
    said({{"bisect": words}})
    print(json.dumps({{"found": {bad!r}, "sentence": "the commit is bbbbbbbbbbbb"}}))
elif words[:2] == ["nightly", "job-kernel"]:
    kernel = words[words.index("--state") + 3]
    print(json.dumps({{"commit": {bad!r}, "title": "bbbbbbbbbbbb a subject", "image": here + "/vmlinuz-" + kernel}}))
elif words[:2] == ["nightly", "job-news"]:
    try:
        os.mkdir(here + "/claimed")
        first = "yes"
    except FileExistsError:
        first = ""
    print(json.dumps({{"sentence": "1 new", "good": {good!r}, "bad": {bad!r}, "bisection": "key", "asked": first}}))
else:
    said({{"other": words}})
"""


@dataclass
class Bench:
    """A folder with a matrix, hosts, the paper ``gmem`` and a state folder."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def matrix(self) -> Path:
        return self.folder / "matrix.yaml"

    def order(self, **codes: Sequence[int | str]) -> None:
        """For ``KERNEL_HOST``: what each attempt ends with."""
        (self.folder / "orders.json").write_text(json.dumps({key.replace("_", " "): codes[key] for key in codes}))

    def said(self) -> list[dict[str, Any]]:
        """What the paper one was asked, oldest first."""
        path = self.folder / "said"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def heard(self, key: str) -> list[Any]:
        return [entry[key] for entry in self.said() if key in entry]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """``gmem nightly`` (the real one) with those words."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            [sys.executable, "-m", "harness.cli.main", "nightly", *words, "--state", str(self.state)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PATH": path},
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str, str]:
        """To its end: exit code, standard output, standard error."""
        with self.start(*words) as process:
            stdout, stderr = process.communicate(timeout=SECONDS)
        return process.returncode, stdout, stderr


def make_bench(folder: Path, matrix: str) -> Bench:
    """Hosts are a and b, both emulated; ``linux`` is a git tree with a branch ``topic``."""
    (folder / "linux").mkdir()
    subprocess.run(["git", "-C", str(folder / "linux"), "init", "-q", "-b", "topic"], check=True, timeout=60)
    commit(folder / "linux")
    for host in ("a", "b"):
        text = f"schema: 1\nname: {host}\ntransport: emulated\ntee: [sw-protected]\n"
        (folder / f"{host}.yaml").write_text(text)
    paper = folder / "bin" / "gmem"
    paper.parent.mkdir()
    paper.write_text(PAPER.format(python=sys.executable, folder=str(folder), good=GOOD, bad=BAD))
    paper.chmod(0o755)
    bench = Bench(folder)
    bench.matrix.write_text(matrix)
    bench.order()
    return bench


def until(what: Callable[[], _Found], process: subprocess.Popen[str] | None = None) -> _Found:
    """Waits for something that is true; ``process`` must live meanwhile."""
    end = time.monotonic() + SECONDS
    while not (found := what()):
        assert time.monotonic() < end, "it did not come"
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.1)
    return found


def commit(tree: Path) -> None:
    """A commit that changes nothing."""
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a subject"], check=True, timeout=60)


def get(url: str) -> str:
    """A page of this machine."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=60) as answer:
        return str(answer.read().decode())
