# SPDX-License-Identifier: GPL-2.0-only
"""What a connection owes: deadlines that hold whoever has the pipes, and folders that do not stay."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from harness.host.reach import LocalReach, ReachError, SshReach, SshTarget


def test_a_process_that_holds_the_pipes() -> None:
    began = time.monotonic()
    with pytest.raises(ReachError, match=r"did not end within 0\.5 s"):
        LocalReach().run(["sh", "-c", "setsid sleep 20 & sleep 20"], timeout=0.5)
    assert time.monotonic() - began < 10


def test_folders_of_connections_whose_process_was_killed_go_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout
    kept = {}
    for name, pid, age in (("dead", dead, 1000), ("alive", str(os.getpid()), 1000), ("young", dead, 0)):
        folder = tmp_path / f"gmem-ssh-{name}"
        folder.mkdir()
        (folder / "pid").write_text(pid)
        os.utime(folder, (time.time() - age,) * 2)
        kept[name] = folder
    with pytest.raises(ReachError, match="no SSH connection with nowhere"):
        SshReach(SshTarget("nowhere.invalid", config="/dev/null"))
    assert {name for name, folder in kept.items() if folder.exists()} == {"alive", "young"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gmem-ssh-alive", "gmem-ssh-young"]
