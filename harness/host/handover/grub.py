# SPDX-License-Identifier: GPL-2.0-only
"""An entry of GRUB that is booted once: ``grub-reboot`` names it for the next start, every later one is as before.

The entry stands between two marks in ``custom.cfg``, which GRUB's own menu reads (``/etc/grub.d/41_custom``), so that
nobody's menu has to be made anew.  Written from GRUB's sources, and not yet seen on a machine.
"""

from __future__ import annotations

import re
from typing import Final

from harness.errors import InfraError
from harness.host.handover.order import COPY_SECONDS, Order, has
from harness.host.handover.running import Running
from harness.host.reach import Reach, check, put_file, read_file

ENTRY: Final = "gmem-handover"
IMAGE: Final = "/boot/vmlinuz-gmem-handover"
INITRD: Final = "/boot/initrd.img-gmem-handover"
_BEGIN: Final = "# gmem-handover: begin\n"
_END: Final = "# gmem-handover: end\n"
_FOLDERS: Final = {"grub-reboot": "/boot/grub", "grub2-reboot": "/boot/grub2"}
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:,=@%+\-]+")


def install(reach: Reach, order: Order, before: Running) -> None:
    """Put the kernel and its entry there, and choose it for the next start; raises ``InfraError``."""
    tool = next((name for name in _FOLDERS if has(reach, name)), None)
    if tool is None:
        raise InfraError(f"{reach.name} has no grub-reboot: apt-get install grub2-common there, or use another --how")
    folder = _FOLDERS[tool]
    menu = read_file(reach, f"{folder}/grub.cfg")
    if menu is None or b"custom.cfg" not in menu:
        raise InfraError(
            f"{reach.name}: {folder}/grub.cfg does not read custom.cfg: restore /etc/grub.d/41_custom and run "
            f"update-grub there"
        )
    prefix = tool.removesuffix("-reboot")
    uuid = check(reach, [f"{prefix}-probe", "--target=fs_uuid", "/boot"]).strip()
    put_file(reach, IMAGE, order.image(), timeout=COPY_SECONDS)
    initrd = order.initrd_bytes()
    if initrd is not None:
        put_file(reach, INITRD, initrd, timeout=COPY_SECONDS)
    paths = [check(reach, [f"{prefix}-mkrelpath", path]).strip() for path in (IMAGE, *([INITRD] if initrd else []))]
    text = entry(uuid, paths[0], paths[1] if initrd else None, order.command_line(before.command_line))
    custom = f"{folder}/custom.cfg"
    now = (read_file(reach, custom) or b"").decode("utf-8", "surrogateescape")
    put_file(reach, custom, with_entry(now, text).encode("utf-8", "surrogateescape"))
    check(reach, ["sync"])
    check(reach, [tool, ENTRY])


def entry(uuid: str, image: str, initrd: str | None, command_line: str) -> str:
    """The entry of the menu."""
    words = " ".join(word if _PLAIN.fullmatch(word) else _quoted(word) for word in command_line.split())
    lines = [
        f"menuentry '{ENTRY}' --id {ENTRY} {{",
        f"    search --no-floppy --fs-uuid --set=root {uuid}",
        f"    linux {image} {words}".rstrip(),
        *([f"    initrd {initrd}"] if initrd else []),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def with_entry(custom: str, text: str) -> str:
    """The text of ``custom.cfg`` with the entry between our marks, once, and with everything else as it was."""
    head, begin, rest = custom.partition(_BEGIN)
    tail = rest.partition(_END)[2] if begin else ""
    gap = "" if not head or head.endswith("\n") else "\n"
    return f"{head}{gap}{_BEGIN}{text}{_END}{tail}"
