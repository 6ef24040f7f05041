# SPDX-License-Identifier: GPL-2.0-only
"""A Debian archive of files whose linux-source package holds a kernel of a few lines.

Its Makefile knows the targets and variables that the harness uses of the real one and is as strict where the harness
relies on it; apt, dpkg, tar, patch, make and the compiler are the real ones.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

MAKEFILE = """\
VERSION = 9
PATCHLEVEL = 9
SUBLEVEL = 1
EXTRAVERSION =
CC = gcc
src := $(CURDIR)
objects := $(O)/mm/one.o $(O)/mm/two.o

allnoconfig: clean-tree
\t@mkdir -p $(O)/mm $(O)/arch/x86/boot
\t@sed -n 's/^CONFIG_\\([A-Z_]*\\)=y/\\1/p' $(KCONFIG_ALLCONFIG) | while read -r s; do \\
\t\tif grep -q "^config $$s$$" Kconfig; then echo "CONFIG_$$s=y"; fi; done > $(O)/.config.new
\t@cmp -s $(O)/.config.new $(O)/.config || mv $(O)/.config.new $(O)/.config

clean-tree:
\t@if [ -f .config ]; then echo "*** The source tree is not clean, please run 'make mrproper'" >&2; false; fi

$(O)/mm/%.o: mm/%.c include/x.h
\t@echo "  CC      mm/$*.o"
\t@$(CC) -I include -c -o $@ $<

bzImage: $(objects)
\t@echo "  LD      vmlinux"
\t@echo "symbols" > $(O)/System.map
\t@python3 mkimage.py $(O)/arch/x86/boot/bzImage \\
\t\t"9.9.1 ($(KBUILD_BUILD_USER)@$(KBUILD_BUILD_HOST)) #$(KBUILD_BUILD_VERSION) $(KBUILD_BUILD_TIMESTAMP)" $(objects)

modules_prepare:
\t@mkdir -p $(O) && touch $(O)/modules-prepared

modules:
\t@test -f $(O)/modules-prepared
\t@echo "  CC [M]  $(M)"
\t@for c in $(M)/*.c; do $(CC) -I include -c -o $${c%.c}.ko $$c || exit 1; done
"""

MKIMAGE = """\
import struct, sys
out, text, *objects = sys.argv[1:]
body = b"".join(open(path, "rb").read() for path in objects)
body += bytes(-len(body) % 16)
data = bytearray(1024)
data[0x1F1] = 1
struct.pack_into("<I", data, 0x1F4, len(body) // 16)
data[0x1FE:0x206] = b"\\x55\\xaaj\\x00HdrS"
struct.pack_into("<H", data, 0x206, 0x20F)
struct.pack_into("<H", data, 0x20E, 0x100)
struct.pack_into("<H", data, 0x236, 1)
data[0x300:0x300 + len(text) + 1] = text.encode() + b"\\0"
open(out, "wb").write(data + body)
"""

ONE = "#include <x.h>\nint one(void)\n{\n\treturn ONE;\n}\n"
TWO = "int two(void)\n{\n\treturn 2;\n}\n"

FILES = {
    "Makefile": MAKEFILE,
    "Kbuild": "",
    "Kconfig": "config A\n\tbool\nconfig B\n\tbool\n",
    "mkimage.py": MKIMAGE,
    "include/x.h": "#define ONE 1\n",
    "mm/one.c": ONE,
    "mm/two.c": TWO,
    "arch/x86/Makefile": "",
    "arch/arm/head.c": "left out",
    "drivers/gpu/gpu.c": "left out",
    "drivers/gpu/Kconfig": "",
    "sound/core.c": "left out",
    "include/sound/core.h": "kept",
}

KERNELS = """\
default: stock
kernels:
  stock:
    series: "9.9"
    suites: [trixie-backports, sid]
    config: [base.config]
  changed:
    from: stock
    patches: [change.patch]
"""

CHANGE = """\
--- a/mm/one.c
+++ b/mm/one.c
@@ -1,5 +1,5 @@
 #include <x.h>
 int one(void)
 {
-\treturn ONE;
+\treturn ONE + 1;
 }
"""


def make_tree(tree: Path) -> Path:
    """The small kernel as a folder."""
    for name, text in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    return tree


def make_archive(folder: Path, version: str = "9.9.1-1") -> Path:
    """The archive below ``folder``, and an ``etc`` beside it that names it; returns the ``etc``.

    Called again with another version it replaces the package, as a mirror does.
    """
    tree = make_tree(folder / "build" / "linux-source-9.9")
    stage = folder / "build" / "stage"
    (stage / "usr" / "src").mkdir(parents=True, exist_ok=True)
    (stage / "DEBIAN").mkdir(exist_ok=True)
    (stage / "DEBIAN" / "control").write_text(
        f"Package: linux-source-9.9\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@example.org>\n"
        "Description: x\n"
    )
    tarball = stage / "usr" / "src" / "linux-source-9.9.tar.xz"
    _run("tar", "-cJf", tarball, "--mtime=2020-01-01", "-C", tree.parent, tree.name)
    pool = folder / "archive" / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    for old in pool.iterdir():
        old.unlink()
    deb = pool / f"linux-source-9.9_{version}_all.deb"
    _run("dpkg-deb", "--build", stage, deb)
    _index(folder / "archive", deb, version)
    etc = folder / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "sources.list").write_text(f"deb [trusted=yes] file:{folder / 'archive'} bookworm main\n")
    return etc


def make_configs(folder: Path) -> Path:
    """A host-configs folder with kernels.yaml; returns its path."""
    (folder / "fragments").mkdir(parents=True)
    (folder / "fragments" / "base.config").write_text("CONFIG_A=y\n")
    (folder / "patches" / "9.9").mkdir(parents=True)
    (folder / "patches" / "9.9" / "change.patch").write_text(CHANGE)
    (folder / "kernels.yaml").write_text(KERNELS)
    return folder / "kernels.yaml"


def _index(archive: Path, deb: Path, version: str) -> None:
    index = archive / "dists" / "sid" / "main" / "binary-amd64"
    index.mkdir(parents=True, exist_ok=True)
    packages = (
        f"Package: linux-source-9.9\nVersion: {version}\nArchitecture: all\nFilename: pool/{deb.name}\n"
        f"Size: {deb.stat().st_size}\nSHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\n"
    )
    (index / "Packages").write_text(packages)
    listed = hashlib.sha256(packages.encode()).hexdigest()
    (archive / "dists" / "sid" / "Release").write_text(
        "Suite: sid\nCodename: sid\nComponents: main\nArchitectures: amd64 all\n"
        f"Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {listed} {len(packages)} main/binary-amd64/Packages\n"
    )


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=60)
