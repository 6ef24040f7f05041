# SPDX-License-Identifier: GPL-2.0-only
"""Patches are applied whole and in the right place, or the patch, the file and the hunk are named."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.kernel.patches import Overlay, overlay, touched_files

FILE = "".join(f"line {number}\n" for number in range(1, 41))


def diff(old: str | None, new: str | None, name: str = "mm/x.c") -> str:
    """A unified diff as git writes it; None is a file that does not exist."""
    before, after = (f"a/{name}" if old is not None else "/dev/null", f"b/{name}" if new is not None else "/dev/null")
    lines = difflib.unified_diff((old or "").splitlines(True), (new or "").splitlines(True), before, after)
    return "Subject: a change\n\n" + "".join(lines)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree" / "mm").mkdir(parents=True)
    (tmp_path / "tree" / "mm" / "x.c").write_text(FILE)
    return tmp_path / "tree"


def apply(tree: Path, *texts: str) -> Overlay:
    paths = []
    for number, text in enumerate(texts, 1):
        paths.append(tree.parent / f"{number}.patch")
        paths[-1].write_text(text)
    scratch = tree.parent / "scratch"
    scratch.mkdir()
    return overlay(paths, lambda name: tree / name if (tree / name).is_file() else None, scratch)


def test_patches_build_on_each_other_and_leave_the_tree_alone(tree: Path) -> None:
    once = FILE.replace("line 7\n", "line seven\n")
    twice = once.replace("line seven\n", "line VII\n")
    assert apply(tree, diff(FILE, once), diff(once, twice)) == {"mm/x.c": twice.encode()}
    assert (tree / "mm" / "x.c").read_text() == FILE


def test_new_and_removed_files(tree: Path) -> None:
    assert apply(tree, diff(None, "new\n", "mm/new.h"), diff(FILE, None)) == {"mm/new.h": b"new\n", "mm/x.c": None}


def test_a_hunk_that_fails_is_named_with_patch_and_file(tree: Path) -> None:
    other = FILE.replace("line 30\n", "line thirty\n")
    wanted = diff(other, other.replace("line thirty\n", "line XXX\n").replace("line 5\n", "line V\n"))
    with pytest.raises(UsageError, match=r"1.patch does not apply: hunk 2 for mm/x.c \(line 27\) finds other text"):
        apply(tree, wanted)


def test_fuzz_is_not_accepted(tree: Path) -> None:
    """patch(1) would by default drop the first and last line of context and apply."""
    other = FILE.replace("line 10\n", "line ten\n")
    with pytest.raises(UsageError, match=r"hunk 1 for mm/x\.c"):
        apply(tree, diff(other, other.replace("line 13\n", "line 13b\n")))


def test_a_moved_place_is_accepted(tree: Path) -> None:
    moved = "inserted\n" + FILE
    changed = apply(tree, diff(moved, moved.replace("line 20\n", "line XX\n")))
    assert changed == {"mm/x.c": FILE.replace("line 20\n", "line XX\n").encode()}


def test_a_patch_that_is_already_in_is_said_as_such(tree: Path) -> None:
    new = FILE.replace("line 20\n", "line XX\n")
    (tree / "mm" / "x.c").write_text(new)
    with pytest.raises(UsageError, match=r"mm/x\.c already contains it"):
        apply(tree, diff(FILE, new))


def test_a_file_that_the_tree_lacks_is_named(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"the source tree has no drivers/gpu/y\.c"):
        apply(tree, diff(FILE, FILE.replace("line 5", "5"), "drivers/gpu/y.c"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("just words\n", "changes no file: is it a unified diff"),
        ("--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n", r"touches '\.\./x', which is outside"),
        ("--- /etc/x\n+++ /etc/x\n@@ -1 +1 @@\n-a\n+b\n", "does not apply: the source tree has no etc/x"),
        ("--- a//etc/x\n+++ b//etc/x\n@@ -1 +1 @@\n-a\n+b\n", "touches '/etc/x', which is outside"),
    ],
)
def test_what_is_no_patch_for_a_tree(tree: Path, text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        apply(tree, text)


def test_bodies_are_not_taken_for_headers() -> None:
    one = "--- a/one\n+++ b/one\n@@ -1,2 +1,2 @@\n--- a/body\n+++ b/body\n same\n"
    text = one + "--- a/two\n+++ b/two\n@@ -1 +1 @@\n-x\n+y\n"
    assert touched_files(text) == ("one", "two")
    assert touched_files("rename from old/name\nrename to new/name\n") == ("old/name", "new/name")


def test_a_patch_that_cannot_be_read(tree: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        overlay([tree / "none.patch"], lambda name: None, tree)
