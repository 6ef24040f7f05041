# SPDX-License-Identifier: GPL-2.0-only
"""The Debian guest: what mmdebstrap is asked for, and what is said where it cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InfraError, UsageError
from harness.images import debian
from harness.images.debian import DebianGuest, build_debian, check_guest, install_command
from harness.kernel.commands import Finished


def line(guest: DebianGuest) -> list[str]:
    return install_command(guest, Path("/b/scratch"), Path("/b/debian.sources"), Path("/b/apt.conf"), Path("/b/root"))


def test_the_command_line() -> None:
    words = line(DebianGuest(packages=("strace",)))
    assert words[0] == "mmdebstrap"
    assert words[-3:] == ["trixie", "/b/root", "/b/debian.sources"]
    assert "--customize-hook=/b/scratch/customize" in words
    assert "--aptopt=/b/apt.conf" in words
    (included,) = (word.removeprefix("--include=").split(",") for word in words if word.startswith("--include="))
    assert {"linux-image-cloud-amd64", "systemd-sysv", "udev", "openssh-server", "strace"} <= set(included)
    assert {"linux-headers-cloud-amd64", "make"} <= set(included)
    assert "://" not in " ".join(words)


def test_without_the_module_nothing_is_compiled() -> None:
    assert "linux-headers" not in " ".join(line(DebianGuest(module=False)))


def test_mmdebstrap_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian.shutil, "which", lambda name, path=None: None)
    with pytest.raises(InfraError, match=r"^mmdebstrap is not installed: apt-get install mmdebstrap$"):
        check_guest(DebianGuest())


def test_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian.shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    monkeypatch.setattr(debian.os, "geteuid", lambda: 1000)
    with pytest.raises(InfraError, match=r"use sudo"):
        check_guest(DebianGuest())


def test_wrong_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ext4 or cpio, not qcow2"):
        check_guest(DebianGuest(form="qcow2"))
    with pytest.raises(UsageError, match=r"are no file"):
        check_guest(DebianGuest(keys=tmp_path / "none"))


def test_a_failure_has_apts_reason_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vmlinuz").write_text("old")
    monkeypatch.setattr(debian, "check_guest", lambda guest: None)
    monkeypatch.setattr(debian, "_apt_files", lambda suite, place: (place / "a", place / "b"))
    said = ("E: Unable to locate package linux-image-cloud-amd64", "E: mmdebstrap failed to run")
    monkeypatch.setattr(debian, "run", lambda argv, **more: Finished(25, said, 1.0))
    with pytest.raises(InfraError, match=r"could not install sarge: Unable to locate package linux-image-cloud-amd64"):
        build_debian(DebianGuest(suite="sarge"), tmp_path, lambda text: None)
    assert [path.name for path in tmp_path.iterdir()] == ["vmlinuz"]
    assert (tmp_path / "vmlinuz").read_text() == "old"
