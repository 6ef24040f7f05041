# SPDX-License-Identifier: GPL-2.0-only
"""Runs on a host that runs already that do not end well: a wrong design, and a harness that is killed."""

from __future__ import annotations

import signal
import time

import pytest

from tests.emulated.conftest import Gmem
from tests.emulated.test_remote import SECONDS, SETTING, gmem, host, there

__all__ = ["host"]

pytestmark = pytest.mark.emulated


def test_a_wrong_design_is_found_out_there_too(gmem_cli: Gmem, host: tuple[str, str]) -> None:
    ended = gmem_cli.run("smoke", "-k", "one_page", "--host", host[1], "--design", "inplace")
    assert ended.code == 1, ended.stdout + ended.stderr
    assert "gmem/g0" in ended.said()


def test_nothing_runs_on_after_the_harness_is_killed(gmem_cli: Gmem, host: tuple[str, str]) -> None:
    """What was started ends by itself; what was set is set back by ``gmem host restore``, or by the next run."""
    name, file = host
    before = there(name, "cat", SETTING)
    process, _ = gmem_cli.start("smoke", "--host", file)
    end = time.monotonic() + SECONDS
    while "qemu" not in there(name, "ps"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no guest was started"
        time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    end = time.monotonic() + SECONDS
    while "qemu" in there(name, "ps") or "gmem-relay" in there(name, "ps"):
        assert time.monotonic() < end, there(name, "ps")
        time.sleep(1.0)
    assert there(name, "cat", SETTING) == "33\n"
    restored = gmem("host", "restore", "--host", file)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert there(name, "cat", SETTING) == before
    assert "gmem" not in there(name, "ls", "/run")
