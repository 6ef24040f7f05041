# SPDX-License-Identifier: GPL-2.0-only
"""A git history of a real kernel, for bisections: one import of the source, then commits that change one file each.

Most commits are harmless: comments, white space, or a few bytes that nobody reads.  One brings a planted leak at a
given place; others can be made not to compile or not to boot.  ``git fast-import`` writes it all as one pack.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.bisect.checkout import Checkout
from harness.bisect.git import Repository
from harness.cache import ContentCache
from harness.kernel.sites import TreeSite
from harness.kernel.store import KernelStore
from harness.kernel.usertree import read_tree

LEAK = Path(__file__).parents[1] / "planted" / "faults" / "second-page-leaked.patch"
GMEM = "virt/kvm/guest_memfd.c"
FILES = (GMEM, GMEM, GMEM, "virt/kvm/kvm_main.c", "mm/truncate.c", "mm/filemap.c", "fs/anon_inodes.c")
"""Files that the harmless commits change; all of them are compiled into the emulated host's kernel."""
WHO = "A Developer <developer@example.org>"
FIRST_DATE = 1_700_000_000
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Plan:
    """A branch of ``commits`` commits upon the import; the numbers count from 1."""

    branch: str
    commits: int
    leak: int
    seed: int
    not_building: frozenset[int] = frozenset()
    not_booting: frozenset[int] = frozenset()


@contextmanager
def kept_history(variable: str, *plans: Plan) -> Iterator[Path]:
    """A repository with a branch for each plan, and without it and what was built of it afterwards.

    With ``variable`` in the environment it is made in that folder, and stays for the next time.
    """
    kept = os.environ.get(variable)
    scratch = Path(kept or tempfile.mkdtemp(prefix="gmem-history-"))
    place = scratch / "linux"
    make_history(place, list(plans))
    yield place
    if kept:
        return
    cache = ContentCache()
    checkout = Checkout(cache, Repository(place))
    if checkout.path.is_dir():
        shutil.rmtree(TreeSite(cache, read_tree(checkout.path)).folder, ignore_errors=True)
    checkout.remove()
    shutil.rmtree(scratch)


def make_history(folder: Path, plans: list[Plan]) -> None:
    """The repository ``folder`` with a branch for each plan and the tag ``base`` at the import, which may be there."""
    there = (folder / ".git").is_dir()
    if not there:
        folder.mkdir(parents=True)
        subprocess.run(["git", "init", "--quiet", "--template=", "."], cwd=folder, check=True, timeout=60)
        store = KernelStore()
        site = store.site_of(store.resolve("7.3"))
    command = ["git", "-c", "core.compression=1", "fast-import", "--quiet", "--force", "--depth=1", "--date-format=raw"]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        touched = _imported(folder) if there else _import(process.stdin, site.folder)
        for plan in plans:
            _branch(process.stdin, plan, dict(touched), folder)
        process.stdin.close()
        assert process.wait(timeout=300) == 0


def _imported(folder: Path) -> dict[str, bytes]:
    """What the later commits change, as an import that is there has it."""
    show = ["git", "-C", str(folder), "show"]
    return {
        name: subprocess.run([*show, f"refs/tags/base:{name}"], check=True, capture_output=True, timeout=60).stdout
        for name in set(FILES)
    }


def _import(stream: IO[bytes], work: Path) -> dict[str, bytes]:
    """The root commit, with the source as its package has it; returns what the later commits change.

    Files that the patches of a build have changed are taken from where their originals are kept.
    """
    _commit(stream, "refs/heads/import", 0, "Import of the kernel's source")
    source, kept = work / "linux", work / "pristine"
    patched = _patched_files(work)
    touched: dict[str, bytes] = {}
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_symlink():
            _file(stream, name, str(path.readlink()).encode(), "120000")
        elif path.is_file() and not (name in patched and not (kept / name).is_file()):
            content = (kept / name if name in patched else path).read_bytes()
            _file(stream, name, content, "100755" if path.stat().st_mode & 0o100 else "100644")
            if name in FILES:
                touched[name] = content
    assert patched == _patched_files(work), "a build patched further files meanwhile: run again"
    stream.write(b"reset refs/tags/base\nfrom refs/heads/import\n\n")
    return touched


def _patched_files(work: Path) -> set[str]:
    return set(json.loads((work / "dirty.json").read_text())) if (work / "dirty.json").exists() else set()


def _branch(stream: IO[bytes], plan: Plan, contents: dict[str, bytes], folder: Path) -> None:
    draw = random.Random(plan.seed)
    ref = f"refs/heads/{plan.branch}"
    stream.write(f"reset {ref}\nfrom refs/tags/base\n\n".encode())
    broken: bytes | None = None
    for number in range(1, plan.commits + 1):
        if broken is not None:
            contents[GMEM], broken = broken, None
        name, subject, change = _harmless(draw, number)
        if number == plan.leak:
            name, subject, change = GMEM, "KVM: guest_memfd: rework the allocation", lambda text: _patched(text, folder)
        contents[name] = change(contents[name])
        changed = {name}
        if number in plan.not_building | plan.not_booting:
            broken = contents[GMEM]
            contents[GMEM] += _NOT_BUILDING if number in plan.not_building else _NOT_BOOTING
        if broken is not None or number - 1 in plan.not_building | plan.not_booting:
            changed.add(GMEM)
        _commit(stream, ref, number, subject)
        for file in sorted(changed):
            _file(stream, file, contents[file], "100644")


_NOT_BUILDING = b"\n#error planted: this commit does not compile\n"
_NOT_BOOTING = b"""
#include <linux/panic.h>
static int __init gmem_history_panic(void)
{
\tpanic("planted: this commit does not boot");
}
core_initcall(gmem_history_panic);
"""


def _harmless(draw: random.Random, number: int) -> tuple[str, str, Callable[[bytes], bytes]]:
    """File, subject and change of a commit that does nothing."""
    name = draw.choice(FILES)
    kinds: Mapping[str, Callable[[bytes], bytes]] = {
        "a note at the end": lambda text: text + f"/* note {number} */\n".encode(),
        "an empty line": lambda text: text.replace(b"\n", b"\n\n", 1),
        "a few bytes": lambda text: text + f'static const char note_{number}[] __used = "{number}";\n'.encode(),
    }
    kind = draw.choice(["a note at the end", "an empty line", "a few bytes", "a few bytes"])
    return name, f"{Path(name).stem}: {kind} ({number})", kinds[kind]


def _patched(text: bytes, folder: Path) -> bytes:
    """``text`` with the planted leak."""
    scratch = folder / ".git" / "patched.c"
    scratch.write_bytes(text)
    done = subprocess.run(
        ["patch", "--quiet", "--no-backup-if-mismatch", str(scratch), str(LEAK)], check=False, timeout=60
    )
    assert done.returncode == 0, "the planted leak does not apply"
    return scratch.read_bytes()


def _commit(stream: IO[bytes], ref: str, number: int, subject: str) -> None:
    when = f"{FIRST_DATE + 3600 * number} +0000"
    message = subject.encode()
    head = f"commit {ref}\nauthor {WHO} {when}\ncommitter {WHO} {when}\ndata {len(message)}\n"
    stream.write(head.encode() + message + b"\n")


def _file(stream: IO[bytes], name: str, content: bytes, mode: str) -> None:
    stream.write(f"M {mode} inline {name}\ndata {len(content)}\n".encode() + content + b"\n")
