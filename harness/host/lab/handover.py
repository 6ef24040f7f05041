# SPDX-License-Identifier: GPL-2.0-only
"""What an emulated host needs to be reached by SSH again after a kexec: its image, with the keys that it has now."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from harness.errors import InfraError
from harness.host.emulated.reach import HOST
from harness.host.emulated.state import TestbedState
from harness.host.lab.find import Found
from harness.images.initramfs import Tree, pack


def write_initrd(found: Found) -> Path:
    """``initrd`` in the testbed's folder; raises ``InfraError``.

    Two archives, one behind the other: the kernel unpacks both.  ``gmem.net=1`` on the command line makes ``/init``
    start network and SSH server.
    """
    keys = TestbedState.load(found.place.state).keys()
    out = found.place.folder / "initrd"
    with tempfile.TemporaryDirectory(prefix="gmem-keys-") as name:
        scratch = Path(name)
        host_key, users = scratch / "host_key", scratch / "authorized_keys"
        host_key.write_bytes(keys.machines[HOST].dropbear())
        users.write_text(keys.user.public + "\n")
        pack(
            Tree({"/etc/dropbear/host_key": host_key, "/root/.ssh/authorized_keys": users}, folders=("/root",)),
            scratch / "keys.cpio",
        )
        try:
            with out.open("wb") as whole:
                out.chmod(0o600)
                for part in (Path(found.record.plan.initrd), scratch / "keys.cpio"):
                    with part.open("rb") as stream:
                        shutil.copyfileobj(stream, whole)
        except OSError as error:
            raise InfraError(f"{out} cannot be written: {error.strerror}") from error
    return out
