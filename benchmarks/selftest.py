# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own ``private_mem_conversions_test``: built from the source of the kernel under test, run beside it.

Built out of tree, statically, and under the lock of the source.  Of the libraries that the selftests link, the one for
VFIO is left out: this test uses nothing of it, and its sources include headers of network drivers.
"""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from series import Series

from harness.cache import ContentCache, content_key
from harness.errors import InfraError
from harness.host.emulated.control import Control
from harness.kernel.building import read_meta
from harness.kernel.commands import run
from harness.kernel.record import Kernel
from harness.kernel.sites import PackageSite, Site, TreeSite
from harness.kernel.store import KernelStore
from harness.kernel.toolchain import build_environment, jobs
from harness.kernel.usertree import read_tree

TEST = "private_mem_conversions_test"
_THERE = f"/tmp/{TEST}"
_BUILD_SECONDS = 900.0
_RUN_SECONDS = 120.0
"""Deadline of one run inside the emulated host; it takes 3 s on an idle machine."""

_PACKAGES = {"uuid/uuid.h": "uuid-dev", "sys/capability.h": "libcap-dev", "numa.h": "libnuma-dev"}
"""Headers that the selftests of some kernel series include, and the Debian package that has them."""

_TRACING = "/sys/kernel/tracing"
_MAP_GPA_RANGE = 12
_SET_ATTRIBUTES = 1
"""Bit 0 of the hypercall's flags, as the test means it: convert.  Without it the host side is only punched."""


def build(cache: ContentCache, store: KernelStore, kernel: Kernel) -> Path:
    """The test program for ``kernel``, from the cache or built now; raises ``InfraError`` for what is missing."""
    if kernel.source is None:
        raise InfraError(f"the selftest needs the source of the kernel, and {kernel.name} is an image: name a tree")
    key = content_key("selftest", TEST, kernel.key, Path(__file__))

    def make(out: Path) -> None:
        _build(cache, store, kernel, out)

    return cache.entry("selftest", key, make, what=f"{TEST} of kernel {kernel.name}") / TEST


def _build(cache: ContentCache, store: KernelStore, kernel: Kernel, out: Path) -> None:
    entry = kernel.image.parent
    meta = read_meta(entry)
    site: Site = (
        TreeSite(cache, read_tree(Path(meta.source))) if meta.pin is None else PackageSite(store.packages, meta.pin)
    )
    work = out / "build"
    with site.lock(f"building {TEST} of kernel {kernel.name}") as lock:
        patches = sorted((entry / "patches").iterdir()) if meta.pin is not None else []
        site.prepare(patches, lock)
        folder = site.source / "tools/testing/selftests/kvm"
        found = sorted(folder.glob(f"x86*/{TEST}.c"))
        if not found:
            raise InfraError(f"the source of kernel {kernel.name} has no selftest x86/{TEST}")
        common = [f"ARCH={found[0].parent.name}", f"-j{jobs()}"]
        _make(["-C", site.source, f"O={work}", "ARCH=x86_64", f"-j{jobs()}", "headers"], lock.fd, kernel)
        target = work / "kvm" / found[0].parent.name / TEST
        target.parent.mkdir(parents=True)
        variables = [
            f"OUTPUT={work / 'kvm'}",
            f"TMPOUT={work / 'try'}",  # else the makefile tries compiler options in the source tree
            f"KHDR_INCLUDES=-isystem {work}/usr/include",
            "LDLIBS=-static -lpthread",
            "LIBVFIO_O=",
        ]
        _make(["-C", folder, *common, *variables, target], lock.fd, kernel)
    _require(run(["strip", "-o", out / TEST, target], timeout=60.0).code == 0, "strip failed")
    _require(run(["rm", "-rf", work], timeout=60.0).code == 0, "the build folder cannot be removed")


def _make(words: list[str | Path], lock: int, kernel: Kernel) -> None:
    done = run(
        ["make", "-s", *words], timeout=_BUILD_SECONDS, env=build_environment(), pass_fds=(lock,), tail_lines=400
    )
    if done.code == 0:
        return
    headers = re.findall(r"fatal error: (\S+): No such file", done.text)
    packages = sorted({_PACKAGES[name] for name in headers if name in _PACKAGES})
    if packages:
        raise InfraError(f"the selftest of kernel {kernel.name} needs headers: apt-get install {' '.join(packages)}")
    errors = [line for line in done.tail if "error" in line] or list(done.tail[-1:])
    raise InfraError(f"the selftest of kernel {kernel.name} cannot be built: {errors[0] if errors else 'make failed'}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InfraError(otherwise)


class Selftest:
    """The test program inside a running emulated host."""

    def __init__(self, control: Control, program: Path) -> None:
        """Gzipped on the way: a frame holds 1 MiB, the static program is a little larger."""
        self._control = control
        control.put(f"{_THERE}.gz", gzip.compress(program.read_bytes(), 9), 0o755)
        control.check(["gunzip", f"{_THERE}.gz"])
        control.check(["chmod", "0755", _THERE])
        self.start = Series("the selftest's program started and ended (-h)", "s")
        self.whole = Series("the selftest, whole run", "s")

    def count(self) -> tuple[int, int]:
        """Conversions and mere hole punches of one run, counted by KVM's tracepoint of hypercalls."""
        with self._traced():
            self._control.check([_THERE], _RUN_SECONDS)
        text = self._control.check(["cat", f"{_TRACING}/trace"])
        flags = [int(match, 16) for match in re.findall(r"kvm_hypercall: nr 0xc a0 \S+ a1 \S+ a2 (0x[0-9a-f]+)", text)]
        conversions = sum(1 for flag in flags if flag & _SET_ATTRIBUTES)
        _require(conversions > 0, f"{TEST} made no conversion that the tracepoint kvm_hypercall shows")
        return conversions, len(flags) - conversions

    @contextmanager
    def _traced(self) -> Iterator[None]:
        event = f"{_TRACING}/events/kvm/kvm_hypercall"
        self._shell(f"echo 'nr == {_MAP_GPA_RANGE}' > {event}/filter; : > {_TRACING}/trace; echo 1 > {event}/enable")
        try:
            yield
        finally:
            self._shell(f"echo 0 > {event}/enable")

    def _shell(self, script: str) -> None:
        self._control.check(["sh", "-ec", script])

    def measure(self) -> None:
        """One run, and one start of the program that does nothing."""
        with self.whole.timed():
            self._control.check([_THERE], _RUN_SECONDS)
        with self.start.timed():
            self._control.run([_THERE, "-h"], _RUN_SECONDS)

    @property
    def seconds(self) -> float:
        """Median of a run without its start."""
        return max(self.whole.median - self.start.median, 1e-3)


def settle_down() -> None:
    """Give the machine a moment after a build, so that its writes do not fall into the first measurement."""
    time.sleep(1.0)
