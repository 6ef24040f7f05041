# SPDX-License-Identifier: GPL-2.0-only
"""``gmem doctor --host`` on a real kernel, over a real SSH connection: the emulated host as somebody's machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

UP_SECONDS = 900.0
"""The first test may have to build a kernel and to boot."""
SECONDS = 120.0
"""The visit takes 10 s on an idle machine: some sixty commands, each over SSH into a machine without KVM."""


def gmem(*words: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    command = [sys.executable, "-m", "harness.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.fixture(scope="module")
def name() -> Iterator[str]:
    """An emulated host without guests that SSH reaches."""
    name = f"doctor-{os.getpid()}"
    up = gmem("lab", "up", "--name", name, "--guests", "0", seconds=UP_SECONDS)
    try:
        assert up.returncode == 0, up.stderr
        assert gmem("lab", "ssh-config", "--name", name).returncode == 0
        yield name
    finally:
        gmem("lab", "down", "--name", name)


def host_file(folder: Path, name: str, requires: str) -> str:
    path = folder / "h.yaml"
    path.write_text(
        f"schema: 1\nname: h\ntransport: ssh\nssh: {{host: gmem-lab-{name}, config: 'cache:lab/{name}/ssh_config'}}\n"
        f"tee: [sw-protected, bare]\nrequires: {requires}\n"
    )
    return str(path)


def test_what_the_emulated_host_can_do(name: str, tmp_path: Path) -> None:
    met = "{vm_types: [sw-protected], kvm_caps: {memory_attributes: 8, exit_hypercall: 4096}, kernel_min: 6.12}"
    told = gmem("doctor", "--host", host_file(tmp_path, name, met), "--require", "--json")
    assert told.returncode == 0, told.stdout + told.stderr
    report = json.loads(told.stdout)
    states = {row["name"]: row["state"] for row in report["capabilities"]}
    yes = ("kvm", "sw-protected", "plain", "bare", "guest_memfd", "memory attributes", "pre-fault", "cachestat")
    assert {states[row] for row in yes} == {"yes"}, states
    assert {states[row] for row in ("snp", "tdx")} == {"no"}
    left = gmem("lab", "shell", "--name", name, "--", "ls", "/tmp")
    assert "gmem-kvmcaps" not in left.stdout


def test_what_it_lacks_is_exit_code_3(name: str, tmp_path: Path) -> None:
    unmet = "{vm_types: [snp], kernel_min: 99.0}"
    place = host_file(tmp_path, name, unmet)
    told = gmem("doctor", "--host", place, "--require")
    assert told.returncode == 3
    assert "missing  requires.vm_types: no VM of type snp can be made" in told.stdout
    assert "wanted 99.0" in told.stdout
    assert told.stdout.splitlines()[-1] == "not ready: 2 missing"
    assert gmem("doctor", "--host", place, "--require", "sw-protected").returncode == 0
