# SPDX-License-Identifier: GPL-2.0-only
"""What a worker does beside ``gmem run``: prepares a branch's kernel, and asks the history what is new."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from harness.bisect.checkout import Checkout
from harness.bisect.git import Repository, git, reason, try_git
from harness.bisect.line import Commits
from harness.cache import ContentCache
from harness.errors import InfraError, UsageError
from harness.history.database import History
from harness.history.judgement import CaseStatus
from harness.history.series import Wanted, statuses
from harness.kernel.store import KernelStore
from harness.nightly.matrix import Matrix, load_matrix
from harness.nightly.place import Place
from harness.report.identity import run_id
from harness.report.store import load
from harness.report.text import one_line

LOCK_SECONDS: Final = 4 * 3600.0
"""For a bisection that somebody started by hand to give the tree back; ours are kept away by Buildbot's lock."""
FETCH_SECONDS: Final = 3600.0
"""A first copy of a Linux with its history has 3 GB."""


class Prepared(msgspec.Struct, frozen=True):
    """A kernel that is ready to boot."""

    commit: str
    title: str
    image: str


class News(msgspec.Struct, frozen=True):
    """What a run shows that the one before did not; all but the sentence are '' when there is nothing to bisect."""

    sentence: str
    good: str = ""
    bad: str = ""
    bisection: str = ""
    """Its key."""
    asked: str = ""
    """'yes' for the first that asks for it: the same commits on two hosts are bisected once."""


def prepare(place: Place, host: str, kernel: str, revision: str, note: Callable[[str], None]) -> Prepared:
    """The kernel of a branch at ``revision`` (default: its tip), built, under a name that stays.

    The link is what ``gmem run`` is given: with the image's own path every commit were a kernel of its own to the
    history.  Raises ``SourceError`` if it does not build.
    """
    matrix = load_matrix(Path(place.settings().matrix))
    entry = matrix.kernels[kernel]
    repository = Repository(Path(entry.git) if entry.git.startswith("/") else _mirror(place, kernel, matrix, note))
    commit = repository.commit(revision or f"refs/heads/{entry.branch}", f"branch {entry.branch}:")
    note(repository.describe(commit).title)
    cache = ContentCache(notify=note)
    lock = Checkout(cache, repository).lock()
    lock.timeout = LOCK_SECONDS
    with lock:
        built = Commits(repository, cache, KernelStore(cache)).build(commit)
    link = place.image(host, kernel)
    link.parent.mkdir(parents=True, exist_ok=True)
    _link(link, built.image)
    _link(link.with_name(link.name.replace("vmlinuz", "config", 1)), built.image.with_name("config"))
    return Prepared(commit, one_line(repository.describe(commit).title, 200), str(link))


def _link(link: Path, there: Path) -> None:
    new = link.with_name(f".{link.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(there)
    new.replace(link)


def _mirror(place: Place, kernel: str, matrix: Matrix, note: Callable[[str], None]) -> Path:
    """Our copy of a tree that has an URL, brought up to date."""
    entry, folder = matrix.kernels[kernel], place.mirror(kernel)
    if not (folder / "HEAD").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        git(folder, "init", "--quiet", "--bare", "--template=", ".")
    note(f"fetching {entry.branch} of {entry.git}")
    words = ("fetch", "--quiet", "--force", "--no-tags", "--", entry.git)
    done = try_git(folder, *words, f"+refs/heads/{entry.branch}:refs/heads/{entry.branch}", timeout=FETCH_SECONDS)
    if done.returncode != 0:
        raise InfraError(f"branch {entry.branch} of {entry.git} cannot be fetched: {reason(done)}")
    return folder


def news(place: Place, key: str, out: Path) -> News:
    """Whether the deviations of that run began with it, and where the one that was good stands."""
    matrix = load_matrix(Path(place.settings().matrix))
    info, cases = load(out)
    if info is None:
        raise UsageError(f"{out} is a run without an end")
    run = run_id(info, cases)
    history = History.open(place.history(matrix))
    kernel = info.kernel.get("name", "")
    today = datetime.now(UTC).date()
    mine = [case for case in statuses(history, Wanted(kernel=kernel), today=today) if case.newest.run == run]
    found = fresh(mine, run)
    if found.good and found.bad:
        suite = key.rpartition("_")[2]
        name = f"{found.good[:12]}-{found.bad[:12]}-{suite}"
        first = _claim(place, name)
        return msgspec.structs.replace(found, bisection=name, asked="yes" if first else "")
    return found


def fresh(cases: list[CaseStatus], run: str) -> News:
    """Pure: of the deviations of that run, those that began with it and whose last good commit is known."""
    bad = [case for case in cases if case.spell is not None and case.quarantine is None]
    begun = [case for case in bad if case.spell is not None and case.spell.first.run == run]
    if not begun:
        return News(f"{len(bad)} deviations, known before" if bad else "no deviation that decides")
    for case in begun:
        good = case.spell.last_good if case.spell is not None else None
        if good is not None and good.commit and case.newest.commit and good.commit != case.newest.commit:
            sentence = f"{len(begun)} new, {case.case} was good at {good.commit[:12]}"
            return News(sentence, good=good.commit, bad=case.newest.commit)
    return News(f"{len(begun)} new, and no good commit before")


def _claim(place: Place, key: str) -> bool:
    """Whether nobody asked for that bisection before."""
    folder = place.bisection(key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True
