# SPDX-License-Identifier: GPL-2.0-only
"""The user's git repository, which is only read: revisions, and which commit git itself would try next.

No ref, index or working file of it is written (``GIT_OPTIONAL_LOCKS=0``), and no program of it is run (hooks,
fsmonitor).  What is tried next comes from ``git rev-list --bisect-all``, the machinery below ``git bisect``, so that
merges are git's business.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from harness.bisect.decide import Candidate
from harness.errors import InfraError, UsageError

GIT_SECONDS = 600.0
"""A first checkout of a kernel tree writes 1.5 GB."""
SHORT = 12
"""Digits of a commit's name as they are shown; what the kernel's own documents ask for."""
_LINE = re.compile(r"([0-9a-f]{40,64}) \(.*?dist=(\d+)\)")


@dataclass(frozen=True)
class Commit:
    """One commit, as it is told to the user."""

    name: str
    subject: str
    author: str
    date: str
    """Of the author, ISO 8601."""
    parents: tuple[str, ...]

    @property
    def title(self) -> str:
        """``1a2b3c4d5e6f mm: a subject``."""
        return f"{self.name[:SHORT]} {self.subject}"


def git(path: Path, *words: str, timeout: float = GIT_SECONDS) -> str:
    """Standard output of git in ``path``; raises :class:`InfraError` with git's reason."""
    done = try_git(path, *words, timeout=timeout)
    if done.returncode != 0:
        raise InfraError(f"git {words[0]} in {path} failed: {reason(done)}")
    return done.stdout


def try_git(path: Path, *words: str, timeout: float = GIT_SECONDS) -> subprocess.CompletedProcess[str]:
    """git in ``path``, however it ends; raises :class:`InfraError` if it is not there or does not end.

    Its variables are taken out of the environment: under ``git bisect run`` they name the user's repository.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
    options = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "-c", "advice.detachedHead=false")
    try:
        return subprocess.run(
            ["git", "-C", str(path), *options, *words],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise InfraError("git is not installed: apt-get install git") from None
    except subprocess.TimeoutExpired:
        raise InfraError(f"git {words[0]} in {path} did not end within {timeout:.0f} s") from None


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why git failed, in one line."""
    lines = done.stderr.strip().splitlines() or ["no reason given"]
    return lines[0].removeprefix("fatal: ").removeprefix("error: ")


class Repository:
    """A git tree of the user; raises :class:`UsageError` if it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        if not self.path.is_dir():
            raise UsageError(f"--tree {path} is not a directory")
        found = try_git(self.path, "rev-parse", "--path-format=absolute", "--git-common-dir", "--git-path", "objects")
        if found.returncode != 0:
            raise UsageError(f"--tree {path} is not a git tree: {reason(found)}")
        common, objects = found.stdout.splitlines()
        self.common, self.objects = Path(common), Path(objects)

    def commit(self, revision: str, option: str) -> str:
        """The full name of the commit that ``revision`` means; ``option`` is where the user gave it."""
        found = try_git(self.path, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if found.returncode != 0:
            raise UsageError(f"{option} {revision} is no commit of {self.path}")
        return found.stdout.strip()

    def check_range(self, good: str, bad: str, words: tuple[str, str]) -> None:
        """Raises :class:`UsageError` unless the commit ``good`` is an ancestor of ``bad``; ``words``: as given."""
        if good == bad:
            raise UsageError(f"--good {words[0]} and --bad {words[1]} are the same commit, {good[:SHORT]}")
        if try_git(self.path, "merge-base", "--is-ancestor", good, bad).returncode == 0:
            return
        if try_git(self.path, "merge-base", "--is-ancestor", bad, good).returncode == 0:
            raise UsageError(f"--good {words[0]} comes after --bad {words[1]}: the two are exchanged")
        base = try_git(self.path, "merge-base", good, bad).stdout.strip()
        hint = f"; their merge base {base[:SHORT]} is one, if it is good" if base else ""
        raise UsageError(f"--good {words[0]} is not an ancestor of --bad {words[1]}{hint}")

    def candidates(self, bad: str, goods: Collection[str]) -> list[Candidate]:
        """Commits that may be the first bad one, ``bad`` among them, the one that rules out most first."""
        text = git(self.path, "rev-list", "--bisect-all", bad, *(f"^{name}" for name in sorted(goods)))
        found = [Candidate(match[1], int(match[2])) for match in map(_LINE.match, text.splitlines()) if match]
        if len(found) != len(text.splitlines()):
            raise InfraError(f"git rev-list --bisect-all in {self.path} said something that is not understood")
        return found

    def describe(self, name: str) -> Commit:
        """What the user is told of a commit."""
        text = git(self.path, "show", "--no-patch", "--no-show-signature", "--format=%H%n%s%n%an%n%aI%n%P", name)
        full, subject, author, date, parents, *_ = [*text.splitlines(), ""]
        return Commit(full, subject, author, date, tuple(parents.split()))

    def has_local_changes(self) -> bool:
        """Whether tracked files of the user's checkout differ from its commit; a bare repository has none."""
        done = try_git(self.path, "status", "--porcelain", "--untracked-files=no")
        return done.returncode == 0 and bool(done.stdout.strip())
