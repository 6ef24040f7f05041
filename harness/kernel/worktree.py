# SPDX-License-Identifier: GPL-2.0-only
"""The unpacked source of a distribution package, and the patches that are in it at the moment.

``make O=`` records absolute source paths, so a kernel that differs in one file builds in seconds only if its source
stands where the stock source stood.  Therefore one tree per package version stays at one path; a patched kernel is
made by writing the files that its patches change (with a new time), and only those, under the tree's lock.
A file whose content is already the wanted one is not touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.cache import ContentCache, require_space
from harness.errors import InfraError
from harness.kernel.commands import run
from harness.kernel.patches import Overlay, overlay
from harness.kernel.progress import Progress, silent
from harness.locks import FileLock

EXTRACT_SECONDS = 1800.0
# Measured: 7.3.4 unpacks to 0.7 GiB without what is left out below.
EXTRACTED_BYTES = 1_000_000_000

# Left out when unpacking: C files and device trees that no x86-64 machine of ours compiles, 60 % of the tree.
# Kconfig files and Makefiles stay, the configuration reads them all; so does tools/testing for the KVM selftests.
_SOURCES = ("*.c", "*.h", "*.S", "*.dts", "*.dtsi", "*.json", "*.rs")
_LEFT_OUT = (
    "arch/*/configs/*",
    "tools/perf/*",
    "tools/testing/selftests/bpf/*",
    *(f"Documentation/*.{suffix}" for suffix in ("rst", "yaml", "txt", "svg")),
    *(
        f"{folder}/{pattern}"
        for folder in (
            "arch/[!x]*",
            "arch/xtensa",
            "drivers/accel",
            "drivers/gpu",
            "drivers/infiniband",
            "drivers/media",
            "drivers/net/ethernet",
            "drivers/net/wireless",
            "drivers/scsi",
            "drivers/staging",
            "sound",
        )
        for pattern in _SOURCES
    ),
)


class WorkTree:
    """The work place of one package version: ``linux/`` (source), ``build-*/`` (O= folders) and the notes on patches.

    All methods but :meth:`lock` need the lock to be held.
    """

    def __init__(self, cache: ContentCache, package: str, version: str, progress: Progress = silent) -> None:
        self.package = package
        self.name = re.sub(r"[^A-Za-z0-9.+-]", "_", f"{package}_{version}")
        self.cache = cache
        self.folder = cache.root / "work" / self.name
        self.source = self.folder / "linux"
        self.progress = progress
        if re.search(r"[\s:]", str(self.folder)):
            raise InfraError(
                f"the kernel cannot be built below {cache.root}: its make refuses paths with spaces or colons; "
                f"point XDG_CACHE_HOME elsewhere"
            )

    def lock(self, what: str) -> FileLock:
        """The lock of this work place; its descriptor goes to every command that writes here."""
        return self.cache.lock(f"work-{self.name}", what=what)

    # -- unpacking

    def unpack(self, package: Callable[[], Path], lock: FileLock) -> None:
        """Makes ``source`` from the .deb that ``package`` finds, unless it is there and unchanged.

        The build folders of a source that was lost or changed go with it: they hold objects of unknown files.
        """
        if self.source.is_dir():
            changed = self._changed()
            if not changed:
                return
            self.cache.notify(
                f"the unpacked kernel source {self.source} was changed from outside ({', '.join(changed[:3])}"
                f"{', ...' if len(changed) > 3 else ''}) and is unpacked again"
            )
        deb = package()
        require_space(self.folder, EXTRACTED_BYTES, f"the source of {self.name}")
        shutil.rmtree(self.folder, ignore_errors=True)
        fresh = self.folder / "unpacking"
        fresh.mkdir(parents=True)
        count = 0

        def line(_: str) -> None:
            nonlocal count
            count += 1
            if count % 500 == 0:
                self.progress("extract", count, None)

        script = (
            'set -o pipefail; dpkg-deb --fsys-tarfile "$1" | tar -xOf - --wildcards "./usr/src/linux-source-*.tar.xz" '
            '| XZ_DEFAULTS=-T0 tar -xJvf - --no-same-owner --strip-components=1 -C "$2" --anchored "${@:3}"'
        )
        excludes = [f"--exclude={self.package}/{pattern}" for pattern in _LEFT_OUT]
        done = run(
            ["bash", "-c", script, "unpack", deb, fresh, *excludes],
            timeout=EXTRACT_SECONDS,
            line=line,
            pass_fds=(lock.fd,),
        )
        if done.code != 0 or not (fresh / "Kconfig").is_file():
            shutil.rmtree(self.folder, ignore_errors=True)
            raise InfraError(f"unpacking {deb} failed: {done.tail[-1] if done.tail else 'no output'}")
        (self.folder / "listing").write_text(_listing_text(fresh))
        fresh.rename(self.source)
        self.progress("extract", count, count)

    def _changed(self) -> list[str]:
        """Files of the tree that differ in size or time from the listing made when it was unpacked, patches aside."""
        try:
            before = dict(line.rsplit("\t", 1) for line in (self.folder / "listing").read_text().splitlines())
        except (OSError, ValueError):
            return ["the listing is missing"]
        now = dict(line.rsplit("\t", 1) for line in _listing_text(self.source).splitlines())
        ours = set(self._dirty())
        return sorted(
            name for name in before.keys() | now.keys() if before.get(name) != now.get(name) and name not in ours
        )

    # -- patches

    def patch(self, patches: Sequence[Path]) -> None:
        """Makes the source hold exactly these patches; nothing is changed if one of them does not apply."""
        with TemporaryDirectory(prefix="gmem-patch-") as scratch:
            wanted = overlay(patches, self._pristine, Path(scratch))
        self._write(wanted)

    def _pristine(self, name: str) -> Path | None:
        kept = self._kept(name)
        if name in self._dirty():
            return kept if kept.is_file() else None
        path = self.source / name
        return path if path.is_file() else None

    def _write(self, wanted: Overlay) -> None:
        """Notes on disk which files will differ and keeps their original before the first one is written."""
        dirty = self._dirty()
        for name in wanted:
            if name not in dirty and (self.source / name).is_file():
                kept = self._kept(name)
                kept.parent.mkdir(parents=True, exist_ok=True)
                _replace(kept, (self.source / name).read_bytes())
        everything = sorted({*dirty, *wanted})
        self._note(everything)
        for name in everything:
            kept = self._kept(name)
            content = wanted[name] if name in wanted else kept.read_bytes() if kept.is_file() else None
            path = self.source / name
            if content is None:
                path.unlink(missing_ok=True)
            elif not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                _replace(path, content)

    def _dirty(self) -> list[str]:
        """Files that differ, or once differed, from the package's."""
        try:
            names: list[str] = json.loads((self.folder / "dirty.json").read_text())
            return names
        except FileNotFoundError:
            return []

    def _note(self, names: list[str]) -> None:
        _replace(self.folder / "dirty.json", json.dumps(names, indent=1).encode())

    def _kept(self, name: str) -> Path:
        return self.folder / "pristine" / name


def _replace(path: Path, content: bytes) -> None:
    """Writes a file in one rename; its mode stays, its time is now."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    fresh = path.with_name(f".{path.name}.gmem")
    fresh.write_bytes(content)
    fresh.chmod(mode)
    fresh.rename(path)


def _listing_text(tree: Path) -> str:
    """One line per file below ``tree``: path, tab, size and time of change (links: their target)."""
    lines: list[str] = []
    stack = [str(tree)]
    cut = len(str(tree)) + 1
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    lines.append(f"{entry.path[cut:]}\t{Path(entry.path).readlink()}")
                elif entry.is_dir():
                    stack.append(entry.path)
                else:
                    stat = entry.stat()
                    lines.append(f"{entry.path[cut:]}\t{stat.st_size} {stat.st_mtime_ns}")
    return "\n".join(sorted(lines))


def tree_digest(tree: Path) -> str:
    """SHA-256 over paths, sizes and times of all files below ``tree``: the identity of a tree without git."""
    return hashlib.sha256(_listing_text(tree).encode()).hexdigest()
