# SPDX-License-Identifier: GPL-2.0-only
"""A full Debian as a guest: its own kernel, systemd, an SSH server, our conversion module and control program.

Installed by ``mmdebstrap`` from the archive that this machine's apt uses, so that no address stands here.  What is put
into it is in ``guest-images/debian``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import InfraError, UsageError
from harness.images.recipes import GUEST_IMAGES, MODULE_SOURCES
from harness.kernel.apt import network_settings
from harness.kernel.apt_sources import archive_for, codename, private_stanza, read_sources
from harness.kernel.commands import Finished, run
from harness.native.build import build_program

FORMS: Final = ("ext4", "cpio")
SOURCES: Final = GUEST_IMAGES / "debian"
PACKAGES: Final = (
    *("linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "udev", "dbus", "kmod"),
    *("openssh-server", "iproute2", "procps", "debian-archive-keyring"),
)
_FOR_THE_MODULE: Final = ("linux-headers-cloud-amd64", "make")
"""Removed again once it is built."""
INSTALL_SECONDS: Final = 1800.0
_PACK_SECONDS: Final = 300.0
_NEEDS: Final = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "cpio": "cpio"}
_NAMES: Final = {"ext4": "root.ext4", "cpio": "root.cpio"}
_BOOT_WORDS: Final = {"ext4": "root=/dev/vda rw console=ttyS0", "cpio": "rdinit=/sbin/init console=ttyS0"}


@dataclass(frozen=True)
class DebianGuest:
    """What the image shall be."""

    suite: str = "trixie"
    form: str = "ext4"
    """``ext4`` is a disk for virtio-blk, beside kernel and initrd; ``cpio`` is an initramfs with everything."""
    size_mib: int = 2048
    """Of the disk; its file is sparse."""
    keys: Path | None = None
    """Public keys that may log in as root; nobody can without."""
    module: bool = True
    """Build the conversion module for the image's kernel."""
    packages: tuple[str, ...] = ()
    """Further ones."""


@dataclass(frozen=True)
class Built:
    """An image that is ready."""

    kernel: Path
    initrd: Path
    """The distribution's own, or for ``cpio`` the whole guest."""
    disk: Path | None
    append: str
    """Words that its kernel needs."""
    release: str
    module: bool
    seconds: float


def install_command(guest: DebianGuest, work: Path, sources: Path, options: Path, root: Path) -> list[str]:
    """mmdebstrap's command line: ``work`` has the script and all that it puts into the folder ``root``."""
    packages = [*PACKAGES, *(_FOR_THE_MODULE if guest.module else ()), *guest.packages]
    return [
        "mmdebstrap",
        *("--mode=root", "--variant=apt", "--format=directory", "--architectures=amd64"),
        f"--include={','.join(packages)}",
        f"--aptopt={options}",
        f"--customize-hook={work}/customize",
        guest.suite,
        str(root),
        str(sources),
    ]


def check_guest(guest: DebianGuest) -> None:
    """Raises ``UsageError`` for a guest that cannot be, ``InfraError`` for what this machine lacks."""
    if guest.form not in FORMS:
        raise UsageError(f"a guest image is {' or '.join(FORMS)}, not {guest.form}")
    if guest.keys is not None and not guest.keys.is_file():
        raise UsageError(f"the public keys {guest.keys} are no file")
    for program in ("mmdebstrap", "mke2fs" if guest.form == "ext4" else "cpio"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            raise InfraError(f"{program} is not installed: apt-get install {_NEEDS[program]}")
    if os.geteuid() != 0:
        raise InfraError("a Debian guest is installed as root, since its files belong to root: use sudo")


def build_debian(guest: DebianGuest, out: Path, notice: Callable[[str], None]) -> Built:
    """Make the image in the folder ``out``, which is made if need be; an image that is there is replaced.

    Raises ``UsageError`` or ``InfraError``; the old image is then as it was.
    """
    check_guest(guest)
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=out) as name:
        place = Path(name)
        work, root, fresh = place / "work", place / "root", place / "fresh"
        for folder in (work, root, fresh):
            folder.mkdir()
        _fill(guest, work)
        sources, options = _apt_files(guest.suite, place)
        notice(f"installing Debian {guest.suite} (a minute, and some 300 MB to fetch)")
        done = run(install_command(guest, work, sources, options, root), timeout=INSTALL_SECONDS, tail_lines=400)
        if done.code:
            raise InfraError(f"mmdebstrap could not install {guest.suite}: {_why(done)}")
        release = (work / "release").read_text().strip()
        notice(f"packing {_NAMES[guest.form]}")
        shutil.copyfile(root / f"boot/vmlinuz-{release}", fresh / "vmlinuz")
        if guest.form == "ext4":
            shutil.move(root / f"boot/initrd.img-{release}", fresh / "initrd.img")
            _pack_ext4(root, fresh / _NAMES["ext4"], guest.size_mib)
        else:
            shutil.rmtree(root / "boot")
            _pack_cpio(root, fresh / _NAMES["cpio"])
        record = {"append": _BOOT_WORDS[guest.form], "module": guest.module, "release": release, "suite": guest.suite}
        (fresh / "image.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        for path in sorted(fresh.iterdir()):
            path.replace(out / path.name)
    disk = out / _NAMES["ext4"] if guest.form == "ext4" else None
    initrd = out / ("initrd.img" if disk else _NAMES["cpio"])
    took = time.monotonic() - began
    return Built(out / "vmlinuz", initrd, disk, _BOOT_WORDS[guest.form], release, guest.module, took)


def _fill(guest: DebianGuest, work: Path) -> None:
    """Everything that the script puts into the guest."""
    for path in SOURCES.iterdir():
        shutil.copy(path, work / path.name)
    build_program("control", work)
    if guest.module:
        (work / "module").mkdir()
        for path in MODULE_SOURCES.iterdir():
            if path.suffix == ".c" or path.name == "Makefile":
                shutil.copy(path, work / "module" / path.name)
    if guest.keys is not None:
        shutil.copyfile(guest.keys, work / "authorized_keys")


def _apt_files(suite: str, place: Path) -> tuple[Path, Path]:
    """Where the packages come from, and how this machine reaches that; raises ``InfraError``."""
    sources, options = place / "debian.sources", place / "apt.conf"
    sources.write_text(private_stanza(archive_for(suite, read_sources(), codename()), suite))
    lines = ['APT::Install-Recommends "false";', 'Acquire::Languages "none";', *network_settings()]
    options.write_text("\n".join(lines) + "\n")
    return sources, options


def _why(done: Finished) -> str:
    """The most telling of the last lines."""
    wrong = [line for line in done.tail if line.startswith("E:") and "mmdebstrap failed" not in line]
    return (wrong or list(done.tail) or [f"status {done.code}"])[-1].removeprefix("E:").strip()[:400]


def _pack_ext4(root: Path, out: Path, size_mib: int) -> None:
    command = ["mke2fs", "-q", "-t", "ext4", "-L", "gmem-guest", "-d", str(root), str(out), f"{size_mib}M"]
    env = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    done = run(command, timeout=_PACK_SECONDS, env=env)
    if done.code:
        raise InfraError(f"mke2fs could not make a disk of {size_mib} MiB: {_why(done)}")


def _pack_cpio(root: Path, out: Path) -> None:
    """The whole tree, with owners and devices as they are."""
    script = "set -o pipefail; find . -print0 | LC_ALL=C sort -z | cpio --create --format=newc --quiet --null"
    try:
        with out.open("wb") as stream:
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=root,
                stdout=stream,
                stderr=subprocess.PIPE,
                timeout=_PACK_SECONDS,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfraError(f"{out} cannot be packed: {error}") from error
    if done.returncode:
        raise InfraError(f"cpio could not write {out}: {done.stderr.decode(errors='replace').strip()[:300]}")
