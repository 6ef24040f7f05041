# SPDX-License-Identifier: GPL-2.0-only
"""Things that are expensive to make, kept under the key of everything they were made from.

An entry is a folder ``ROOT/KIND/KEY/`` with a manifest.  It is built in a temporary folder beside its place and moved
there in one rename, so that a reader sees a whole entry or none; two runs that need the same entry build it once.
Before its first use in a process every file is compared with the manifest: a damaged entry is built again with a
notice, one that cannot be read is an error.  No fsync: what a power cut tears is damage like any other.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness.errors import InfraError
from harness.locks import FileLock

MANIFEST = ".manifest.json"
_HASH_PIECE = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def cache_root(environ: Mapping[str, str] | None = None) -> Path:
    """``$XDG_CACHE_HOME/gmem-harness``, or ``~/.cache/gmem-harness``; a relative variable is ignored, as XDG says."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "gmem-harness"


def content_key(*parts: str | bytes | Path) -> str:
    """32 hexadecimal digits over the parts in order; a :class:`~pathlib.Path` stands for the content of that file.

    Lengths are hashed too, so that ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()[:32]


def require_space(where: Path, needed: int, what: str) -> None:
    """Raises :class:`InfraError` unless the file system of ``where`` has ``needed`` bytes for this user."""
    existing = where
    while not existing.exists():
        existing = existing.parent
    stat = os.statvfs(existing)
    available = stat.f_bavail * stat.f_frsize
    if available < needed:
        raise InfraError(
            f"not enough disk space for {what}: it needs {needed / 2**20:.0f} MiB and {existing} has "
            f"{available / 2**20:.0f} MiB; free some, or point XDG_CACHE_HOME at a larger file system"
        )


class EntryDamaged(Exception):
    """An entry is not what its manifest says; the text is the rest of a sentence."""


class ContentCache:
    """The cache under ``root`` (default :func:`cache_root`).

    ``notify`` receives one-sentence notices (damage found, waiting for another run); default: standard error.
    ``lock_timeout`` in seconds bounds every wait for another process.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        notify: Callable[[str], None] | None = None,
        lock_timeout: float = 3600.0,
    ) -> None:
        self.root = (cache_root() if root is None else root).absolute()
        self.notify = notify or _print_line
        self.lock_timeout = lock_timeout
        self._verified: set[Path] = set()

    def path(self, kind: str, key: str) -> Path:
        """Where the entry is or would be."""
        for name in (kind, key):
            if not _NAME.fullmatch(name):
                raise ValueError(f"not a name for a cache entry: {name!r}")
        return self.root / kind / key

    def lock(self, name: str, *, what: str) -> FileLock:
        """The lock ``name`` of this cache, to be used with ``with``; ``what`` is shown to those who wait."""
        return FileLock(self.root / "locks" / f"{name}.lock", what=what, timeout=self.lock_timeout, waiting=self.notify)

    def entry(self, kind: str, key: str, build: Callable[[Path], None], *, what: str) -> Path:
        """The folder of an entry, verified; built first if it is not there or damaged.

        ``build`` gets an empty folder and fills it; it may raise, then nothing is kept.  ``what`` names the entry in
        notices, e.g. ``kernel 7.3``.  The folder belongs to the cache: read it, never write into it.
        """
        found = self.get(kind, key, what=what)
        if found is not None:
            return found
        with self.lock(f"{kind}-{key}", what=what):
            found = self.get(kind, key, what=what, quiet=True)
            return self._build(kind, key, build) if found is None else found

    def get(self, kind: str, key: str, *, what: str, quiet: bool = False) -> Path | None:
        """The folder of an entry that is there and whole, else None (with a notice if it is damaged)."""
        place = self.path(kind, key)
        if place in self._verified and place.is_dir():
            return _used(place)
        try:
            verify(place)
        except FileNotFoundError:
            return None
        except EntryDamaged as error:
            if not quiet:
                self.notify(f"the cached {what} is damaged ({error}) and is made again")
            return None
        except OSError as error:
            raise InfraError(
                f"the cached {what} in {place} cannot be read ({error.strerror}): repair the permissions or remove it"
            ) from error
        self._verified.add(place)
        return _used(place)

    def _build(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """Called with the entry's lock held: nobody else makes or removes this entry's temporary folders."""
        place = self.path(kind, key)
        self._verified.discard(place)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            for leftover in place.parent.glob(f".{key}.*"):
                shutil.rmtree(leftover)
            fresh = place.parent / f".{key}.new"
            fresh.mkdir()
        except OSError as error:
            raise InfraError(f"the cache {place.parent} cannot be written: {error.strerror}") from error
        try:
            build(fresh)
            write_manifest(fresh)
            if place.exists() or place.is_symlink():
                place.rename(place.parent / f".{key}.old")
            fresh.rename(place)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InfraError(
                    f"the disk of the cache {self.root} is full: free some space, then run again"
                ) from error
            raise
        finally:
            for leftover in place.parent.glob(f".{key}.*"):
                shutil.rmtree(leftover, ignore_errors=True)
        self._verified.add(place)
        return place

    def remove(self, kind: str, key: str) -> None:
        """Drops an entry if it is there."""
        with self.lock(f"{kind}-{key}", what=f"removing {kind} {key}"):
            self._verified.discard(self.path(kind, key))
            shutil.rmtree(self.path(kind, key), ignore_errors=True)

    def prune(self, kind: str, *, keep: int, unused_for: float = 86400.0) -> list[str]:
        """Removes entries of a kind that were not used for ``unused_for`` seconds, but never the ``keep`` newest.

        Returns the removed keys.  A day is longer than any run, so an entry in use is not taken away.
        """
        folder = self.root / kind
        entries = [p for p in folder.glob("*") if p.is_dir() and not p.name.startswith(".")] if folder.is_dir() else []
        entries.sort(key=lambda p: p.stat().st_mtime, reverse=True)
        old = [p.name for p in entries[keep:] if time.time() - p.stat().st_mtime > unused_for]
        for key in old:
            self.remove(kind, key)
        return old


def write_manifest(folder: Path) -> None:
    """Records size and SHA-256 of every file below ``folder``, and the target of every symbolic link."""
    files: dict[str, list[int | str]] = {}
    links: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            links[name] = str(path.readlink())
        elif path.is_file():
            files[name] = [path.stat().st_size, file_sha256(path)]
    (folder / MANIFEST).write_text(json.dumps({"files": files, "links": links}, indent=1, sort_keys=True) + "\n")


def verify(folder: Path) -> None:
    """Compares ``folder`` with its manifest.

    Raises ``FileNotFoundError`` if there is no such folder, :class:`EntryDamaged` if a file is missing or different,
    any other ``OSError`` if something cannot be read.  Files that the manifest does not name are not looked at.
    """
    if not folder.is_dir():
        if folder.is_symlink() or folder.exists():
            raise EntryDamaged("it is not a folder")
        raise FileNotFoundError(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files: dict[str, list[int | str]] = manifest["files"]
        links: dict[str, str] = manifest["links"]
    except FileNotFoundError:
        raise EntryDamaged("its manifest is missing") from None
    except (ValueError, KeyError, TypeError):
        raise EntryDamaged("its manifest is not readable as JSON") from None
    for name, (size, sha256) in files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise EntryDamaged(f"{name} is missing")
        if path.stat().st_size != size or file_sha256(path) != sha256:
            raise EntryDamaged(f"{name} has changed")
    for name, target in links.items():
        path = folder / name
        if not path.is_symlink() or str(path.readlink()) != target:
            raise EntryDamaged(f"the link {name} has changed")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal; of a sparse file, of its data extents with their offsets.

    The saved RAM of a 3 GiB machine is a file with 0.3 GB of data: hashing the holes would cost seconds in every run.
    A copy that filled the holes counts as damaged, and is made again.
    """
    with path.open("rb") as stream:
        stat = os.fstat(stream.fileno())
        if stat.st_blocks * 512 >= stat.st_size:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256(b"extents")
        for start, end in _data_extents(stream.fileno(), stat.st_size):
            digest.update(f"{start}:{end}:".encode())
            for offset in range(start, end, _HASH_PIECE):
                digest.update(os.pread(stream.fileno(), min(_HASH_PIECE, end - offset), offset))
        return digest.hexdigest()


def _data_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are not holes, as (start, end) in bytes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _used(place: Path) -> Path:
    """Marks an entry as used now (its folder's time), for :meth:`ContentCache.prune`."""
    with contextlib.suppress(OSError):  # a cache that may only be read serves just as well; only prune() looks
        os.utime(place)
    return place


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
