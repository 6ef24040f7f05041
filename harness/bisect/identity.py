# SPDX-License-Identifier: GPL-2.0-only
"""When two kernels are one: what differs is only what they are called.

The harness builds reproducibly: one time, one user, one build number.  The name of the build host is the key of the
source, so that a running kernel can be told; it has a fixed length and moves nothing.  Without it, and without the
build id that the linker made of everything, commits that change comments only make the same vmlinux.  A line added
above a WARN() makes another: its line number is in it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.errors import InfraError
from harness.kernel.buildid import of_image, vmlinux_of


def identity(image: Path, mark: str) -> str:
    """SHA-256 of the vmlinux in a bzImage without ``mark`` (the build host's name) and build id.

    An image whose payload cannot be read stands for itself, as a whole.
    """
    try:
        content = vmlinux_of(image)
        build_id = bytes.fromhex(of_image(image).value)
    except InfraError:
        content, build_id = image.read_bytes(), b""
    content = content.replace(mark.encode(), bytes(len(mark))) if mark else content
    content = content.replace(build_id, bytes(len(build_id))) if build_id else content
    return hashlib.sha256(content).hexdigest()
