# SPDX-License-Identifier: GPL-2.0-only
"""Applies patches to copies of the files they touch, so that a patch that fails has changed nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from harness.errors import UsageError
from harness.kernel.commands import run

PATCH_SECONDS = 120.0

# What the patched files shall contain: path relative to the tree -> content, None when the patches remove the file.
Overlay = dict[str, bytes | None]

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


def touched_files(text: str) -> tuple[str, ...]:
    """Paths (without the first component, as ``-p1``) that a unified diff reads or writes, in order.

    Bodies of hunks are skipped by their counted length, so that a removed line ``-- x`` is not taken for a header.
    """
    found: dict[str, None] = {}
    left_old = left_new = 0
    for line in text.splitlines():
        if left_old > 0 or left_new > 0:
            left_old -= line[:1] in (" ", "-", "")
            left_new -= line[:1] in (" ", "+", "")
            continue
        if match := _HUNK.match(line):
            left_old, left_new = (1 if count is None else int(count) for count in match.groups())
        elif line.startswith(("--- ", "+++ ")):
            name = line[4:].split("\t")[0].strip()
            if name != "/dev/null":
                found[name.partition("/")[2]] = None
        elif match := re.match(r"(?:rename|copy) (?:from|to) (.+)", line):
            found[match[1]] = None
    return tuple(found)


def overlay(patches: Sequence[Path], pristine: Callable[[str], Path | None], scratch: Path) -> Overlay:
    """The content that the patches, applied in order, give to every file they touch.

    ``pristine`` maps a path of the tree to a file with its unpatched content (None: the tree has no such file).
    ``scratch`` is an empty folder to work in.  Raises :class:`UsageError` naming the patch, the file and the hunk.
    """
    touched: dict[str, None] = {}
    for patch in patches:
        names = touched_files(_read(patch))
        if not names:
            raise UsageError(f"the patch {patch} changes no file: is it a unified diff?")
        for name in names:
            if name.startswith("/") or ".." in PurePosixPath(name).parts or not name:
                raise UsageError(f"the patch {patch} touches {name!r}, which is outside the source tree")
            if name not in touched:
                touched[name] = None
                original = pristine(name)
                if original is not None:
                    (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(original, scratch / name)
        _apply(patch, scratch)
    return {name: (scratch / name).read_bytes() if (scratch / name).is_file() else None for name in touched}


def _read(patch: Path) -> str:
    try:
        return patch.read_text(errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"the patch {patch} cannot be read: {error.strerror}") from error


def _apply(patch: Path, folder: Path) -> None:
    """``patch -p1`` without fuzz: a hunk in the wrong place would give a verdict on a kernel nobody meant."""
    argv: list[str | Path] = ["patch", "-p1", "--fuzz=0", "--forward", "--no-backup-if-mismatch", "--reject-file=-"]
    argv += ["-i", patch.absolute()]
    done = run(argv, cwd=folder, timeout=PATCH_SECONDS, tail_lines=400)
    if done.code == 0:
        return
    where = ""
    for line in done.tail:
        if match := re.match(r"patching file '?([^'(]+?)'?(?: \(.*\))?$", line):
            where = match[1]
        elif match := re.match(r"Hunk #(\d+) FAILED at (\d+)", line):
            raise UsageError(
                f"the patch {patch} does not apply: hunk {match[1]} for {where} (line {match[2]}) "
                f"finds other text there; rebase it on this kernel"
            )
        elif line.startswith("Reversed (or previously applied) patch detected"):
            raise UsageError(f"the patch {patch} does not apply: {where} already contains it")
        elif line.startswith("can't find file to patch"):
            break
    missing = [name for name in touched_files(_read(patch)) if not (folder / name).exists()]
    if missing:
        raise UsageError(
            f"the patch {patch} does not apply: the source tree has no {missing[0]} "
            f"(drivers, sound and other architectures are not unpacked)"
        )
    raise UsageError(f"the patch {patch} does not apply: {done.tail[-1] if done.tail else 'patch failed'}")
