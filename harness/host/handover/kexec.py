# SPDX-License-Identifier: GPL-2.0-only
"""From the running kernel straight into the next one: no firmware, no boot loader, nothing left on a disk.

kexec-tools where the host has them, else the program of ``harness/native/kexec``.  The next power cycle boots what the
host always boots.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from harness.errors import InfraError
from harness.host.handover.order import COPY_SECONDS, Order, has, has_systemd, restart
from harness.host.handover.running import Running
from harness.host.reach import Reach, ReachError, put_file, read_file
from harness.native.build import build_program

_PLACES: Final = ("/run", "/tmp", "/var/tmp", "/root")
_LOADED: Final = "/sys/kernel/kexec_loaded"
_RUNNABLE: Final = 0o755
_XLOADFLAGS: Final = 0x236
_ANYWHERE: Final = 2


def kexec_program() -> bytes:
    """The program for the host; raises ``BuildError``."""
    with tempfile.TemporaryDirectory(prefix="gmem-kexec-") as folder:
        return build_program("kexec", Path(folder)).read_bytes()


def load(reach: Reach, order: Order, before: Running, program: Callable[[], bytes] = kexec_program) -> tuple[str, ...]:
    """Put the kernel into the host's memory; returns the command that starts it.

    The files are removed again: the kernel has its own copy of them.  Raises ``InfraError`` with the kernel's reason.
    """
    words = order.command_line(before.command_line)
    if has(reach, "kexec"):
        _in_a_folder(reach, order, lambda folder, files: _with_tools(reach, folder, files, words))
        start: tuple[str, ...] = ("kexec", "-e")
    elif not _movable(order.image()):
        raise InfraError(
            f"{order.kernel.name} cannot be started by kexec: it cannot be moved; build it with CONFIG_RELOCATABLE, as "
            f"host-configs/fragments/kexec.config does"
        )
    else:
        start = _in_a_folder(reach, order, lambda folder, files: _with_ours(reach, folder, files, words, program()))
    loaded = (read_file(reach, _LOADED) or b"").strip()
    if loaded != b"1":
        raise InfraError(f"{reach.name}: {_LOADED} is {loaded.decode() or 'not there'} after the kernel was loaded")
    return ("systemctl", "kexec") if has_systemd(reach) else start


def go(reach: Reach, start: tuple[str, ...]) -> None:
    """Start the kernel that was loaded."""
    restart(reach, start)


def _in_a_folder(reach: Reach, order: Order, act: Callable[[str, bool], tuple[str, ...]]) -> tuple[str, ...]:
    """Call ``act`` with a folder that has ``bzImage``, and ``initrd`` if it is true; the first place that takes them.

    What ``act`` leaves in a folder of its own stays, the rest is removed.
    """
    image, initrd = order.image(), order.initrd_bytes()
    failed = "no folder there takes a kernel"
    for place in _PLACES:
        made = reach.run(["mktemp", "-d", f"{place}/gmem-kexec.XXXXXXXX"])
        folder = made.text.strip()
        if made.code or not folder.startswith(f"{place}/gmem-kexec."):
            continue
        try:
            put_file(reach, f"{folder}/bzImage", image, timeout=COPY_SECONDS)
            if initrd is not None:
                put_file(reach, f"{folder}/initrd", initrd, timeout=COPY_SECONDS)
            return act(folder, initrd is not None)
        except _NotHere as error:
            failed = str(error)
        except ReachError as error:
            failed = str(error)
        finally:
            reach.run(["rm", "-f", f"{folder}/bzImage", f"{folder}/initrd", f"{folder}/initrd.new"])
            reach.run(["rmdir", folder])
    raise InfraError(f"{reach.name}: the kernel cannot be loaded: {failed}")


def _movable(image: bytes) -> bool:
    """Whether kexec_file_load() takes it: XLF_CAN_BE_LOADED_ABOVE_4G in the header."""
    return len(image) > _XLOADFLAGS and bool(image[_XLOADFLAGS] & _ANYWHERE)


class _NotHere(Exception):
    """Programs cannot be run in this folder."""


def _with_tools(reach: Reach, folder: str, initrd: bool, words: str) -> tuple[str, ...]:
    """``-a``: by files where the kernel can do that (it has to under lockdown), else by segments."""
    files = [f"--initrd={folder}/initrd"] if initrd else []
    command = ["kexec", "-a", "-l", f"{folder}/bzImage", *files, f"--command-line={words}"]
    _checked(reach, command)
    return ()


def _with_ours(reach: Reach, folder: str, initrd: bool, words: str, program: bytes) -> tuple[str, ...]:
    tool = f"{folder}/gmem-kexec"
    put_file(reach, tool, program, mode=_RUNNABLE)
    if reach.run([tool]).code in (126, 127):  # a file system without exec; without arguments it only complains
        reach.run(["rm", "-f", tool])
        raise _NotHere(f"programs cannot be run in {folder}")
    try:
        _checked(reach, [tool, "load", f"{folder}/bzImage", f"{folder}/initrd" if initrd else "-", words])
    except InfraError:
        reach.run(["rm", "-f", tool])
        raise
    return (tool, "exec")


def _checked(reach: Reach, command: list[str]) -> None:
    done = reach.run(command, timeout=COPY_SECONDS)
    if done.code:
        raise InfraError(f"{reach.name}: the kernel cannot be loaded: {done.complaint}")
