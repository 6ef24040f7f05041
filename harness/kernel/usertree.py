# SPDX-License-Identifier: GPL-2.0-only
"""A kernel tree of the user: is it one, can it be built with O=, and what is in it.  Nothing is written there."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.kernel.make import not_clean
from harness.kernel.worktree import tree_digest

GIT_SECONDS = 120.0


@dataclass(frozen=True)
class UserTree:
    """A checked tree."""

    path: Path
    # VERSION.PATCHLEVEL.SUBLEVEL of its Makefile.
    version: str
    # Identifies the content, uncommitted changes included.
    digest: str
    # For people: "git 1a2b3c4d5e6f with local changes", or "no git".
    state: str
    # The checked out commit in full, and its branch; "" without git, the branch also for a detached HEAD.
    commit: str = ""
    branch: str = ""


def read_tree(path: Path) -> UserTree:
    """Checks the tree and identifies its content.  Raises :class:`UsageError` with the reason if it cannot be built."""
    path = path.resolve()
    missing = [name for name in ("Makefile", "Kbuild", "Kconfig", "arch/x86") if not (path / name).exists()]
    if missing:
        raise UsageError(f"{path} is not a kernel source tree: it has no {missing[0]}")
    if re.search(r"[\s:]", str(path)):
        raise UsageError(f"{path} cannot be built: the kernel's make refuses paths with spaces or colons")
    if any((path / name).exists() for name in (".config", "include/config", "arch/x86/include/generated")):
        raise UsageError(not_clean(path))
    digest, state = _identity(path)
    return UserTree(path, _version(path), digest, state, *_checked_out(path))


def _version(path: Path) -> str:
    text = (path / "Makefile").read_text(errors="replace")
    fields = [re.search(rf"^{name} = *(\S*)$", text, re.M) for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    if not all(fields):
        raise UsageError(f"{path} is not a kernel source tree: its Makefile names no VERSION")
    return ".".join(match[1] for match in fields if match) + "".join(re.findall(r"^EXTRAVERSION = *(\S+)$", text, re.M))


def _identity(path: Path) -> tuple[str, str]:
    """Digest and description.  With git: commit, changes against it, and untracked files; else sizes and times."""
    if not (path / ".git").exists():
        return tree_digest(path), "no git"
    head = _git(path, "rev-parse", "HEAD").decode().strip()
    changes = _git(path, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color")
    untracked = _git(path, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")
    digest = hashlib.sha256(head.encode() + b"\0" + changes)
    for name in sorted(filter(None, untracked)):
        file = path / os.fsdecode(name)
        if file.is_file():
            digest.update(name + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    changed = bool(changes) or any(untracked)
    return digest.hexdigest(), f"git {head[:12]}" + (" with local changes" if changed else "")


def _checked_out(path: Path) -> tuple[str, str]:
    if not (path / ".git").exists():
        return "", ""
    branch = _git(path, "rev-parse", "--abbrev-ref", "HEAD").decode(errors="replace").strip()
    return _git(path, "rev-parse", "HEAD").decode().strip(), "" if branch == "HEAD" else branch


def _git(path: Path, *words: str) -> bytes:
    """Output of git, which is told not to refresh the user's index.  Raises :class:`UsageError` with git's reason."""
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(path), "-c", "core.fsmonitor=false", *words],
            env=env,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise UsageError(f"{path} is a git checkout and git is not installed: apt-get install git") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"git did not answer for {path} within {GIT_SECONDS:.0f} s") from None
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise UsageError(f"git cannot read {path}: {reason[0]}")
    return done.stdout
