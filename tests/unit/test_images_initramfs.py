# SPDX-License-Identifier: GPL-2.0-only
"""Archives read back by a small cpio reader: the same bytes for the same files, and nothing of this machine inside."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.errors import InfraError
from harness.images import initramfs
from harness.images.initramfs import Tree, pack, shared_libraries
from harness.images.recipes import find_program

HEADER = 110


@dataclass(frozen=True)
class Member:
    """One file of an archive in the newc format (kernel: Documentation/driver-api/early-userspace/buffer-format)."""

    name: str
    inode: int
    mode: int
    owner: tuple[int, int]
    links: int
    mtime: int
    device: tuple[int, int]
    data: bytes


def read_archive(data: bytes) -> list[Member]:
    found = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        inode, mode, uid, gid, links, mtime, size, major, minor, _, _, name_size, _ = fields
        name = data[at + HEADER : at + HEADER + name_size - 1].decode()
        at = (at + HEADER + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found.append(Member(name, inode, mode, (uid, gid), links, mtime, (major, minor), data[at : at + size]))
        at = (at + size + 3) & ~3


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "init").write_text("#!/bin/sh\n")
    (folder / "init").chmod(0o700)
    (folder / "data").write_bytes(bytes(range(256)) * 17)
    (folder / "data").chmod(0o600)
    (folder / "empty").write_bytes(b"")
    return folder


def tree(sources: Path) -> Tree:
    return Tree(
        files={"/init": sources / "init", "/usr/lib/data": sources / "data", "/etc/empty": sources / "empty"},
        links={"/bin/sh": "busybox", "/usr/lib/link": "/nowhere/at all"},
        folders=("/dev", "/var/log"),
    )


def packed(what: Tree, out: Path) -> bytes:
    pack(what, out)
    return out.read_bytes()


class TestContents:
    def test_members(self, sources: Path, tmp_path: Path) -> None:
        members = {member.name: member for member in read_archive(packed(tree(sources), tmp_path / "out"))}
        shown = {name: stat.filemode(member.mode) for name, member in members.items()}
        assert shown == {
            "bin": "drwxr-xr-x",
            "bin/sh": "lrwxrwxrwx",
            "dev": "drwxr-xr-x",
            "etc": "drwxr-xr-x",
            "etc/empty": "-rw-r--r--",
            "init": "-rwxr-xr-x",
            "usr": "drwxr-xr-x",
            "usr/lib": "drwxr-xr-x",
            "usr/lib/data": "-rw-r--r--",
            "usr/lib/link": "lrwxrwxrwx",
            "var": "drwxr-xr-x",
            "var/log": "drwxr-xr-x",
        }
        assert members["usr/lib/data"].data == (sources / "data").read_bytes()
        assert members["bin/sh"].data == b"busybox"
        assert members["usr/lib/link"].data == b"/nowhere/at all"

    def test_every_folder_stands_before_what_is_in_it(self, sources: Path, tmp_path: Path) -> None:
        names = [member.name for member in read_archive(packed(tree(sources), tmp_path / "out"))]
        assert names == sorted(names)
        for name in names:
            assert os.path.dirname(name) in ("", *names[: names.index(name)])  # noqa: PTH120 - a name, not a path

    def test_nothing_of_this_machine(self, sources: Path, tmp_path: Path) -> None:
        data = packed(tree(sources), tmp_path / "out")
        for member in read_archive(data):
            assert member.owner == (0, 0)
            assert member.mtime == 0
            assert member.device == (0, 0)
        assert str(tmp_path).encode() not in data
        assert b"gmem-image-" not in data

    def test_files_of_another_owner_are_roots_in_the_image(self, sources: Path, tmp_path: Path) -> None:
        if os.geteuid() == 0:  # anybody else owns what is staged, root must make it so
            for path in sources.iterdir():
                os.chown(path, 1234, 5678)
        initramfs._archive(sources, tmp_path / "out")
        assert {member.owner for member in read_archive((tmp_path / "out").read_bytes())} == {(0, 0)}

    def test_a_strict_umask_does_not_reach_the_image(self, sources: Path, tmp_path: Path) -> None:
        usual = packed(tree(sources), tmp_path / "one")
        before = os.umask(0o077)
        try:
            assert packed(tree(sources), tmp_path / "two") == usual
        finally:
            os.umask(before)

    def test_debians_cpio_reads_it_too(self, sources: Path, tmp_path: Path) -> None:
        data = packed(tree(sources), tmp_path / "out")
        listed = subprocess.run(["cpio", "-t", "--quiet"], input=data, capture_output=True, check=True).stdout.decode()
        assert listed.splitlines() == [member.name for member in read_archive(data)]


class TestSameBytes:
    def test_twice(self, sources: Path, tmp_path: Path) -> None:
        assert packed(tree(sources), tmp_path / "one") == packed(tree(sources), tmp_path / "two")

    def test_other_times(self, sources: Path, tmp_path: Path) -> None:
        first = packed(tree(sources), tmp_path / "one")
        for number, path in enumerate(sources.iterdir()):
            os.utime(path, (1_000_000 * number, 2_000_000 * number))
        assert packed(tree(sources), tmp_path / "two") == first

    def test_other_order(self, sources: Path, tmp_path: Path) -> None:
        usual = tree(sources)
        turned = Tree(
            files=dict(reversed(usual.files.items())),
            links=dict(reversed(usual.links.items())),
            folders=usual.folders[::-1],
        )
        assert packed(turned, tmp_path / "two") == packed(usual, tmp_path / "one")

    def test_other_places(self, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = packed(tree(sources), tmp_path / "one")
        moved = tmp_path / "a" / "folder with blanks"
        shutil.copytree(sources, moved)
        staging = tmp_path / "staging"
        staging.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(staging))
        assert packed(tree(moved), tmp_path / "two") == first
        assert list(staging.iterdir()) == []

    def test_other_contents_give_other_bytes(self, sources: Path, tmp_path: Path) -> None:
        first = packed(tree(sources), tmp_path / "one")
        (sources / "data").chmod(0o755)
        second = packed(tree(sources), tmp_path / "two")
        (sources / "init").write_text("#!/bin/ash\n")
        third = packed(tree(sources), tmp_path / "three")
        assert len({first, second, third}) == 3


class TestRefusals:
    def test_a_missing_file_is_named_with_its_purpose(self, sources: Path, tmp_path: Path) -> None:
        what = Tree(files={"/lib/modules/gmem_conv.ko": sources / "absent.ko"})
        with pytest.raises(InfraError, match=r"absent\.ko: needed for the image as /lib/modules/gmem_conv\.ko, but No"):
            pack(what, tmp_path / "out")

    def test_cpio_is_not_installed(self, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(InfraError, match=r"^cpio is not installed; install the Debian package cpio$"):
            pack(tree(sources), tmp_path / "out")

    @pytest.mark.parametrize(
        ("script", "sentence"),
        [
            (
                "echo 'cpio: write error:' >&2\necho '  No space' >&2\nexit 2",
                r"could not write .*: cpio: write error: No",
            ),
            ("exit 3", r"cpio could not write .*/out: status 3$"),
            ("exec sleep 60", r"cpio did not write .*/out within 0\.3 s"),
        ],
    )
    def test_cpio_fails(
        self, script: str, sentence: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "cpio").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "cpio").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setattr(initramfs, "_CPIO_SECONDS", 0.3)
        with pytest.raises(InfraError, match=sentence):
            pack(tree(sources), tmp_path / "out")

    def test_the_place_of_the_image_does_not_exist(self, sources: Path, tmp_path: Path) -> None:
        with pytest.raises(InfraError, match=r"absent/out: the image cannot be written there: No such file"):
            pack(tree(sources), tmp_path / "absent" / "out")

    def test_a_program_that_is_not_installed_names_its_package(self) -> None:
        with pytest.raises(InfraError, match=r"^qemu-system-nothing is not installed; .* package qemu-system-x86$"):
            find_program("qemu-system-nothing")


class TestLibraries:
    def test_library_and_loader_are_found(self) -> None:
        found = shared_libraries(Path("/usr/bin/env"))
        assert any("libc.so.6" in name for name in found)
        assert any("ld-linux" in name for name in found)
        assert all(path.is_file() and not path.is_symlink() for path in found.values())

    def test_a_missing_library_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "one.c").write_text("int one(void) { return 1; }\n")
        (tmp_path / "main.c").write_text("int one(void);\nint main(void) { return one(); }\n")
        library = tmp_path / "libgmemone.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "one.c"], check=True)
        program = tmp_path / "program"
        subprocess.run(["gcc", "-o", program, tmp_path / "main.c", f"-L{tmp_path}", "-lgmemone"], check=True)
        library.unlink()
        with pytest.raises(InfraError, match=r"program: its library libgmemone\.so is not installed; reinstall"):
            shared_libraries(program)

    def test_a_script_has_no_libraries(self, sources: Path) -> None:
        with pytest.raises(InfraError, match=r"init: cannot list its shared libraries with ldd \([^\[]*not a dynamic"):
            shared_libraries(sources / "init")

    def test_ldd_is_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(InfraError, match=r"/usr/bin/env: cannot list its shared libraries with ldd"):
            shared_libraries(Path("/usr/bin/env"))
