# SPDX-License-Identifier: GPL-2.0-only
"""``gmem kernel`` as a process: tables, JSON, sentences and exit codes, on the kernel of a few lines."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cache import ContentCache
from harness.cli.kernel import PlainLines
from harness.kernel.apt import PrivateApt
from harness.kernel.catalog import Catalog
from harness.kernel.store import KernelStore
from tests.fake.kernel_archive import CHANGE, make_archive, make_configs

SECONDS = 60


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose cache has the stock kernel built; the archive is gone."""
    folder = tmp_path_factory.mktemp("machine")
    etc = make_archive(folder)
    catalog = Catalog.load(make_configs(folder / "host-configs"))
    cache = ContentCache(folder / "cache" / "gmem-harness")
    KernelStore(cache, catalog=catalog, apt=PrivateApt(cache.root / "apt", etc=etc, codename="bookworm")).resolve()
    return folder


def gmem(machine: Path, *words: str) -> subprocess.CompletedProcess[str]:
    catalog = ("--kernels", str(machine / "host-configs" / "kernels.yaml"))
    argv = [sys.executable, "-m", "harness.cli.main", "kernel", words[0], *catalog, *words[1:]]
    env = {**os.environ, "XDG_CACHE_HOME": str(machine / "cache"), "COLUMNS": "200"}
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_the_list(machine: Path) -> None:
    done = gmem(machine, "list")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]
    assert lines[0] == ["NAME", "FETCHED", "BUILT", "PATCHES", "NOTE"]
    assert lines[1][:4] == ["stock (default)", "9.9.1-1", "yes", "none"]
    assert lines[2][:4] == ["changed", "9.9.1-1", "no", "change.patch"]


def test_the_list_as_json(machine: Path) -> None:
    done = gmem(machine, "list", "--json")
    content = json.loads(done.stdout)
    assert content["default"] == "stock"
    stock, changed = content["kernels"]
    assert Path(stock["built"]).is_file()
    assert (changed["built"], changed["patches"], changed["version"]) == (None, ["change.patch"], "9.9.1-1")


def test_build_prints_the_image_and_progress_goes_to_standard_error(machine: Path) -> None:
    done = gmem(machine, "build", "changed")
    assert done.returncode == 0, done.stderr
    assert Path(re.findall(r"^image +(\S+)$", done.stdout, re.M)[0]).is_file()
    assert "release  9.9.1" in done.stdout
    assert "building the kernel ..." in done.stderr
    assert gmem(machine, "build", "changed").stderr == "", "the second time there is nothing to do"


def test_build_with_a_patch_as_json(machine: Path) -> None:
    patch = machine / "more.patch"
    patch.write_text(CHANGE.replace("ONE + 1", "ONE + 9"))
    done = gmem(machine, "build", "--patch", str(patch), "--json")
    content = json.loads(done.stdout)
    assert content["patches"] == ["more.patch"]
    assert Path(content["image"]).is_file()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("build", "stokc"), 4, "there is no kernel stokc (did you mean stock?)"),
        (("fetch", "stokc"), 4, "there is no kernel stokc (did you mean stock?)"),
        (("build", "--patch", "/nope", "stock"), 4, "the patch /nope does not exist"),
        (("build", "/dev/null"), 4, "/dev/null is not an x86-64 kernel image (bzImage): it has only 0 bytes"),
    ],
)
def test_what_cannot_be_is_one_sentence(machine: Path, words: tuple[str, ...], code: int, sentence: str) -> None:
    done = gmem(machine, *words)
    assert done.returncode == code
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_terminal_gets_bars(machine: Path) -> None:
    patch = machine / "terminal.patch"
    patch.write_text(CHANGE.replace("ONE + 1", "ONE + 8"))
    catalog = str(machine / "host-configs" / "kernels.yaml")
    argv = [sys.executable, "-m", "harness.cli.main", "kernel", "build", "--kernels", catalog, "--patch", str(patch)]
    ours, theirs = pty.openpty()
    env = {**os.environ, "XDG_CACHE_HOME": str(machine / "cache"), "TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, stderr=theirs, timeout=SECONDS, check=False)
    os.close(theirs)
    shown = os.read(ours, 1 << 20).decode()
    os.close(ours)
    assert done.returncode == 0, shown
    assert "building the kernel" in shown
    assert "\x1b[" in shown


def test_plain_lines_are_few(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("harness.cli.kernel.time.monotonic", lambda: now)
    show = PlainLines()
    for step in range(1, 121):
        now += 1.0
        show("build", step, 120)
    show("fetch", 1, None)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "building the kernel ...",
        "building the kernel: 25 %",
        "building the kernel: 50 %",
        "building the kernel: 75 %",
        "fetching the kernel source ...",
    ]
