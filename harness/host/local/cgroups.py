# SPDX-License-Identifier: GPL-2.0-only
"""Where on this machine a memory cgroup can be made, without changing how its cgroups are set up."""

from __future__ import annotations

import contextlib
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
NAME = "gmem-bare-"
"""Beginning of the names of our cgroups."""


def place(mounts: Path = MOUNTS) -> tuple[Path | None, str]:
    """The folder to make them in, or None; and a sentence on what it is, or why there is none.

    v2 where its root hands the memory controller to its children (no file of the hierarchy is written to for that), or
    the memory hierarchy of v1.
    """
    seen = "no cgroup hierarchy with the memory controller is mounted"
    for line in mounts.read_text().splitlines():
        _, folder, kind, options, *_ = line.split(" ")
        root = Path(folder)
        if kind == "cgroup" and "memory" in options.split(","):
            return root, f"memory hierarchy of cgroup v1 in {root}"
        if kind == "cgroup2":
            if "memory" in _words(root / "cgroup.subtree_control"):
                return root, f"cgroup v2 in {root}"
            if "memory" in _words(root / "cgroup.controllers"):
                seen = f"{root}/cgroup.subtree_control does not hand the memory controller to its children"
    return None, seen


def sweep(folder: Path) -> None:
    """Remove cgroups of runs that are no more; gmem-bare removes its own unless it is killed itself."""
    for path in folder.glob(f"{NAME}*"):
        owner = path.name.removeprefix(NAME).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(OSError):  # somebody is in it: then it is not ours to remove
                path.rmdir()


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
