# SPDX-License-Identifier: GPL-2.0-only
"""Packs an initramfs: the same files give the same bytes.

The archive is written by Debian's ``cpio`` from a staged tree whose times are all zero, whose names are sorted and
whose owner is root; device numbers and inode numbers are renumbered.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from harness.errors import InfraError

_CPIO_SECONDS = 120
_LDD_SECONDS = 30


@dataclass(frozen=True)
class Tree:
    """What goes into an archive; destinations are absolute paths inside it."""

    files: Mapping[str, Path]
    """Destination to the file on this machine; its executable bit is kept."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Destination to the text of the symbolic link."""
    folders: tuple[str, ...] = ()


def shared_libraries(program: Path) -> dict[str, Path]:
    """The shared libraries of ``program`` with its loader: destination (as the loader looks for it) to file.

    Raises ``InfraError`` when a library is missing or ``program`` is no dynamic executable.
    """
    try:
        listing = subprocess.run(
            ["ldd", str(program)], capture_output=True, text=True, errors="replace", timeout=_LDD_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join(error.stderr.split()) if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise InfraError(f"{program}: cannot list its shared libraries with ldd ({said})") from error
    found: dict[str, Path] = {}
    for line in listing.splitlines():
        words = line.split()
        if "not found" in line:
            raise InfraError(f"{program}: its library {words[0]} is not installed; reinstall the package it comes from")
        paths = [word for word in words if word.startswith("/")]
        if paths:
            found[paths[0]] = Path(paths[0]).resolve()
    return found


def pack(tree: Tree, out: Path) -> None:
    """Write ``tree`` as an uncompressed newc archive to ``out``; raises ``InfraError`` naming what is missing."""
    with tempfile.TemporaryDirectory(prefix="gmem-image-") as folder:
        stage = Path(folder) / "root"
        _stage(tree, stage)
        _archive(stage, out)


def _stage(tree: Tree, stage: Path) -> None:
    stage.mkdir()
    for name in tree.folders:
        (stage / name.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for name, source in tree.files.items():
        target = stage / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise InfraError(f"{source}: needed for the image as {name}, but {error.strerror}") from error
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    for name, text in tree.links.items():
        target = stage / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(text)


def _archive(stage: Path, out: Path) -> None:
    names = sorted(str(path.relative_to(stage)) for path in stage.rglob("*"))
    for name in [*names, "."]:
        path = stage / name
        if not path.is_symlink():
            os.utime(path, (0, 0))
            if path.is_dir():
                path.chmod(0o755)
        else:
            os.utime(path, (0, 0), follow_symlinks=False)
    for name in [*reversed(names), "."]:  # staging a child changed its folder's time
        if not (stage / name).is_symlink():
            os.utime(stage / name, (0, 0))
    command = ["cpio", "--create", "--format=newc", "--reproducible", "--owner=0:0", "--quiet", "--null"]
    try:
        with out.open("wb") as archive:
            _run_cpio(command, "\0".join(names).encode() + b"\0", stage, archive, out)
    except OSError as error:
        raise InfraError(f"{out}: the image cannot be written there: {error.strerror}") from error


def _run_cpio(command: list[str], names: bytes, stage: Path, archive: BinaryIO, out: Path) -> None:
    try:
        subprocess.run(
            command, input=names, stdout=archive, cwd=stage, timeout=_CPIO_SECONDS, check=True, stderr=subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise InfraError("cpio is not installed; install the Debian package cpio") from error
    except subprocess.TimeoutExpired as error:
        raise InfraError(f"cpio did not write {out} within {_CPIO_SECONDS} s; the disk may be overloaded") from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.decode(errors="replace").split())
        raise InfraError(f"cpio could not write {out}: {said or f'status {error.returncode}'}") from error
