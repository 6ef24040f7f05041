# SPDX-License-Identifier: GPL-2.0-only
"""What is bisected: the commits of a git tree, or an ordered list of kernels; and how one of them becomes an image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.bisect.checkout import Checkout
from harness.bisect.decide import Candidate, in_a_row
from harness.bisect.git import Repository
from harness.bisect.identity import identity
from harness.cache import ContentCache
from harness.errors import UsageError
from harness.kernel.record import Kernel
from harness.kernel.store import KernelStore


@dataclass(frozen=True)
class Built:
    """A candidate that can be booted."""

    image: Path
    identity: str


class Line(Protocol):
    """Candidates between a good end and a bad one."""

    def hold(self) -> AbstractContextManager[object]:
        """What has to be held while candidates are built."""
        ...

    def candidates(self, bad: str, goods: Collection[str]) -> list[Candidate]:
        """What may be the first bad one, see :func:`harness.bisect.decide.decide`."""
        ...

    def title(self, name: str) -> str:
        """A candidate in a few words."""
        ...

    def story(self, name: str) -> list[str]:
        """Who made it and when, for the end."""
        ...

    def before(self, name: str) -> tuple[str, ...]:
        """What comes right before it."""
        ...

    def build(self, name: str) -> Built:
        """Builds it; raises ``SourceError`` if it cannot be built, other errors for this machine's trouble."""
        ...


def _built(kernel: Kernel) -> Built:
    mark = kernel.key[:16] if kernel.build_dir is not None else ""
    return Built(kernel.image, identity(kernel.image, mark))


class Commits:
    """The commits of a git tree."""

    def __init__(self, repository: Repository, cache: ContentCache, store: KernelStore) -> None:
        self.repository = repository
        self._checkout = Checkout(cache, repository)
        self._store = store

    def hold(self) -> AbstractContextManager[object]:
        return self._checkout.lock()

    def candidates(self, bad: str, goods: Collection[str]) -> list[Candidate]:
        return self.repository.candidates(bad, goods)

    def title(self, name: str) -> str:
        return self.repository.describe(name).title

    def story(self, name: str) -> list[str]:
        commit = self.repository.describe(name)
        return [f"commit {commit.name}", f"author {commit.author}, {commit.date}", f"       {commit.subject}"]

    def before(self, name: str) -> tuple[str, ...]:
        return self.repository.describe(name).parents

    def build(self, name: str) -> Built:
        return _built(self._store.resolve(str(self._checkout.at(name))))


class Kernels:
    """Kernels in an order, each anything that ``--kernel`` takes."""

    def __init__(self, names: Sequence[str], store: KernelStore) -> None:
        self.names = tuple(names)
        self._store = store

    def hold(self) -> AbstractContextManager[object]:
        return nullcontext()

    def candidates(self, bad: str, goods: Collection[str]) -> list[Candidate]:
        return in_a_row(self.names, bad, goods)

    def title(self, name: str) -> str:
        return name

    def story(self, name: str) -> list[str]:
        return [f"kernel {name}"]

    def before(self, name: str) -> tuple[str, ...]:
        at = self.names.index(name)
        return self.names[at - 1 : at] if at else ()

    def build(self, name: str) -> Built:
        return _built(self._store.resolve(name))


def check_kernels(names: Sequence[str], good: str | None, bad: str | None) -> tuple[str, str]:
    """Both ends of a list of kernels: the first and the last, or those that are named; raises ``UsageError``."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or not all(names):
        raise UsageError("--kernels names no kernel at one place: give them as A,B,C, oldest first")
    if twice:
        raise UsageError(f"--kernels has {twice[0]} twice")
    if len(names) < 2:
        raise UsageError(f"--kernels has one kernel, {names[0]}: a bisection needs two ends")
    for option, name in (("--good", good), ("--bad", bad)):
        if name is not None and name not in names:
            raise UsageError(f"{option} {name} is none of --kernels {','.join(names)}")
    first, last = good or names[0], bad or names[-1]
    if names.index(first) >= names.index(last):
        raise UsageError(f"--good {first} does not come before --bad {last} in --kernels {','.join(names)}")
    return first, last
