# SPDX-License-Identifier: GPL-2.0-only
"""Where a kernel is built: a source tree at a fixed path, its O= folders beside each other, and one lock over both."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from harness.cache import ContentCache, content_key
from harness.errors import InfraError, UsageError
from harness.kernel.config import Wish
from harness.kernel.packages import Packages, Pin
from harness.kernel.toolchain import PATCH_TOOLS, UNPACK_TOOLS, Compiler, require_tools
from harness.kernel.usertree import UserTree, read_tree
from harness.kernel.worktree import WorkTree
from harness.locks import FileLock

# O= folders kept per source tree: one per compiler and set of fragments, 150 MB each.
KEPT_BUILDS = 3


class Site(Protocol):
    """One source tree and the place of its builds."""

    @property
    def source(self) -> Path:
        """The source tree."""
        ...

    @property
    def folder(self) -> Path:
        """Where the O= folders are."""
        ...

    def compiler(self, plain: Compiler) -> Compiler:
        """How to call the compiler here."""
        ...

    def lock(self, what: str) -> FileLock:
        """The lock that everything else here needs."""
        ...

    def prepare(self, patches: Sequence[Path], lock: FileLock) -> None:
        """Makes the source be there, hold exactly these patches and nothing else."""
        ...

    def check(self) -> None:
        """Raises :class:`InfraError` if the source has changed since it was identified."""
        ...


class PackageSite:
    """The unpacked source of a distribution package; it belongs to the cache and takes patches."""

    def __init__(self, packages: Packages, pin: Pin) -> None:
        self._packages = packages
        self._pin = pin
        self._tree = WorkTree(packages.cache, pin.package, pin.version, packages.progress)
        self.source = self._tree.source
        self.folder = self._tree.folder

    def compiler(self, plain: Compiler) -> Compiler:
        """Without ccache: a tree at one path, changed by patches only, leaves nothing to it but its own cost."""
        return plain

    def lock(self, what: str) -> FileLock:
        return self._tree.lock(what)

    def prepare(self, patches: Sequence[Path], lock: FileLock) -> None:
        require_tools(UNPACK_TOOLS, PATCH_TOOLS, work="unpacking and patching a kernel source")
        self._tree.unpack(lambda: self._packages.deb(self._pin), lock)
        self._tree.patch(patches)

    def check(self) -> None:
        """Nobody else writes here while the lock is held."""


class TreeSite:
    """A tree of the user, which is only read."""

    def __init__(self, cache: ContentCache, tree: UserTree) -> None:
        self._cache = cache
        self._tree = tree
        digest = hashlib.sha256(str(tree.path).encode()).hexdigest()[:12]
        self._name = f"tree-{digest}"
        self.source = tree.path
        self.folder = cache.root / "work" / self._name
        if re.search(r"[\s:]", str(self.folder)):
            raise InfraError(f"kernels cannot be built below {cache.root}: make refuses paths with spaces or colons")

    def compiler(self, plain: Compiler) -> Compiler:
        """With ccache: switching branches touches files whose content comes back."""
        return plain.behind_ccache(self._cache.root / "bin")

    def lock(self, what: str) -> FileLock:
        return self._cache.lock(f"work-{self._name}", what=what)

    def prepare(self, patches: Sequence[Path], lock: FileLock) -> None:
        if patches:
            raise UsageError(f"{self.source} is your own tree, the harness does not patch it: apply {patches[0]} there")
        self.check()

    def check(self) -> None:
        if read_tree(self.source).digest != self._tree.digest:
            raise InfraError(f"the source tree {self.source} was changed while it was being built: run again")


def build_folder(site: Site, compiler: Compiler, wishes: Mapping[str, Wish]) -> Path:
    """The O= folder for a compiler and a set of configuration fragments, by their names.

    Patches and what stands in the fragments share it, make knows what each of them changes.  Kernels made of other
    fragments have folders of their own: where two took turns in one, everything would be compiled each time.  Folders
    beyond the newest are removed.
    """
    fragments = sorted({wish.where.partition(":")[0] for wish in wishes.values()})
    key = content_key(compiler.identity, compiler.command, *fragments)[:12]
    chosen = site.folder / f"build-{key}"
    others = sorted(
        (path for path in site.folder.glob("build-*") if path != chosen), key=lambda path: path.stat().st_mtime
    )
    for path in others[: max(0, len(others) - (KEPT_BUILDS - 1))]:
        shutil.rmtree(path, ignore_errors=True)
    return chosen
