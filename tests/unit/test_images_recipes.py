# SPDX-License-Identifier: GPL-2.0-only
"""What is in the guest's image, and what its key depends on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.cache import ContentCache
from harness.errors import InfraError
from harness.images import recipes
from harness.images.recipes import guest_image, guest_image_key, host_image


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "gmem_conv.ko"
    path.write_bytes(b"a module")
    return path


def test_the_guests_image(tmp_path: Path, module: Path) -> None:
    image = guest_image(ContentCache(tmp_path / "cache"), module)
    listing = subprocess.run(
        ["cpio", "-tv", "--quiet"], stdin=image.open("rb"), capture_output=True, text=True, check=True
    ).stdout
    shown = {line.split()[8]: line.split()[0] for line in listing.splitlines()}
    for name in ("init", "bin/busybox", "bin/gmem-control", "usr/sbin/dropbear"):
        assert shown[name] == "-rwxr-xr-x", name
    assert shown["lib/modules/gmem_conv.ko"] == "-rw-r--r--"
    assert {"dev", "proc", "sys", "tmp", "run", "etc/passwd"} <= shown.keys()
    assert any("libc.so.6" in name for name in shown), "dropbear would find no C library"
    data = image.read_bytes()
    assert b"a module" in data
    assert str(tmp_path).encode() not in data
    assert guest_image(ContentCache(tmp_path / "cache"), module) == image
    assert guest_image(ContentCache(tmp_path / "other"), module).read_bytes() == data


def test_the_key_is_that_of_the_content(tmp_path: Path, module: Path) -> None:
    key = guest_image_key(module)
    os.utime(module, (1, 1))
    moved = tmp_path / "elsewhere.ko"
    moved.write_bytes(module.read_bytes())
    assert guest_image_key(module) == guest_image_key(moved) == key
    moved.write_bytes(b"another module")
    assert guest_image_key(moved) != key


def test_a_source_of_ours_changes_the_key(tmp_path: Path, module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tmp_path / "guest-images"
    scripts.mkdir()
    (scripts / "init").write_text("one")
    monkeypatch.setattr(recipes, "GUEST_IMAGES", scripts)
    key = guest_image_key(module)
    (scripts / "left.o").write_text("what a compiler leaves")
    assert guest_image_key(module) == key
    (scripts / "init").write_text("two")
    assert guest_image_key(module) != key


def test_a_busybox_with_shared_libraries(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "find_program", lambda name: Path("/usr/bin/env"))
    with pytest.raises(InfraError, match=r"^/usr/bin/env needs shared libraries; .* package busybox-static instead$"):
        guest_image_key(module)


@pytest.mark.parametrize(
    ("program", "package"), [("busybox", "busybox-static"), ("dropbear", "dropbear-bin"), ("qemu-system-x86_64", None)]
)
def test_a_package_that_is_not_installed(
    tmp_path: Path, module: Path, monkeypatch: pytest.MonkeyPatch, program: str, package: str | None
) -> None:
    real = recipes.shutil.which
    monkeypatch.setattr(recipes.shutil, "which", lambda name, **more: None if name == program else real(name, **more))
    with pytest.raises(InfraError, match=rf"^{program} is not installed; .* package {package or 'qemu-system-x86'}$"):
        host_image(ContentCache(tmp_path), guest=module, guest_kernel=module)


def test_roms_that_are_missing(tmp_path: Path, module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "QEMU_DATA", tmp_path)
    with pytest.raises(InfraError, match=r"linuxboot_dma\.bin is missing; .* package qemu-system-data$"):
        host_image(ContentCache(tmp_path / "cache"), guest=module, guest_kernel=module)
