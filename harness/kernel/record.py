# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that is ready to boot, and everything that identifies it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kernel:
    """One bootable kernel; made by :class:`harness.kernel.store.KernelStore`."""

    # What the user called it: a name of kernels.yaml, or the path of a tree or an image.
    name: str
    # The bzImage, inside the cache.
    image: Path
    # As "uname -r" prints it, e.g. "7.3.4".
    release: str
    # As "uname -v" prints it, e.g. "#1 SMP PREEMPT_LAZY Thu Jan  1 00:00:00 UTC 1970".
    version: str
    # SHA-256 of the configuration, hexadecimal; "" when the configuration is not known.
    config_hash: str
    # The configuration; None for an image without one beside it.
    config: Path | None
    # File names of the patches, in the order in which they were applied.
    patches: tuple[str, ...]
    # Where it comes from, as a phrase: "Debian package linux-source-7.3 7.3.4-1~bpo13+1 (trixie-backports)".
    origin: str
    # The O= folder that this and related kernels are built in; None for an image.
    build_dir: Path | None
    # The source tree; None for an image.  A cached tree may at this moment hold the patches of a related kernel.
    source: Path | None
    # Identifies source, configuration, patches and compiler; its first 16 digits stand in /proc/version of the booted
    # kernel as the name of the build host (not for an image, which was built elsewhere).
    key: str
    # Commit (40 digits) and branch that a tree with git had checked out; "" for all others.
    commit: str = ""
    branch: str = ""

    def describe(self) -> dict[str, object]:
        """The record as plain values for ``run.json`` and ``--json``; paths as text."""
        return {
            "branch": self.branch,
            "build_dir": None if self.build_dir is None else str(self.build_dir),
            "commit": self.commit,
            "config": None if self.config is None else str(self.config),
            "config_hash": self.config_hash,
            "image": str(self.image),
            "key": self.key,
            "name": self.name,
            "origin": self.origin,
            "patches": list(self.patches),
            "release": self.release,
            "source": None if self.source is None else str(self.source),
            "version": self.version,
        }
