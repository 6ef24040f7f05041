# SPDX-License-Identifier: GPL-2.0-only
"""Builds the kernel's own KVM selftests from the source tree of a kernel, as static programs.

Built out of tree and under the lock of the source, with the patches of the kernel in it: a patch may change a selftest,
and it does change the headers that user space sees.  The objects lie beside the O= folders of the kernel, so that the
library of the selftests is compiled once per source and compiler, and again only as far as a patch touches it.

No package is needed beyond those of a kernel build.  Of the libraries that the selftests link, the one for VFIO is left
out (with it libuuid, and headers of network drivers), and so are libnuma and libcap, which no test of ours calls.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.cache import content_key, require_space
from harness.errors import InfraError
from harness.kernel.building import read_meta
from harness.kernel.commands import Finished, run
from harness.kernel.record import Kernel
from harness.kernel.sites import Site
from harness.kernel.store import KernelStore
from harness.kernel.toolchain import build_environment, jobs
from harness.locks import FileLock

FOLDER = "tools/testing/selftests/kvm"
BUILD_SECONDS = 1800.0
"""Deadline of one make; the first one, which compiles the library, takes half a minute on an idle machine."""
# Measured: headers, library and six programs of 7.3.4 with their objects are 40 MB.
_BUILD_BYTES = 100_000_000
_BY_LINES = Path(__file__).with_name("selftest_lines.c")
_ABSENT = "absent"
"""In place of a program: the source has no such test."""

_PACKAGES = {"uuid/uuid.h": "uuid-dev", "sys/capability.h": "libcap-dev", "numa.h": "libnuma-dev"}
"""Headers that selftests of other trees may include, and the Debian package that has them."""
_LIBRARIES = {"uuid": "uuid-dev", "cap": "libcap-dev", "numa": "libnuma-dev"}
_ERROR = re.compile(r"error: |undefined reference|cannot find -l|^\*\*\* | Error \d+$|No rule to make")


def build_selftest(store: KernelStore, kernel: Kernel, test: str) -> Path | None:
    """The static, stripped program of ``test`` (``x86/private_mem_conversions_test``), from the cache or built now.

    None when the source has no such test.  ``kernel`` must have been built here (``kernel.source`` is not None).
    Raises :class:`InfraError` with the first error and the log's path when it does not compile.
    """
    if kernel.source is None:
        raise InfraError(f"the selftests of kernel {kernel.name} cannot be built: it is an image without its source")
    key = content_key("selftest", test, kernel.key, Path(__file__), _BY_LINES)

    def make(out: Path) -> None:
        _Build(store, kernel, test).make(out)

    place = store.cache.entry("selftest", key, make, what=f"selftest {test} of kernel {kernel.name}")
    return None if (place / _ABSENT).exists() else place / Path(test).name


class _Build:
    """The build of one test."""

    def __init__(self, store: KernelStore, kernel: Kernel, test: str) -> None:
        self.kernel = kernel
        self.test = test
        self.site: Site = store.site_of(kernel)
        plain = store.compiler
        self.compiler = self.site.compiler(plain)
        identity = content_key(plain.identity, self.compiler.command, Path(__file__))[:12]
        self.work = self.site.folder / f"selftests-{identity}"
        name = f"selftest-{kernel.key[:16]}-{test.replace('/', '-')}.log"
        self.log = store.cache.root / "logs" / name

    def make(self, out: Path) -> None:
        entry = self.kernel.image.parent
        with self.site.lock(f"building selftest {self.test} of kernel {self.kernel.name}") as lock:
            # Those of a user's tree are in it: the harness does not patch it.
            patches = sorted((entry / "patches").iterdir()) if read_meta(entry).pin is not None else []
            self.site.prepare(patches, lock)
            source = find_source(self.site.source, self.test)
            if source is None:
                (out / _ABSENT).touch()
                return
            self._forget_older()
            require_space(self.site.folder, _BUILD_BYTES, f"the selftests of kernel {self.kernel.name}")
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.log.write_text("")
            program = self._compile(source, lock)
            self.site.check()
            self._run(["strip", "-o", out / Path(self.test).name, program], lock)
        shutil.move(self.log, out / "build.log")

    def _compile(self, source: Path, lock: FileLock) -> Path:
        """Headers of the kernel, then the program; returns where it is."""
        shared = ["ARCH=x86_64", f"CC={self.compiler.command}", f"-j{jobs()}"]
        self._run(["make", "-C", self.site.source, f"O={self.work}", *shared, "headers"], lock)
        folder = self.site.source / FOLDER
        # The folder of the architecture is x86_64 up to Linux 6.13, and the makefile's ARCH is its name.
        arch = "x86" if (folder / "x86").is_dir() else "x86_64"
        target = self.work / "kvm" / source.relative_to(folder).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        variables = [
            f"ARCH={arch}",
            f"CC={self.compiler.command}",
            f"OUTPUT={self.work / 'kvm'}",
            f"TMPOUT={self.work / 'try'}",  # else the makefile tries compiler options in the source tree
            f"KHDR_INCLUDES=-isystem {self.work}/usr/include",
            f"LDLIBS=-static {self._by_lines(lock)} -lpthread",
            "LIBVFIO_O=",
        ]
        self._run(["make", "-C", folder, f"-j{jobs()}", *variables, target], lock)
        return target

    def _by_lines(self, lock: FileLock) -> Path:
        """The object that makes a program print by lines."""
        made = self.work / "lines.o"
        self._run([*self.compiler.command.split(), "-O2", "-c", _BY_LINES, "-o", made], lock)
        return made

    def _forget_older(self) -> None:
        """Objects of another compiler, or built in another way."""
        for folder in self.site.folder.glob("selftests-*"):
            if folder != self.work:
                shutil.rmtree(folder, ignore_errors=True)

    def _run(self, argv: Sequence[str | Path], lock: FileLock) -> None:
        with self.log.open("a", buffering=1) as log:
            log.write(f"$ {' '.join(map(str, argv))}\n")
            done = run(
                argv, timeout=BUILD_SECONDS, env=build_environment(), log=log, pass_fds=(lock.fd,), tail_lines=400
            )
        if done.code != 0:
            raise InfraError(
                f"the selftest {self.test} of kernel {self.kernel.name} cannot be built: {_reason(done)} "
                f"(log: {self.log})"
            )


def find_source(tree: Path, test: str) -> Path | None:
    """The C file of a test in a source tree, None when it has none; the folder x86 was called x86_64 before 6.14."""
    folder = tree / FOLDER
    names = [test, test.replace("x86/", "x86_64/")] if test.startswith("x86/") else [test]
    return next((path for name in names if (path := folder / f"{name}.c").is_file()), None)


def _reason(done: Finished) -> str:
    """What a command that failed says, as part of a sentence."""
    if "No space left on device" in done.text:
        return "the disk is full"
    packages = {
        _PACKAGES[name] for name in re.findall(r"fatal error: (\S+): No such file", done.text) if name in _PACKAGES
    }
    packages |= {_LIBRARIES[name] for name in re.findall(r"cannot find -l(\w+)", done.text) if name in _LIBRARIES}
    if packages:
        return f"it needs what is not installed here: apt-get install {' '.join(sorted(packages))}"
    errors = [line.strip() for line in done.tail if _ERROR.search(line)] or list(done.tail[-1:])
    return errors[0][:300] if errors else f"the command ended with status {done.code} and gave no reason"
