# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU and a firmware of another Debian release, unpacked beside this machine's: to check lines against them.

Fetched once by package name with all libraries, some 45 MB, and run with its own dynamic linker: nothing of it is
installed.  The version of the first fetch is kept, so that later runs need no network.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.cache import ContentCache, content_key, require_space
from harness.errors import InfraError
from harness.kernel.apt import Deb, PrivateApt

QEMU_SUITES = ("trixie-backports", "trixie")
"""Where a QEMU with tdx-guest is: the first suite has it, the second the libraries."""
_PACKAGES = ("qemu-system-x86", "ovmf")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LINKER = "ld-linux-x86-64.so.2"
_LIST_SECONDS = 30
_FILTER: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
"""How a member is extracted; Python 3.11.2, which is Debian 12's, has no filters, and does so by itself."""
_WANTED = (
    f"./{_LIBRARIES}",
    "./usr/bin/qemu-system-x86_64",
    "./usr/share/qemu",
    "./usr/share/seabios",
    "./usr/share/ovmf",
    "./usr/share/OVMF",
)
_PROGRAM = f"""\
#!/bin/sh
# Modules of the machine's own QEMU would be tried first, and end this one.
here=$(dirname "$0")
libraries="$here/{_LIBRARIES}"
export QEMU_MODULE_DIR="$libraries/qemu"
exec "$libraries/{_LINKER}" --library-path "$libraries" "$here/usr/bin/qemu-system-x86_64" "$@"
"""
_LAYOUT = "2"
"""What is unpacked, and how: a new number makes the entries of the cache anew."""
_UNPACKED_BYTES = 400 << 20


class _Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str


@dataclass(frozen=True)
class UnpackedQemu:
    """The unpacked tree."""

    root: Path

    @property
    def program(self) -> Path:
        """Runs its QEMU."""
        return self.root / "qemu-system-x86_64"

    @property
    def data(self) -> list[str]:
        """Arguments that name its files: ROMs and firmware."""
        return ["-L", str(self.root / "usr/share/qemu"), "-L", str(self.root / "usr/share/seabios")]

    def files(self) -> dict[str, Path]:
        """What its QEMU runs with, without the data: name below the root to file.

        Raises ``InfraError`` where its dynamic linker does not find all libraries.
        """
        own = self.root / _LIBRARIES
        qemu = f"usr/bin/{self.program.name}"
        command = [str(own / _LINKER), "--library-path", str(own), "--list", str(self.root / qemu)]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=_LIST_SECONDS, check=False)
        if listed.returncode:
            raise InfraError(f"{self.root}: its QEMU cannot be run ({listed.stderr.strip()}); remove that folder")
        names = [self.program.name, qemu, f"{_LIBRARIES}/{_LINKER}"]
        for word in listed.stdout.split():
            if word.startswith(f"{own}/"):
                names.append(str(Path(word).relative_to(self.root)))
        return {name: self.root / name for name in names}

    @property
    def firmware(self) -> Path:
        """OVMF, whole."""
        return self.root / "usr/share/ovmf/OVMF.fd"


def unpacked_qemu(
    cache: ContentCache, suites: tuple[str, ...] = QEMU_SUITES, *, apt: PrivateApt | None = None
) -> UnpackedQemu:
    """The QEMU of a suite, from the cache; fetched first if it is not there.

    Raises ``InfraError``: no network, not offered, no space.
    """
    what = f"QEMU of {suites[0]}"
    pin_path = cache.root / "pins" / f"qemu_{suites[0]}.json"
    with cache.lock(f"fetch-qemu-{suites[0]}", what=f"fetching the {what}"):
        if (key := _pinned(pin_path)) and (kept := cache.get("qemu", key, what=what)):
            return UnpackedQemu(kept)
        apt = apt or PrivateApt(cache.root / "apt")
        debs = apt.closure(_PACKAGES, suites)
        require_space(cache.root, sum(deb.size for deb in debs) + _UNPACKED_BYTES, f"the {what}")
        key = content_key(_LAYOUT, *(deb.filename for deb in debs))
        place = cache.entry("qemu", key, lambda folder: _fetch(apt, suites, debs, folder), what=what)
        pin_path.parent.mkdir(parents=True, exist_ok=True)
        fresh = pin_path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(_Pin(key)))
        fresh.rename(pin_path)
    return UnpackedQemu(place)


def _pinned(path: Path) -> str:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Pin).key
    except (FileNotFoundError, msgspec.DecodeError):
        return ""


def _fetch(apt: PrivateApt, suites: tuple[str, ...], debs: tuple[Deb, ...], folder: Path) -> None:
    """Fills an entry of the cache."""
    scratch = folder / "debs"
    try:
        found = apt.download_closure(_PACKAGES, suites, scratch)
        if len(found) != len(debs):
            raise InfraError(f"{len(found)} packages were fetched for the QEMU of {suites[0]}, and {len(debs)} named")
        for deb in found:
            _unpack(deb, folder)
        program = folder / "qemu-system-x86_64"
        program.write_text(_PROGRAM)
        program.chmod(0o755)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack(deb: Path, folder: Path) -> None:
    """Unpacks of a package what a QEMU needs at run time, if it has any of it; most is documentation."""
    unpacking = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    assert unpacking.stdout is not None
    try:
        with tarfile.open(fileobj=unpacking.stdout, mode="r|") as tar:
            for member in tar:
                if member.name.startswith(_WANTED):
                    tar.extract(member, folder, **_FILTER)
            while unpacking.stdout.read(
                1 << 16
            ):  # what follows the end of the archive; dpkg-deb fails if it cannot write
                pass
    except tarfile.TarError as error:
        raise InfraError(f"the package {deb.name} cannot be unpacked: {error}") from error
    finally:
        unpacking.stdout.close()
        code = unpacking.wait(30)
    if code:
        raise InfraError(f"the package {deb.name} cannot be unpacked: dpkg-deb ended with status {code}")
