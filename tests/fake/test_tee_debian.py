# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU of another release out of a Debian archive of files: real apt, real dpkg, no network."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from harness.cache import ContentCache
from harness.errors import InfraError
from harness.guest.tee.debian import UnpackedQemu, unpacked_qemu
from harness.kernel.apt import NotOffered, PrivateApt

LIBRARIES = "usr/lib/x86_64-linux-gnu"
# stands in for the dynamic linker: says how it was called, and runs the "QEMU", a script
LINKER = '#!/bin/sh\necho "linker $1 ${2##*/}"\nshift 2\nexec sh "$@"\n'
QEMU = '#!/bin/sh\necho "qemu $* ${QEMU_MODULE_DIR##*/}"\n'


class Archive:
    """Suites trixie-backports, with QEMU, and trixie, with its libraries and the firmware."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.suites: dict[str, list[str]] = {"trixie-backports": [], "trixie": []}
        self.add("trixie", "ovmf", "2025.02-8", {"usr/share/ovmf/OVMF.fd": "firmware"})
        self.add("trixie", "libc6", "2.41", {f"{LIBRARIES}/ld-linux-x86-64.so.2": LINKER, "usr/share/doc/x": "words"})
        self.add_qemu("11.1.3")

    def add_qemu(self, version: str) -> None:
        files = {"usr/bin/qemu-system-x86_64": QEMU, "usr/share/qemu/x.rom": version, "usr/share/man/x": "words"}
        self.add("trixie-backports", "qemu-system-x86", version, files, depends="libc6")

    def add(self, suite: str, package: str, version: str, files: dict[str, str], depends: str = "") -> None:
        """Add a package to a suite; a newer one of the same name takes its place."""
        tree = self.folder / "build" / f"{package}-{version}"
        for name, content in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(content)
            (tree / name).chmod(0o755)
        control = f"Package: {package}\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@example.org>\n"
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN" / "control").write_text(control + "Description: x\n")
        deb = self.folder / f"{package}_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--build", tree, deb], check=True, capture_output=True, timeout=30)
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        stanza = f"{control}Filename: {deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"
        others = [text for text in self.suites[suite] if not text.startswith(f"Package: {package}\n")]
        self.suites[suite] = [*others, stanza]
        self.write()

    def write(self) -> None:
        for suite, stanzas in self.suites.items():
            index = self.folder / "dists" / suite / "main" / "binary-amd64"
            index.mkdir(parents=True, exist_ok=True)
            packages = "\n".join(stanzas)
            (index / "Packages").write_text(packages)
            digest = hashlib.sha256(packages.encode()).hexdigest()
            (self.folder / "dists" / suite / "Release").write_text(
                f"Suite: {suite}\nCodename: {suite}\nComponents: main\nArchitectures: amd64 all\n"
                f"Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {digest} {len(packages)} main/binary-amd64/Packages\n"
            )


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "debian")


@pytest.fixture
def apt(archive: Archive, tmp_path: Path) -> PrivateApt:
    etc = tmp_path / "etc"
    etc.mkdir()
    # copy: and not file:, which apt uses where it lies
    (etc / "sources.list").write_text(f"deb [trusted=yes] copy:{archive.folder} bookworm main\n")
    return PrivateApt(tmp_path / "apt", etc=etc, codename="bookworm")


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path / "cache", notify=lambda line: None)


def says(tree: UnpackedQemu) -> str:
    return subprocess.run([tree.program, "-S", "x"], capture_output=True, text=True, check=True).stdout


def test_it_runs_with_its_own_linker_and_libraries(cache: ContentCache, apt: PrivateApt) -> None:
    tree = unpacked_qemu(cache, apt=apt)
    assert says(tree) == "linker --library-path x86_64-linux-gnu\nqemu -S x qemu\n"
    assert tree.firmware.read_text() == "firmware"
    assert not (tree.root / "usr/share/doc").exists()
    assert not (tree.root / "usr/share/man").exists()
    assert not list(tree.root.glob("**/*.deb"))


def test_later_runs_need_no_archive_and_get_the_same(cache: ContentCache, apt: PrivateApt, archive: Archive) -> None:
    first = unpacked_qemu(cache, apt=apt)
    archive.add_qemu("11.1.4")
    nowhere = PrivateApt(Path("/there/is/none"), etc=Path("/there/is/none"), codename="bookworm")
    again = unpacked_qemu(ContentCache(cache.root), apt=nowhere)
    assert again == first
    assert (again.root / "usr/share/qemu/x.rom").read_text() == "11.1.3"


def test_a_damaged_tree_is_fetched_again(cache: ContentCache, apt: PrivateApt, archive: Archive) -> None:
    (unpacked_qemu(cache, apt=apt).root / "usr/share/qemu/x.rom").write_text("damage")
    archive.add_qemu("11.1.4")
    tree = unpacked_qemu(ContentCache(cache.root, notify=lambda line: None), apt=apt)
    assert (tree.root / "usr/share/qemu/x.rom").read_text() == "11.1.4"


def test_what_no_suite_offers(cache: ContentCache, apt: PrivateApt, archive: Archive) -> None:
    archive.suites["trixie"] = [text for text in archive.suites["trixie"] if "libc6" not in text]
    archive.write()
    with pytest.raises(NotOffered, match=r"suite trixie-backports does not offer qemu-system-x86 and ovmf"):
        unpacked_qemu(cache, apt=apt)


def test_a_package_that_is_not_what_the_list_says(cache: ContentCache, apt: PrivateApt, archive: Archive) -> None:
    deb = next(archive.folder.glob("ovmf_*.deb"))
    deb.write_bytes(deb.read_bytes()[:-1] + b"x")
    with pytest.raises(InfraError, match="fetching qemu-system-x86 and ovmf from trixie-backports failed"):
        unpacked_qemu(cache, apt=apt)
    assert not list((cache.root / "qemu").glob("*/usr"))


def linker(root: Path, text: str) -> UnpackedQemu:
    """A tree whose dynamic linker is a shell script."""
    program = root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\nown=$2\n{text}\n")
    program.chmod(0o755)
    return UnpackedQemu(root)


def test_what_its_qemu_runs_with_is_what_its_own_linker_says(tmp_path: Path) -> None:
    """Not what this machine has by the same name."""
    tree = linker(tmp_path, 'echo "\tlinux-vdso.so.1 (0x7ffc)"; echo "\tliba.so.1 => $own/liba.so.1 (0x7f10)"')
    own = "usr/lib/x86_64-linux-gnu"
    names = ["qemu-system-x86_64", "usr/bin/qemu-system-x86_64", f"{own}/ld-linux-x86-64.so.2", f"{own}/liba.so.1"]
    assert tree.files() == {name: tmp_path / name for name in names}


def test_a_qemu_that_cannot_be_run(tmp_path: Path) -> None:
    tree = linker(tmp_path, 'echo "liba.so.1: cannot open" >&2; exit 127')
    with pytest.raises(InfraError, match=r"its QEMU cannot be run \(liba.so.1: cannot open\); remove that folder"):
        tree.files()
