# SPDX-License-Identifier: GPL-2.0-only
"""What is in the two images: the guest's, and the emulated host's, which carries the guest's.

Both are made of Debian packages and of the programs built here, and are cached by the content of everything that goes
into them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from harness.cache import ContentCache, content_key
from harness.errors import InfraError
from harness.images.firmware import firmware_from_qboot
from harness.images.initramfs import Tree, pack, shared_libraries
from harness.native.build import HERE as NATIVE_SOURCES
from harness.native.build import PROGRAMS, build_program

SOURCE_ROOT = Path(__file__).resolve().parents[2]
GUEST_IMAGES = SOURCE_ROOT / "guest-images"
MODULE_SOURCES = GUEST_IMAGES / "module"
QEMU_DATA = Path("/usr/share/qemu")
_OPTION_ROMS = ("linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin")
_ON_OTHER_HOSTS = ("bare", "relay", "kvmcaps", "kexec")
"""Native programs for hosts that were not started from an image of ours; each is a folder of its own."""
_FOLDERS = ("/bin", "/dev", "/etc", "/proc", "/root", "/run", "/sys", "/tmp", "/var/log")
_PROGRAMS = {"busybox": "busybox-static", "dropbear": "dropbear-bin", "qemu-system-x86_64": "qemu-system-x86"}


def find_program(name: str) -> Path:
    """Where a packaged program is; raises ``InfraError`` naming the Debian package to install."""
    found = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        package = _PROGRAMS.get(name, "qemu-system-x86" if name.startswith("qemu") else name)
        raise InfraError(f"{name} is not installed; install the Debian package {package}")
    return Path(found).resolve()


def _busybox() -> Path:
    busybox = find_program("busybox")
    if b"/ld-linux" in busybox.read_bytes():
        raise InfraError(f"{busybox} needs shared libraries; install the Debian package busybox-static instead")
    return busybox


def _accounts(folder: Path) -> dict[str, Path]:
    """The few files that an SSH server wants."""
    texts = {
        "passwd": "root::0:0:root:/root:/bin/sh\n",
        "group": "root:x:0:\n",
        "shells": "/bin/sh\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {f"/etc/{name}": folder / name for name in texts}


def _base(folder: Path, programs: Mapping[str, Path]) -> dict[str, Path]:
    dropbear = find_program("dropbear")
    return {
        "/bin/busybox": _busybox(),
        "/bin/gmem-control": programs["control"],
        "/usr/sbin/dropbear": dropbear,
        **shared_libraries(dropbear),
        **_accounts(folder),
    }


def _source_files() -> list[Path]:
    """Every file of this project that decides what an image contains, in a fixed order."""
    elsewhere = {NATIVE_SOURCES / name for name in _ON_OTHER_HOSTS}
    folders = (GUEST_IMAGES, NATIVE_SOURCES, Path(__file__).parent)
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if not elsewhere.intersection(path.parents)
        and path.is_file()
        and path.suffix not in (".pyc", ".ko", ".o")
        and "__pycache__" not in path.parts
    )


def guest_image_key(module: Path) -> str:
    """Key of the guest's image with that conversion module."""
    dropbear = find_program("dropbear")
    libraries = sorted(shared_libraries(dropbear).items())
    parts: list[str | Path] = ["guest", *_source_files(), module, _busybox(), dropbear]
    for name, path in libraries:
        parts += [name, path]
    return content_key(*parts)


def guest_image(cache: ContentCache, module: Path) -> Path:
    """The guest's initramfs with the conversion module ``module``."""

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="gmem-image-") as scratch:
            programs = {"control": build_program("control", Path(scratch))}
            files = {
                "/init": GUEST_IMAGES / "guest" / "init",
                "/lib/modules/gmem_conv.ko": module,
                **_base(Path(scratch), programs),
            }
            pack(Tree(files=files, folders=_FOLDERS), folder / "guest.cpio")

    return cache.entry("guest-image", guest_image_key(module), build, what="guest image") / "guest.cpio"


def host_image(
    cache: ContentCache, *, guest: Path, guest_kernel: Path, more: Mapping[str, Path] = MappingProxyType({})
) -> Path:
    """The emulated host's initramfs, which carries the guest's kernel and image.

    ``more`` are further files for it, by where they lie in it.
    """
    qemu = find_program("qemu-system-x86_64")
    libraries = {**shared_libraries(find_program("dropbear")), **shared_libraries(qemu)}
    roms = [QEMU_DATA / name for name in (*_OPTION_ROMS, "qboot.rom")]
    for rom in roms:
        if not rom.is_file():
            raise InfraError(f"{rom} is missing; install the Debian package qemu-system-data")
    parts: list[str | Path] = ["host", *_source_files(), guest, guest_kernel, _busybox(), qemu, *roms]
    for name, path in sorted([*libraries.items(), *more.items()]):
        parts += [name, path]

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="gmem-image-") as scratch:
            work = Path(scratch)
            programs = {name: build_program(name, work) for name in PROGRAMS if name not in _ON_OTHER_HOSTS}
            (work / "firmware.bin").write_bytes(firmware_from_qboot(QEMU_DATA / "qboot.rom"))
            files = {
                "/init": GUEST_IMAGES / "host" / "init",
                "/bin/gmem-probe": programs["probe"],
                "/bin/gmem-pressure": programs["pressure"],
                "/gmem/snp-standin.so": programs["snp-standin"],
                "/gmem/tdx-standin.so": programs["tdx-standin"],
                "/gmem/swprot.so": programs["swprot"],
                "/gmem/inplace.so": programs["inplace"],
                "/gmem/firmware.bin": work / "firmware.bin",
                "/gmem/qboot.rom": QEMU_DATA / "qboot.rom",
                "/gmem/guest-kernel": guest_kernel,
                "/gmem/guest-image": guest,
                f"/usr/bin/{qemu.name}": qemu,
                **{f"/usr/share/qemu/{name}": QEMU_DATA / name for name in _OPTION_ROMS},
                **libraries,
                **more,
                **_base(work, programs),
            }
            pack(Tree(files=files, folders=_FOLDERS), folder / "host.cpio")

    cache.prune("host-image", keep=4, unused_for=3600.0)
    return cache.entry("host-image", content_key(*parts), build, what="image of the emulated host") / "host.cpio"
