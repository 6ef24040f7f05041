# SPDX-License-Identifier: GPL-2.0-only
"""``gmem lab`` as a process, where no testbed can come up: one sentence each, and the exit code of its class."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from harness.host.emulated import state
from harness.host.lab.place import Place
from harness.host.lab.record import LabRecord, Life, Plan

SECONDS = 60.0
NONE_UP = "gmem: no testbed is up; gmem lab up brings one up\n"


def lab(cache: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``gmem lab WORDS`` with a cache of its own, below ``cache``."""
    return subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "lab", *words],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def dead(cache: Path) -> Place:
    """The record of a testbed whose holder was killed."""
    place = Place(cache / "gmem-harness", "default")
    place.make()
    plan = Plan(
        root=str(place.root), name="default", image="/k", initrd="/i", spec=state.TestbedSpec.of(), kernel="7.3",
        origin="booted afresh", guest_kind="sw-protected (SNP stand-in)",
    )  # fmt: skip
    LabRecord(plan=plan, holder=4194304, began=time.time(), life=Life.UP).save(place.record)
    place.evidence.mkdir()
    (place.evidence / "host-console.txt").write_text("Linux version 7.3\n")
    return place


@pytest.mark.parametrize("words", [("status",), ("guest", "--", "uname"), ("shell",), ("save", "/tmp/x")])
def test_nothing_is_up(tmp_path: Path, words: tuple[str, ...]) -> None:
    ended = lab(tmp_path, *words)
    assert (ended.returncode, ended.stdout, ended.stderr) == (4, "", NONE_UP)


def test_nothing_is_up_for_a_program(tmp_path: Path) -> None:
    ended = lab(tmp_path, "status", "--json")
    assert (ended.returncode, json.loads(ended.stdout)) == (4, {"testbeds": []})


def test_down_without_a_testbed_has_nothing_to_do(tmp_path: Path) -> None:
    ended = lab(tmp_path, "down")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "no testbed is up\n", "")


def test_a_dead_one(tmp_path: Path) -> None:
    place = dead(tmp_path)
    for words in (("status",), ("guest", "--", "uname"), ("save", str(tmp_path / "x"))):
        ended = lab(tmp_path, *words)
        assert (ended.returncode, ended.stdout) == (3, "")
        assert ended.stderr.startswith("gmem: testbed default is not up any more: its holder, process 4194304, was ")
        assert ended.stderr.count("\n") == 1
    assert json.loads(lab(tmp_path, "status", "--json").stdout)["testbeds"][0]["up"] is False
    ended = lab(tmp_path, "down")
    assert (ended.returncode, ended.stdout) == (0, "testbed default is gone; it was dead already\n")
    assert not place.folder.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("up", "--name", "../x"), "a testbed cannot be called '../x'"),
        (("up", "--guests", "8"), "8 is not in the range 0<=x<=7"),
        (("up", "--guest", "tdx"), "unknown launch 'tdx'"),
        (("up", "--kernel", "no-such-kernel"), "there is no kernel no-such-kernel"),
        (("up", "--state", "."), "holds no saved testbed: it has no state.bin"),
        (("up", "--state", ".", "--guests", "2"), "--guests makes no sense with --state"),
        (("up", "--state", ".", "--fresh"), "--fresh makes no sense with --state"),
        (("status", "--name", "other"), "no testbed called other is up; gmem lab up --name other brings it up"),
        (("frobnicate",), "No such command 'frobnicate'"),
    ],
)
def test_what_cannot_be(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    ended = lab(tmp_path, *words)
    assert ended.returncode == 4, ended.stderr
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "gmem-harness" / "lab").exists()


def test_a_command_without_dashes(tmp_path: Path) -> None:
    dead(tmp_path)
    ended = lab(tmp_path, "guest", "uname", "-a")
    assert ended.returncode == 4
    assert "No such option" in ended.stderr


def test_a_saved_testbed_whose_kernel_is_gone(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "state.bin").write_text("")
    known = state.TestbedState(
        release="7.3", version="", guests=(), user_key="", user_public="", host_keys={}, host_public={}, kernel_facts={}
    )
    known.save(saved / "testbed.json")
    spec = msgspec.to_builtins(state.TestbedSpec.of())
    (saved / "machine.json").write_text(json.dumps({"kernel": "/gone/bzImage", "initrd": "/gone/i", "spec": spec}))
    ended = lab(tmp_path, "up", "--state", str(saved))
    assert ended.returncode == 3
    assert "cannot be restored: it was made of /gone/bzImage, which is gone" in ended.stderr
    (saved / "testbed.json").write_text("{}")
    assert "not the description of a saved testbed" in lab(tmp_path, "up", "--state", str(saved)).stderr


def test_up_does_not_disturb_a_dead_one_when_it_cannot_replace_it(tmp_path: Path) -> None:
    place = dead(tmp_path)
    assert lab(tmp_path, "up", "--kernel", "no-such-kernel").returncode == 4
    assert (place.evidence / "host-console.txt").exists()
