# SPDX-License-Identifier: GPL-2.0-only
"""A working tree of our own for the commits of the user's repository.

It lies in the cache, at one path for each repository, and borrows the user's objects (``objects/info/alternates``), so
that nothing is copied and nothing of the user's is written.  From commit to commit git writes only the files that
differ, and their new times are what make compiles.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from harness.bisect.git import Repository, git, reason, try_git
from harness.cache import ContentCache, require_space
from harness.errors import InfraError
from harness.locks import FileLock

TREE_BYTES = 2_000_000_000
"""Measured: 7.3 without what belongs to other machines has 0.6 GB, a whole Linux of that time 1.6 GB."""
LOCK_SECONDS = 10.0


class Checkout:
    """The working tree; :meth:`at` needs its lock to be held."""

    def __init__(self, cache: ContentCache, repository: Repository) -> None:
        self._repository = repository
        self._key = hashlib.sha256(str(repository.common).encode()).hexdigest()[:12]
        self._cache = cache
        self.folder = cache.root / "bisect" / self._key
        self.path = self.folder / "linux"

    def lock(self) -> FileLock:
        """Held as long as a bisection goes on: two would take the tree from under each other."""
        name = self._cache.root / "locks" / f"bisect-{self._key}.lock"
        return FileLock(name, what=f"bisecting {self._repository.path}", timeout=LOCK_SECONDS)

    def at(self, commit: str) -> Path:
        """The tree with the files of that commit; raises :class:`InfraError` if git cannot."""
        self._make()
        done = try_git(self.path, "checkout", "--quiet", "--force", "--detach", commit)
        if done.returncode != 0:  # left behind by somebody, or by a power cut: everything can be made again
            shutil.rmtree(self.path, ignore_errors=True)
            self._make()
            done = try_git(self.path, "checkout", "--quiet", "--force", "--detach", commit)
        if done.returncode != 0:
            raise InfraError(f"commit {commit} cannot be checked out in {self.path}: {reason(done)}")
        git(self.path, "clean", "--quiet", "-ffdx")
        return self.path

    def _make(self) -> None:
        """An empty repository that sees the user's objects; an existing one is shown where they are now."""
        if not (self.path / ".git" / "HEAD").is_file():
            shutil.rmtree(self.path, ignore_errors=True)
            require_space(self.folder, TREE_BYTES, "a checkout for the bisection")
            self.path.mkdir(parents=True)
            names = git(self._repository.path, "rev-parse", "--show-object-format").strip()
            git(self.path, "init", "--quiet", "--template=", f"--object-format={names}", ".")
        info = self.path / ".git" / "objects" / "info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "alternates").write_text(f"{self._repository.objects}\n")
        shallow = self._repository.common / "shallow"
        if shallow.is_file():
            shutil.copyfile(shallow, self.path / ".git" / "shallow")
        (self.path / ".git" / "index.lock").unlink(missing_ok=True)  # of a git that was killed: we hold the lock

    def remove(self) -> None:
        """Gives the disk back."""
        shutil.rmtree(self.folder, ignore_errors=True)
