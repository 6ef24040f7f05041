# SPDX-License-Identifier: GPL-2.0-only
"""A kernel handed over to an emulated host by kexec: the one that was wanted runs, or the sentence says which does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.kernel.buildid import of_image
from harness.kernel.store import KernelStore
from tests.emulated.conftest import RUN_SECONDS
from tests.emulated.test_remote import gmem, there

pytestmark = pytest.mark.timeout(RUN_SECONDS)
FIRST, SECOND = "7.3-kexec", "7.3-thp-discard-kexec"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Name of a testbed without guests, and the file of a host with which it is reached; a power hook renews it."""
    name = f"handover-{os.getpid()}"
    lab = f"gmem lab up --name {name} --kernel {FIRST} --guests 0 --fresh && gmem lab ssh-config --name {name} --initrd"
    path = tmp_path / "h.yaml"
    path.write_text(
        "schema: 1\nname: h\ntransport: ssh\n"
        f"ssh: {{host: gmem-lab-{name}, config: 'cache:lab/{name}/ssh_config'}}\n"
        f"handover: {{how: kexec, initrd: 'cache:lab/{name}/initrd', append: gmem.net=1, seconds: 120}}\n"
        f"hooks: {{power_cycle: [sh, -c, 'gmem lab down --name {name} && {lab}']}}\n"
    )
    up = gmem("lab", "up", "--name", name, "--kernel", FIRST, "--guests", "0", "--fresh", seconds=RUN_SECONDS)
    try:
        assert up.returncode == 0, up.stderr
        assert gmem("lab", "ssh-config", "--name", name, "--initrd").returncode == 0
        yield name, str(path)
    finally:
        gmem("lab", "down", "--name", name)


def test_the_kernel_that_was_wanted_runs(host: tuple[str, str]) -> None:
    name, file = host
    wanted = of_image(KernelStore().resolve(SECOND).image).value
    assert there(name, "cat", "/sys/module/kvm/parameters/gmem_2m_enabled") == ""
    done = gmem("host", "boot", "--host", file, "--kernel", SECOND, seconds=RUN_SECONDS)
    assert done.returncode == 0, done.stderr
    assert f"proof: build id {wanted} in /sys/kernel/notes is that of the image" in done.stdout
    assert there(name, "cat", "/sys/module/kvm/parameters/gmem_2m_enabled") == "Y\n"
    assert there(name, "cat", "/proc/cmdline").split().count("gmem.net=1") == 1


def test_one_that_does_not_come_up(host: tuple[str, str]) -> None:
    """It panics, which ends the machine; the power hook brings the first kernel back."""
    words = ("--kernel", SECOND, "--append", "rdinit=/nothing", "--seconds", "30")
    done = gmem("host", "boot", "--host", host[1], *words, seconds=RUN_SECONDS)
    assert done.returncode == 7
    first = of_image(KernelStore().resolve(FIRST).image).value[:12]
    assert "after hooks.power_cycle it runs 7.3.4 #1 SMP PREEMPT" in done.stderr
    assert f"build id {first} (the kernel from before)" in done.stderr
