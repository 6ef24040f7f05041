# SPDX-License-Identifier: GPL-2.0-only
"""Suites on a host that runs already: an emulated host that somebody started, reached by SSH alone.

``tests/matrix/test_remote_runs.py`` has what takes longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.emulated.conftest import RUN_SECONDS, Gmem

SECONDS = 120.0


def gmem(*words: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    command = [sys.executable, "-m", "harness.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Name of a testbed of ``gmem lab`` without guests, and the file with which ``gmem run`` reaches it."""
    name = f"remote-{os.getpid()}"
    up = gmem("lab", "up", "--name", name, "--guests", "0", seconds=RUN_SECONDS)
    try:
        assert up.returncode == 0, up.stderr
        assert gmem("lab", "ssh-config", "--name", name).returncode == 0
        path = tmp_path_factory.mktemp("host") / "h.yaml"
        path.write_text(
            "schema: 1\nname: h\ntransport: ssh\n"
            f"ssh: {{host: gmem-lab-{name}, config: 'cache:lab/{name}/ssh_config'}}\n"
            "vm: {swappiness: 33}\n"
        )
        yield name, str(path)
    finally:
        gmem("lab", "down", "--name", name)


def there(name: str, *words: str) -> str:
    """What a command on the host prints."""
    return gmem("lab", "shell", "--name", name, "--", *words).stdout


SETTING = "/proc/sys/vm/swappiness"
"""What the host's file wants to be 33."""


def test_it_is_judged_as_one_of_our_own(gmem_cli: Gmem, host: tuple[str, str]) -> None:
    """Conversions, a guest that ends, and what two CPUs' lists do with frames: all of it in windows without traffic."""
    name, file = host
    before = there(name, "cat", SETTING)
    ended = gmem_cli.run("smoke", "-k", "one_page or close", "--host", file)
    assert ended.code == 0, ended.stdout + ended.stderr
    assert ended.info["host"]["name"] == "h"
    assert ended.info["design"] == "order0"
    assert [case["verdict"] for case in ended.cases] == ["pass", "pass"]
    exact = [found for case in ended.cases for step in case["steps"] for found in step["findings"]]
    assert any(found["counter"] == "gmem/g0" and found["observed"] for found in exact)
    assert "qemu" not in there(name, "ps")
    assert "gmem" not in there(name, "ls", "/run")
    assert there(name, "cat", SETTING) == before != "33\n"
    assert gmem_cli.left_behind() == []


def test_what_makes_no_sense_there(host: tuple[str, str]) -> None:
    for words in (("--kernel", "7.3"), ("--cmdline", "quiet")):
        ended = gmem("run", "smoke", "--host", host[1], *words)
        assert ended.returncode == 4
        assert "runs the kernel that it runs" in ended.stderr + ended.stdout
