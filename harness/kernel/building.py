# SPDX-License-Identifier: GPL-2.0-only
"""One build of one kernel at its site, and what is kept of it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.cache import ContentCache, content_key
from harness.errors import InfraError
from harness.kernel.buildid import vmlinux_of
from harness.kernel.config import Wish
from harness.kernel.image import read_image
from harness.kernel.make import Make, count_steps
from harness.kernel.packages import Pin
from harness.kernel.progress import Progress, silent
from harness.kernel.record import Kernel
from harness.kernel.sites import Site, build_folder
from harness.kernel.toolchain import Compiler

# Lines that make prints for the first build of 7.3.4; for the progress bar of a first build only.
FIRST_BUILD_STEPS = 1500


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``meta.json`` of a kernel in the cache: how it was made."""

    origin: str
    # The package, or None for a user's tree.
    pin: Pin | None
    patches: tuple[str, ...]
    compiler: str
    source: str
    build_dir: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Everything that makes a kernel."""

    name: str
    key: str
    origin: str
    pin: Pin | None
    wishes: Mapping[str, Wish]
    patches: tuple[Path, ...]
    compiler: Compiler

    @property
    def mark(self) -> str:
        """The name of the build host in /proc/version."""
        return self.key[:16]


def build_kernel(plan: Plan, site: Site, log: Path, out: Path, progress: Progress = silent) -> None:
    """Builds at the site and puts what is kept into ``out``.  Raises the errors of the steps; the log stays."""
    with site.lock(f"building kernel {plan.name}") as lock:
        site.prepare(plan.patches, lock)
        compiler = site.compiler(plan.compiler)
        build = build_folder(site, compiler, plan.wishes)
        first = not (build / ".config").exists()
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        make = Make(site.source, build, compiler, plan.name, plan.mark, log, (lock.fd,), progress)
        make.configure(plan.wishes)
        done = make.image(_expected(site) if first else None)
        site.check()
        if first:
            (site.folder / "steps").write_text(f"{count_steps(log)}\n")
        _keep(plan, site, build, out, done.seconds)
    shutil.move(log, out / "build.log")


def _expected(site: Site) -> int:
    try:
        return int((site.folder / "steps").read_text())
    except (OSError, ValueError):
        return FIRST_BUILD_STEPS


def _keep(plan: Plan, site: Site, build: Path, out: Path, seconds: float) -> None:
    image = build / "arch/x86/boot/bzImage"
    header = read_image(image)
    if header.builder != f"gmem@{plan.mark}":
        raise InfraError(f"make left an old image of kernel {plan.name} behind ({header.builder}): remove {build}")
    if not _holds(image, header.builder):
        raise InfraError(f"make put an old vmlinux into the image of kernel {plan.name}: remove {build}")
    shutil.copyfile(image, out / "bzImage")
    shutil.copyfile(build / ".config", out / "config")
    shutil.copyfile(build / "System.map", out / "System.map")
    shutil.copyfile(build / "gmem.config", out / "fragment")
    # Exported symbols, so that a module can be checked against this very kernel; written since 5.18 with this name.
    if (build / "vmlinux.symvers").exists():
        shutil.copyfile(build / "vmlinux.symvers", out / "vmlinux.symvers")
    (out / "patches").mkdir()
    for number, patch in enumerate(plan.patches, 1):
        shutil.copyfile(patch, out / "patches" / f"{number:04d}-{patch.name}")
    meta = Meta(
        origin=plan.origin,
        pin=plan.pin,
        patches=tuple(patch.name for patch in plan.patches),
        compiler=plan.compiler.identity,
        source=str(site.source),
        build_dir=str(build),
        seconds=round(seconds, 1),
    )
    (out / "meta.json").write_bytes(msgspec.json.format(msgspec.json.encode(meta), indent=1) + b"\n")


def _holds(image: Path, builder: str) -> bool:
    """Whether the kernel inside the image, not its header alone, has that name, as far as it can be read."""
    try:
        return builder.encode() in vmlinux_of(image)
    except InfraError:
        return True


def read_meta(entry: Path) -> Meta:
    """How the kernel in a cache entry was made."""
    return msgspec.json.decode((entry / "meta.json").read_bytes(), type=Meta)


def kernel_of(name: str, key: str, entry: Path) -> Kernel:
    """The record of a built kernel in the cache."""
    meta = read_meta(entry)
    header = read_image(entry / "bzImage")
    config = entry / "config"
    return Kernel(
        name=name,
        image=entry / "bzImage",
        release=header.release,
        version=header.version,
        config_hash=hashlib.sha256(config.read_bytes()).hexdigest(),
        config=config,
        patches=meta.patches,
        origin=meta.origin,
        build_dir=Path(meta.build_dir),
        source=Path(meta.source),
        key=key,
    )


def build_module(
    kernel: Kernel, site: Site, wishes: Mapping[str, Wish], compiler: Compiler, source: Path, cache: ContentCache
) -> Path:
    """The cache entry with the ``.ko`` of the external module in ``source``, built for ``kernel``."""
    entry = kernel.image.parent
    files = sorted(path for path in source.rglob("*") if path.is_file())
    if not any(path.name in ("Makefile", "Kbuild") for path in files):
        raise InfraError(f"{source} is not a kernel module: it has neither Makefile nor Kbuild")
    names = [part for path in files for part in (str(path.relative_to(source)), path)]
    key = content_key("module", kernel.key, *names)
    log = cache.root / "logs" / f"module-{source.name}-{key}.log"

    def build(out: Path) -> None:
        with site.lock(f"building module {source.name} for kernel {kernel.name}") as lock:
            site.prepare(sorted((entry / "patches").iterdir()), lock)
            called = site.compiler(compiler)
            folder = build_folder(site, called, wishes)
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("")
            make = Make(site.source, folder, called, kernel.name, kernel.key[:16], log, (lock.fd,))
            make.configure(wishes)
            make.prepare()
            if (entry / "vmlinux.symvers").exists():
                shutil.copyfile(entry / "vmlinux.symvers", folder / "Module.symvers")
            scratch = site.folder / "module"
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.copytree(source, scratch)
            make.module(scratch)
            for built in scratch.glob("*.ko"):
                shutil.copyfile(built, out / built.name)
            shutil.rmtree(scratch)
        if not any(out.glob("*.ko")):
            raise InfraError(f"building {source} for kernel {kernel.name} gave no .ko file (log: {log})")
        shutil.move(log, out / "build.log")

    return cache.entry("module", key, build, what=f"module {source.name} for kernel {kernel.name}")
